//! The folder of downloaded files.
//!
//! A file consists of the content, the encoded [`FileMetadata`], and the length of the metadata in four bytes. Content
//! and metadata are one file, so that both exist or neither does. The content begins at byte 0.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::partial_file::PartialFile;
use super::sha256::Sha256Digest;
use relevo_domain::{InstanceNumber, Timestamp};
use relevo_store::{self as store, DataFolder, Error};

/// Bytes of one read.
const CHUNK_SIZE: usize = 64 << 10;

/// Maximum size of the encoded metadata, in bytes.
const MAX_METADATA_BYTES: u64 = 4096;

/// Disk space that the smallest file counts as, because file systems allocate whole blocks. It also bounds the number of
/// files.
const BLOCK_SIZE: u64 = 4096;

/// Metadata of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileMetadata {
    pub mime: String,
    pub sha256: Sha256Digest,
}

/// A complete, checked file. Cheap to clone. It can be read even after the cache has deleted it.
#[derive(Debug, Clone)]
pub struct MediaFile {
    content: Arc<fs::File>,
    metadata: Arc<FileMetadata>,
    size: u64,
}

impl MediaFile {
    /// The MIME type that WhatsApp reports, for example `image/jpeg`.
    pub fn mime(&self) -> &str {
        &self.metadata.mime
    }

    /// SHA-256 in lowercase hexadecimal.
    pub fn sha256(&self) -> String {
        self.metadata.sha256.to_string()
    }

    /// Size of the content, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes in `range` as a stream, which reads a chunk from the disk when it is polled.
    pub fn read(&self, range: Range<u64>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
        let end = range.end.min(self.size);
        stream::try_unfold((self.content.clone(), range.start), move |(content, at)| async move {
            let wanted = usize::try_from(end.saturating_sub(at)).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE);
            if wanted == 0 {
                return Ok(None);
            }
            let reading = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; wanted];
                content.read_exact_at(&mut chunk, at).map(|()| (chunk, content))
            });
            let (chunk, content) = reading.await.map_err(std::io::Error::other)??;
            Ok(Some((Bytes::from(chunk), (content, at + wanted as u64))))
        })
    }
}

/// Key of a file: a hash of instance and media id, because only that instance may fetch the media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileKey([u8; 16]);

impl FileKey {
    pub fn new(instance: InstanceNumber, media_id: &str) -> Self {
        let hash = Sha256::new().chain_update(instance.get().to_be_bytes()).chain_update(media_id);
        let digest: [u8; 32] = hash.finalize().into();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }

    fn parse(text: &str) -> Option<Self> {
        let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
        Some(Self(number.to_be_bytes()))
    }

    fn text(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The folder, and its size.
#[derive(Debug)]
pub(super) struct DiskCache {
    files_dir: PathBuf,
    partial_dir: PathBuf,
    /// The name of the next partial file.
    next_partial: AtomicU64,
    /// Bytes of all files: those of the last sweep, and those that were added since.
    total_bytes: AtomicU64,
}

impl DiskCache {
    /// Opens the folder and removes the partial files of earlier runs.
    ///
    /// # Errors
    ///
    /// The folder cannot be created or read, or a partial file cannot be removed.
    pub fn open(folder: &DataFolder) -> Result<Self, Error> {
        let root = folder.path().join("inbound-media");
        let (files, partials) = (root.join("files"), root.join("drafts"));
        for folder in [&files, &partials] {
            fs::create_dir_all(folder).map_err(|cause| Error::io("cannot create", folder, cause))?;
        }
        let unfinished =
            fs::read_dir(&partials).map_err(|cause| Error::io("cannot read", &partials, cause))?;
        for partial in unfinished.flatten() {
            fs::remove_file(partial.path())
                .map_err(|cause| Error::io("cannot remove", partial.path(), cause))?;
        }
        Ok(Self {
            files_dir: files,
            partial_dir: partials,
            next_partial: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
        })
    }

    /// The file of a key, if it exists. Removes a file that cannot be read. Blocks.
    pub fn find(&self, key: FileKey) -> Option<MediaFile> {
        let path = self.path(key);
        let found = fs::File::open(&path).and_then(read_metadata);
        match found {
            Ok(file) => Some(file),
            Err(cause) if cause.kind() == ErrorKind::NotFound => None,
            Err(cause) => {
                tracing::warn!(path = %path.display(), %cause, "cached media file unreadable; removed");
                let _ = fs::remove_file(path);
                None
            }
        }
    }

    /// Creates a partial file. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be created.
    pub fn create_partial(&self) -> Result<PartialFile, Error> {
        let path = self.partial_dir.join(self.next_partial.fetch_add(1, Ordering::Relaxed).to_string());
        PartialFile::create(path)
    }

    /// Completes a partial file and gives it its final name, with the modification time `now`. Blocks.
    ///
    /// # Errors
    ///
    /// The file cannot be written, synced or renamed.
    pub fn insert(
        &self,
        key: FileKey,
        partial: PartialFile,
        mime: String,
        now: Timestamp,
    ) -> Result<MediaFile, Error> {
        let metadata = FileMetadata { mime, sha256: partial.digest() };
        let mut trailer = store::encode(&metadata)?;
        let length = u32::try_from(trailer.len()).unwrap_or(u32::MAX);
        trailer.extend_from_slice(&length.to_be_bytes());
        let modified = UNIX_EPOCH + Duration::from_millis(now.millis());
        let (content, size) = partial.finish(&trailer, modified, &self.path(key))?;
        self.total_bytes.fetch_add(size_on_disk(size + trailer.len() as u64), Ordering::Relaxed);
        Ok(MediaFile { content: Arc::new(content), metadata: Arc::new(metadata), size })
    }

    /// Whether the files have more than `max_bytes`.
    pub fn exceeds(&self, max_bytes: u64) -> bool {
        self.total_bytes.load(Ordering::Relaxed) > max_bytes
    }

    /// Deletes the files from before `before`. If the rest has more than `max_bytes`, deletes the oldest ones down to nine
    /// tenths of it, so that not every new file causes a sweep. Recounts the size. Blocks for a time that grows with the
    /// number of files.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn sweep(&self, before: Timestamp, max_bytes: u64) -> Result<(), Error> {
        let entries = fs::read_dir(&self.files_dir)
            .map_err(|cause| Error::io("cannot read", &self.files_dir, cause))?;
        let mut kept: Vec<(Timestamp, u64, FileKey)> = Vec::new();
        for entry in entries.flatten() {
            let found =
                entry.metadata().ok().and_then(|file| Some((modified_at(&file)?, size_on_disk(file.len()))));
            match (found, entry.file_name().to_str().and_then(FileKey::parse)) {
                (Some((at, size)), Some(key)) if at >= before => kept.push((at, size, key)),
                (Some(_), _) => remove(&entry.path()),
                // The file was removed during the sweep.
                (None, _) => {}
            }
        }
        let mut total: u64 = kept.iter().map(|(_, size, _)| size).sum();
        if total > max_bytes {
            kept.sort_unstable_by_key(|(at, ..)| *at);
            for (_, size, key) in kept {
                if total <= max_bytes - max_bytes / 10 {
                    break;
                }
                remove(&self.path(key));
                total -= size;
            }
        }
        self.total_bytes.store(total, Ordering::Relaxed);
        Ok(())
    }

    fn path(&self, key: FileKey) -> PathBuf {
        self.files_dir.join(key.text())
    }
}

fn read_metadata(content: fs::File) -> std::io::Result<MediaFile> {
    let invalid = || std::io::Error::new(ErrorKind::InvalidData, "its metadata trailer is invalid");
    let file_size = content.metadata()?.len();
    let end = file_size.checked_sub(4).ok_or_else(invalid)?;
    let mut length = [0; 4];
    content.read_exact_at(&mut length, end)?;
    let length = u64::from(u32::from_be_bytes(length));
    let size = end.checked_sub(length).filter(|_| length <= MAX_METADATA_BYTES).ok_or_else(invalid)?;
    let mut metadata = vec![0; usize::try_from(length).map_err(|_| invalid())?];
    content.read_exact_at(&mut metadata, size)?;
    let metadata = store::decode(&metadata).map_err(|_| invalid())?;
    Ok(MediaFile { content: Arc::new(content), metadata: Arc::new(metadata), size })
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %cause, "cached media file could not be removed");
        }
        _ => {}
    }
}

fn modified_at(file: &fs::Metadata) -> Option<Timestamp> {
    let since = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp(u64::try_from(since.as_millis()).ok()?))
}

fn size_on_disk(size: u64) -> u64 {
    size.max(BLOCK_SIZE)
}
