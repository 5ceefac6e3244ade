//! Media files, stored once by content, and the sweep that removes unreferenced ones.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;

use relevo_domain::{BlobRef, Timestamp};

use super::data_folder::write_durably;
use super::{DataFolder, Error};

/// Number of bytes of a file that are hashed at once.
const HASH_CHUNK: usize = 64 << 10;

/// Media files of accepted messages, named by their SHA-256, in two levels of folders.
///
/// There are no reference counts. [`sweep`](Self::sweep) removes files that no record references and that were not put
/// recently; until then unreferenced files stay, also after a crash.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: PathBuf,
    /// Held while an existing file is either touched or removed, so that `put` never returns a file that the sweep is
    /// removing.
    files_lock: Arc<Mutex<()>>,
}

/// The set of referenced blobs. It holds eight bytes of each name; when two blobs share them, both are retained, which
/// is harmless.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct BlobSet(HashSet<u64>);

impl BlobSet {
    /// Adds a referenced blob.
    pub fn insert(&mut self, blob: &BlobRef) {
        self.0.extend(name_prefix(&blob.sha256));
    }

    fn contains(&self, sha256: &str) -> bool {
        name_prefix(sha256).is_some_and(|start| self.0.contains(&start))
    }
}

/// The first eight bytes of a file name.
fn name_prefix(sha256: &str) -> Option<u64> {
    u64::from_str_radix(sha256.get(..16)?, 16).ok()
}

/// Files that a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Number of removed files.
    pub files: u64,
    /// Their sizes, summed.
    pub bytes: u64,
}

impl Blobs {
    /// Opens the folder of blobs, and creates it if needed.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be created.
    pub fn open(folder: &DataFolder) -> Result<Self, Error> {
        let root = folder.path().join("blobs");
        std::fs::create_dir_all(&root).map_err(|cause| Error::io("cannot create", &root, cause))?;
        Ok(Self { root, files_lock: Arc::default() })
    }

    /// Stores `bytes` durably. Stores the same content only once.
    ///
    /// # Errors
    /// [`Error::Io`] when the file system refuses.
    pub async fn put(&self, bytes: Bytes, mime: &str) -> Result<BlobRef, Error> {
        let (blobs, mime) = (self.clone(), mime.to_owned());
        let task = tokio::task::spawn_blocking(move || blobs.put_blocking(&bytes, mime));
        task.await.unwrap_or(Err(Error::Panicked))
    }

    /// Reads a stored blob.
    ///
    /// # Errors
    /// [`Error::DamagedFile`] when its contents are not those that were put, [`Error::Io`] when the file does not exist or
    /// cannot be read.
    pub async fn get(&self, blob: &BlobRef) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        let mut file = self.file(blob).await?;
        match file.read_to_end(&mut bytes).await {
            Ok(_) => Ok(Bytes::from(bytes)),
            Err(cause) => Err(Error::io("cannot read", blob_path(&self.root, &blob.sha256), cause)),
        }
    }

    /// Opens the file of a stored blob, for streaming. Reads it once before, to check it: no part of a damaged file is ever
    /// sent.
    ///
    /// # Errors
    /// [`Error::DamagedFile`] when its contents are not those that were put, [`Error::Io`] when the file does not exist or
    /// cannot be read.
    pub async fn file(&self, blob: &BlobRef) -> Result<tokio::fs::File, Error> {
        let (path, sha256) = (blob_path(&self.root, &blob.sha256), blob.sha256.clone());
        let task = tokio::task::spawn_blocking(move || {
            let opened = fs::File::open(&path).and_then(|mut file| {
                let found = hash_file(&mut file)?;
                file.rewind()?;
                Ok((file, found))
            });
            match opened {
                Ok((file, found)) if found == sha256 => Ok(tokio::fs::File::from_std(file)),
                Ok(_) => {
                    tracing::error!(path = %path.display(), "media file damaged on the disk");
                    Err(Error::DamagedFile { path })
                }
                Err(cause) => Err(Error::io("cannot read", path, cause)),
            }
        });
        task.await.unwrap_or(Err(Error::Panicked))
    }

    /// Removes every file that is not in `referenced` and was last put before `before`. Blocks; takes longer with more
    /// files.
    ///
    /// The caller collects `referenced` before the call. `before` must leave every caller of [`put`](Self::put) the time
    /// to commit the record that references its file.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be listed or a file cannot be removed.
    pub fn sweep(&self, referenced: &BlobSet, before: Timestamp) -> Result<SweepReport, Error> {
        let before = UNIX_EPOCH + Duration::from_millis(before.millis());
        let mut report = SweepReport::default();
        for folder in list_dir(&self.root)? {
            if !folder.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            for entry in list_dir(&folder.path())? {
                // Temporary files of a crash have other names and are never referenced, so they are removed as well.
                if entry.file_name().to_str().is_some_and(|name| referenced.contains(name)) {
                    continue;
                }
                let _files = self.lock_files();
                let Ok(file) = entry.metadata() else { continue };
                if file.is_file() && file.modified().is_ok_and(|modified| modified < before) {
                    fs::remove_file(entry.path())
                        .map_err(|cause| Error::io("cannot remove", entry.path(), cause))?;
                    report.files += 1;
                    report.bytes += file.len();
                }
            }
        }
        Ok(report)
    }

    fn put_blocking(&self, bytes: &[u8], mime: String) -> Result<BlobRef, Error> {
        let root = &self.root;
        let sha256 = hex(&Sha256::digest(bytes));
        let path = blob_path(root, &sha256);
        let size = bytes.len() as u64;
        let folder = path.parent().unwrap_or(root);
        let sync = |folder: &Path| fs::File::open(folder)?.sync_all();
        let stored = if self.touch(&path, &sha256) {
            // The concurrent `put` that wrote the file may not have synced its folder yet.
            sync(folder).and_then(|()| sync(root))
        } else {
            fs::create_dir_all(folder).and_then(|()| sync(root)).and_then(|()| write_durably(&path, bytes))
        };
        stored.map_err(|cause| Error::io("cannot write", &path, cause))?;
        Ok(BlobRef { sha256, size, mime })
    }

    /// Sets the modification time of an existing undamaged file to now, and returns whether there is one. A damaged one is
    /// then replaced.
    fn touch(&self, path: &Path, sha256: &str) -> bool {
        let _files = self.lock_files();
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let now = Timestamps { last_access: now, last_modification: now };
        let file = fs::File::open(path);
        file.is_ok_and(|mut file| {
            hash_file(&mut file).is_ok_and(|found| found == sha256) && futimens(&file, &now).is_ok()
        })
    }

    fn lock_files(&self) -> MutexGuard<'_, ()> {
        self.files_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list_dir(folder: &Path) -> Result<impl Iterator<Item = fs::DirEntry>, Error> {
    let entries = fs::read_dir(folder).map_err(|cause| Error::io("cannot read", folder, cause))?;
    Ok(entries.flatten())
}

fn blob_path(root: &Path, sha256: &str) -> PathBuf {
    root.join(sha256.get(..2).unwrap_or("00")).join(sha256)
}

/// The SHA-256 of a file's contents.
fn hash_file(file: &mut fs::File) -> std::io::Result<String> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; HASH_CHUNK]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn damaged_blob_is_an_error_and_is_replaced_by_the_next_put() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&DataFolder::open(dir.path()).unwrap()).unwrap();
        let contents = || Bytes::from(vec![7; 3 * HASH_CHUNK / 2]);
        let blob = blobs.put(contents(), "image/png").await.unwrap();
        let path = blob_path(&blobs.root, &blob.sha256);
        let mut damaged = contents().to_vec();
        damaged[HASH_CHUNK + 1] ^= 1;
        fs::write(&path, damaged).unwrap();
        for read in [blobs.get(&blob).await.map(drop), blobs.file(&blob).await.map(drop)] {
            assert!(matches!(read, Err(Error::DamagedFile { .. })), "{read:?}");
        }
        assert_eq!(blobs.put(contents(), "image/png").await.unwrap(), blob);
        assert_eq!(blobs.get(&blob).await.unwrap(), contents());
    }

    #[tokio::test]
    async fn same_content_is_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let blobs = Blobs::open(&folder).unwrap();
        let first = blobs.put(Bytes::from_static(b"hola"), "text/plain").await.unwrap();
        let again = blobs.put(Bytes::from_static(b"hola"), "text/plain").await.unwrap();
        assert_eq!(first, again);
        assert_eq!(first.sha256, "b221d9dbb083a7f33428d7c2a3c3198ae925614d70210e28716ccaa7cd4ddb79");
        assert_eq!(blobs.get(&first).await.unwrap(), &b"hola"[..]);
    }

    #[tokio::test]
    async fn sweep_removes_old_unreferenced_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&DataFolder::open(dir.path()).unwrap()).unwrap();
        let mut put = Vec::new();
        for content in ["referenced", "unreferenced", "put again", "recent"] {
            put.push(blobs.put(Bytes::from(content), "text/plain").await.unwrap());
        }
        let path = |blob: &BlobRef| blob_path(&blobs.root, &blob.sha256);
        let day = Duration::from_secs(24 * 3600);
        let made = fs::metadata(path(&put[3])).unwrap().modified().unwrap();
        for blob in &put[..3] {
            fs::File::options().write(true).open(path(blob)).unwrap().set_modified(made - day).unwrap();
        }
        let draft = path(&put[0]).with_file_name(".draft-1");
        fs::File::create(&draft).unwrap().set_modified(made - day).unwrap();
        let mut referenced = BlobSet::default();
        referenced.insert(&put[0]);
        assert_eq!(blobs.put(Bytes::from("put again"), "text/plain").await.unwrap(), put[2]);

        let hour_ago = (made - Duration::from_secs(3600)).duration_since(UNIX_EPOCH).unwrap();
        let before = Timestamp(u64::try_from(hour_ago.as_millis()).unwrap());
        assert_eq!(blobs.sweep(&referenced, before).unwrap(), SweepReport { files: 2, bytes: 12 });
        let exists: Vec<bool> = put.iter().map(|blob| path(blob).exists()).collect();
        assert_eq!(exists, [true, false, true, true]);
        assert!(!draft.exists());
        // Removed content can be put again.
        blobs.put(Bytes::from("unreferenced"), "text/plain").await.unwrap();
        assert_eq!(blobs.get(&put[1]).await.unwrap(), "unreferenced");
    }
}
