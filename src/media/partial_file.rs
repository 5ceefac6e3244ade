//! A partial file: a download that is not complete yet.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::sha256::Sha256Digest;
use relevo_store::Error;

/// A file that is hashed while it is written. It is removed if it is dropped before [`finish`](PartialFile::finish).
#[derive(Debug)]
pub(super) struct PartialFile {
    file: File,
    temp_path: RemoveOnDrop,
    hash: Sha256,
    size: u64,
}

/// Removes the file at this path on drop.
#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // After the rename no file has this name.
        let _ = fs::remove_file(&self.0);
    }
}

impl PartialFile {
    /// Creates the file. Blocks, as all functions of this type.
    ///
    /// # Errors
    ///
    /// The file cannot be created.
    pub fn create(path: PathBuf) -> Result<Self, Error> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|cause| Error::io("cannot create", &path, cause))?;
        Ok(Self { file, temp_path: RemoveOnDrop(path), hash: Sha256::new(), size: 0 })
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// The bytes cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|cause| Error::io("cannot write", &self.temp_path.0, cause))?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Number of bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the bytes so far.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hash.clone().finalize().into())
    }

    /// Appends the trailer, sets the modification time, syncs the file, and then renames it to `path`, so that a power cut
    /// never leaves a named file without its content. Returns the file and its size without the trailer.
    ///
    /// # Errors
    ///
    /// The file cannot be written, synced or renamed.
    pub fn finish(mut self, trailer: &[u8], modified: SystemTime, path: &Path) -> Result<(File, u64), Error> {
        let written = self
            .file
            .write_all(trailer)
            .and_then(|()| self.file.set_modified(modified))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.temp_path.0, path));
        written.map_err(|cause| Error::io("cannot write", path, cause))?;
        Ok((self.file, self.size))
    }
}
