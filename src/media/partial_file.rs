//! A file in the making.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::sha256::Sha256Digest;
use relevo_store::Error;

/// A file that is hashed while it is written. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub(super) struct PartialFile {
    file: File,
    temp_path: RemoveOnDrop,
    hash: Sha256,
    size: u64,
}

/// Removes the file when it goes.
#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // After it was put in its place there is nothing under this name.
        let _ = fs::remove_file(&self.0);
    }
}

impl PartialFile {
    /// Blocks, as everything here.
    pub fn create(path: PathBuf) -> Result<Self, Error> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|cause| Error::io("cannot create", &path, cause))?;
        Ok(Self { file, temp_path: RemoveOnDrop(path), hash: Sha256::new(), size: 0 })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|cause| Error::io("cannot write", &self.temp_path.0, cause))?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hash.clone().finalize().into())
    }

    /// Adds the last bytes, dates the file, and gives it its name once its content is on the disk, so that a power
    /// cut leaves no name without its content. The size without the last bytes comes back.
    pub fn finish(mut self, trailer: &[u8], moment: SystemTime, place: &Path) -> Result<(File, u64), Error> {
        let written = self
            .file
            .write_all(trailer)
            .and_then(|()| self.file.set_modified(moment))
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.temp_path.0, place));
        written.map_err(|cause| Error::io("cannot write", place, cause))?;
        Ok((self.file, self.size))
    }
}
