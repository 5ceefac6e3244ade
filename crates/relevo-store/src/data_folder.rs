//! The data folder: its lock, its format version, and small text files in it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::Error;

/// Version of the layout of the data folder and of its records. Raised when older binaries cannot read the new layout.
///
/// 2: every commit writes its record and the witness. An older binary would change the contents without them.
const FORMAT: u32 = 2;

/// The data folder, locked by this process and readable only by its user.
///
/// Contents: `VERSION` (the format), `lock`, `db/` (sled), `db-witness` (the last commit that is known to be durable),
/// `blobs/` (media), `api_key` (when the node generated one).
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// The format of the folder when it was opened; none when it had none, as a new folder.
    format: Option<u32>,
    /// Holds the lock until this value is dropped.
    lock: File,
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that is being started holds a copy of the descriptor, and
        // with it the lock, until its `exec`. A failure cannot be handled here.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

impl DataFolder {
    /// Creates or opens the folder, takes its lock and checks its format.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process holds the lock, [`Error::TooNew`] when a newer binary wrote the folder,
    /// [`Error::Io`] when the file system refuses.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |action: &'static str| move |cause: std::io::Error| Error::io(action, path, cause);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("cannot create"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io("cannot protect"))?;
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(io("cannot write to"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::InUse { path: path.to_owned() })?;
        let mut folder = Self { path: path.to_owned(), format: None, lock };
        folder.format = folder.read_format()?;
        Ok(folder)
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read_format(&self) -> Result<Option<u32>, Error> {
        let Some(text) = self.read("VERSION")? else { return Ok(None) };
        match text.trim().parse() {
            Ok(found) if found <= FORMAT => Ok(Some(found)),
            _ => Err(Error::TooNew { path: self.path.clone(), found: text.trim().to_owned(), known: FORMAT }),
        }
    }

    /// Whether a node has used the folder before.
    pub(super) fn has_format(&self) -> bool {
        self.format.is_some()
    }

    /// Marks the folder as one of the current format. Older binaries refuse it from then on.
    ///
    /// # Errors
    /// [`Error::Io`] when the file system refuses.
    pub(super) fn write_format(&self) -> Result<(), Error> {
        if self.format == Some(FORMAT) { Ok(()) } else { self.write("VERSION", &format!("{FORMAT}\n")) }
    }

    /// Reads a small text file of the folder; `None` when it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] when the file exists but cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::io("cannot read", path, cause)),
        }
    }

    /// Writes a small text file durably, readable only by this user.
    ///
    /// # Errors
    /// [`Error::Io`] when the file system refuses; the previous file is then unchanged.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        write_durably(&path, text.as_bytes()).map_err(|cause| Error::io("cannot write", path, cause))
    }
}

/// Writes a file atomically and durably: writes a temporary file, syncs it, renames it to `path`, and syncs the folder.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut draft = create_temp_file(folder)?;
    draft.1.write_all(bytes)?;
    draft.1.sync_all()?;
    fs::rename(&draft.0, path)?;
    File::open(folder)?.sync_all()
}

/// Its name is unique among the files that this process writes. No other process writes to the data folder, so a file
/// with this name is a leftover of an earlier one and is overwritten.
fn create_temp_file(folder: &Path) -> std::io::Result<(PathBuf, File)> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!(".draft-{}", LAST.fetch_add(1, Ordering::Relaxed)));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataFolder::open(dir.path()).unwrap();
        let second = DataFolder::open(dir.path()).unwrap_err();
        assert!(matches!(second, Error::InUse { .. }), "{second}");
        // Stands for the copy that a starting child process holds.
        let copy = first.lock.try_clone().unwrap();
        drop(first);
        DataFolder::open(dir.path()).unwrap();
        drop(copy);
    }

    #[test]
    fn newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("VERSION"), "99\n").unwrap();
        let error = DataFolder::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("newer relevo"), "{error}");
    }

    #[test]
    fn folder_is_private_to_its_user() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&dir.path().join("data")).unwrap();
        folder.write("api_key", "k").unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(folder.path().to_owned()), 0o700);
        assert_eq!(mode(folder.path().join("api_key")), 0o600);
    }
}
