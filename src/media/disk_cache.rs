//! The folder of fetched files.
//!
//! A file holds the bytes as they came, then what is known about them, then the length of that in four bytes: it is
//! one file, so that it is there whole or not at all, and its content begins at its beginning.

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

/// Bytes that are read from the disk at a time.
const CHUNK_SIZE: usize = 64 << 10;

/// The longest that may be known about a file, in bytes.
const MAX_METADATA_BYTES: u64 = 4096;

/// What the smallest file costs: file systems give out whole blocks. Bounds the number of files, too.
const BLOCK_SIZE: u64 = 4096;

/// What is known about a fetched file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileMetadata {
    pub mime: String,
    pub sha256: Sha256Digest,
}

/// A fetched file, whole and checked. Cheap to clone; it can be read even after the shelf let go of it.
#[derive(Debug, Clone)]
pub struct MediaFile {
    content: Arc<fs::File>,
    metadata: Arc<FileMetadata>,
    size: u64,
}

impl MediaFile {
    /// For example `image/jpeg`, as WhatsApp says.
    pub fn mime(&self) -> &str {
        &self.metadata.mime
    }

    /// SHA-256 in lowercase hexadecimal.
    pub fn sha256(&self) -> String {
        self.metadata.sha256.to_string()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes in `range`, piece by piece, read from the disk as they are wanted.
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

/// A file's place: the media of one instance, which only that instance may fetch.
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

/// The folder, and how full it is.
#[derive(Debug)]
pub(super) struct DiskCache {
    files_dir: PathBuf,
    partial_dir: PathBuf,
    /// Bytes, as far as they were counted.
    total_bytes: AtomicU64,
}

impl DiskCache {
    /// Opens the shelf and removes what an earlier run did not finish.
    pub fn open(folder: &DataFolder) -> Result<Self, Error> {
        let root = folder.path().join("inbound-media");
        let (files, drafts) = (root.join("files"), root.join("drafts"));
        for folder in [&files, &drafts] {
            fs::create_dir_all(folder).map_err(|cause| Error::io("cannot create", folder, cause))?;
        }
        let unfinished = fs::read_dir(&drafts).map_err(|cause| Error::io("cannot read", &drafts, cause))?;
        for draft in unfinished.flatten() {
            fs::remove_file(draft.path()).map_err(|cause| Error::io("cannot remove", draft.path(), cause))?;
        }
        Ok(Self { files_dir: files, partial_dir: drafts, total_bytes: AtomicU64::new(0) })
    }

    /// A file that was fetched before. One that cannot be read is as good as none. Blocks.
    pub fn find(&self, name: FileKey) -> Option<MediaFile> {
        let path = self.path(name);
        let found = fs::File::open(&path).and_then(read_metadata);
        match found {
            Ok(file) => Some(file),
            Err(cause) if cause.kind() == ErrorKind::NotFound => None,
            Err(cause) => {
                tracing::warn!(path = %path.display(), %cause, "a fetched file is not readable; it is removed");
                let _ = fs::remove_file(path);
                None
            }
        }
    }

    /// A new file in the making. Blocks.
    pub fn create_partial(&self) -> Result<PartialFile, Error> {
        let path = self.partial_dir.join(uuid::Uuid::new_v4().as_simple().to_string());
        PartialFile::create(path)
    }

    /// Puts a finished draft in its place, dated `now`. Blocks.
    pub fn insert(
        &self,
        name: FileKey,
        draft: PartialFile,
        mime: String,
        now: Timestamp,
    ) -> Result<MediaFile, Error> {
        let label = FileMetadata { mime, sha256: draft.digest() };
        let mut trailer = store::encode(&label)?;
        let length = u32::try_from(trailer.len()).unwrap_or(u32::MAX);
        trailer.extend_from_slice(&length.to_be_bytes());
        let moment = UNIX_EPOCH + Duration::from_millis(now.millis());
        let (content, size) = draft.finish(&trailer, moment, &self.path(name))?;
        self.total_bytes.fetch_add(size_on_disk(size + trailer.len() as u64), Ordering::Relaxed);
        Ok(MediaFile { content: Arc::new(content), metadata: Arc::new(label), size })
    }

    /// Whether more is kept than may be, as far as it was counted.
    pub fn exceeds(&self, max_bytes: u64) -> bool {
        self.total_bytes.load(Ordering::Relaxed) > max_bytes
    }

    /// Removes what is older than `before`, and then the oldest if there is more than `max_bytes`: down to nine
    /// tenths of it, so that this is not called for every file. Counts anew. Blocks, for as long as the folder is
    /// large.
    pub fn sweep(&self, before: Timestamp, max_bytes: u64) -> Result<(), Error> {
        let entries = fs::read_dir(&self.files_dir)
            .map_err(|cause| Error::io("cannot read", &self.files_dir, cause))?;
        let mut kept: Vec<(Timestamp, u64, FileKey)> = Vec::new();
        for entry in entries.flatten() {
            let found =
                entry.metadata().ok().and_then(|file| Some((modified_at(&file)?, size_on_disk(file.len()))));
            match (found, entry.file_name().to_str().and_then(FileKey::parse)) {
                (Some((at, size)), Some(name)) if at >= before => kept.push((at, size, name)),
                (Some(_), _) => remove(&entry.path()),
                // It was removed while this looked.
                (None, _) => {}
            }
        }
        let mut held: u64 = kept.iter().map(|(_, size, _)| size).sum();
        if held > max_bytes {
            kept.sort_unstable_by_key(|(at, ..)| *at);
            for (_, size, name) in kept {
                if held <= max_bytes - max_bytes / 10 {
                    break;
                }
                remove(&self.path(name));
                held -= size;
            }
        }
        self.total_bytes.store(held, Ordering::Relaxed);
        Ok(())
    }

    fn path(&self, name: FileKey) -> PathBuf {
        self.files_dir.join(name.text())
    }
}

fn read_metadata(content: fs::File) -> std::io::Result<MediaFile> {
    let wrong = || std::io::Error::new(ErrorKind::InvalidData, "it does not end as it should");
    let total = content.metadata()?.len();
    let end = total.checked_sub(4).ok_or_else(wrong)?;
    let mut length = [0; 4];
    content.read_exact_at(&mut length, end)?;
    let length = u64::from(u32::from_be_bytes(length));
    let size = end.checked_sub(length).filter(|_| length <= MAX_METADATA_BYTES).ok_or_else(wrong)?;
    let mut label = vec![0; usize::try_from(length).map_err(|_| wrong())?];
    content.read_exact_at(&mut label, size)?;
    let label = store::decode(&label).map_err(|_| wrong())?;
    Ok(MediaFile { content: Arc::new(content), metadata: Arc::new(label), size })
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %cause, "a fetched file cannot be removed");
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
