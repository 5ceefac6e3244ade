//! Opening the database: the check of what is on the disk, and only after it sled.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use super::commit_history::CommitHistory;
use super::contents::{CommitRecord, Contents};
use super::engine::Engine;
use super::loss::Loss;
use super::recovery::{self, RecoveryError};
use super::tx::from_sled;
use super::witness::{Witness, WitnessFile};
use super::{DataFolder, Error, Options, salvage};

/// A database that is open and complete.
pub(super) struct Opened {
    pub engine: Engine,
    /// sled's data file: `fdatasync` on it makes a flush durable.
    pub file: File,
    pub history: CommitHistory,
}

/// What the check found.
enum Found {
    /// A folder that no node has used, or whose first start was interrupted.
    Nothing,
    /// Everything up to this commit.
    Complete { contents: Contents, record: CommitRecord },
    /// Readable, and of a binary that wrote neither records nor a witness.
    WithoutRecord { contents: Contents },
}

/// Checks the database, opens it, and makes sure that it has a record and a witness.
///
/// # Errors
/// See [`Store::open`](super::Store::open).
pub(super) fn open_database(folder: &DataFolder, options: &Options) -> Result<Opened, Error> {
    let path = folder.path().join("db");
    let found = match check(folder) {
        Err(Error::Incomplete { loss, .. }) if options.accept_loss => {
            salvage::rebuild(folder, &loss, options)?;
            check(folder)?
        }
        found => found?,
    };
    if matches!(found, Found::Nothing) {
        // Before the folder has a format: one with a format and without a witness has lost its database.
        WitnessFile::create(folder.path(), &Witness::of_nothing())?;
    }
    folder.write_format()?;
    remove_unfinished_snapshots(&path)?;
    let (engine, file) = open_engine(&path, options.cache_capacity)?;
    sync_folder(folder.path())?;
    let (contents, record) = match found {
        Found::Complete { contents, record } => {
            let stored = engine.get(CommitRecord::key().as_slice())?;
            if stored.as_deref() != Some(record.encode().as_slice()) {
                let cause = "sled did not recover the last commit that is in its log".to_owned();
                return Err(Error::Damaged { path, cause });
            }
            (contents, record)
        }
        Found::Nothing => begin_history(&engine, &file, Contents::default(), options)?,
        Found::WithoutRecord { contents } => {
            tracing::warn!(
                entries = contents.entries(),
                "the database has no witness and gets one now; whether something was lost before cannot be told"
            );
            begin_history(&engine, &file, contents, options)?
        }
    };
    let witness = WitnessFile::create(folder.path(), &Witness::new(&record, &contents))?;
    let history = CommitHistory::new(record, contents, witness, options.clock);
    Ok(Opened { engine, file, history })
}

/// Compares what is on the disk with its record and with the witness. Changes nothing.
///
/// # Errors
/// [`Error::Incomplete`] when something is missing, [`Error::Io`] when the file system refuses.
fn check(folder: &DataFolder) -> Result<Found, Error> {
    let path = folder.path().join("db");
    let witness = Witness::read(folder.path())?;
    let incomplete = |cause: &str, found: &Contents, record: Option<&CommitRecord>| {
        let loss = Loss::new(cause, witness.as_ref(), found, record);
        Error::Incomplete { path: path.clone(), loss: Box::new(loss) }
    };
    let mut scan = Scan::default();
    match recovery::read_all(&path, &mut |key, value| scan.add(key, value)) {
        Ok(()) => {}
        Err(RecoveryError::Io(cause)) => return Err(Error::io("cannot read", path, cause)),
        Err(RecoveryError::Damaged(cause)) => {
            let readable = Scan::of_readable(&path)?;
            return Err(incomplete(&cause, &readable.contents, readable.record.as_ref()));
        }
    }
    let is_missing = !path.join("db").exists();
    let Scan { contents, record } = scan;
    match (&record, &witness) {
        (None, Some(witness)) if witness.number == 0 && contents.entries() == 0 => Ok(Found::Nothing),
        (None, None) if is_missing && !folder.has_format() && !path.exists() => Ok(Found::Nothing),
        (None, _) if is_missing => Err(incomplete("its file is missing", &contents, None)),
        (None, None) => Ok(Found::WithoutRecord { contents }),
        (None, Some(_)) => Err(incomplete("all of its commits are missing", &contents, None)),
        (Some(record), _) if record.digest != contents.digest => {
            Err(incomplete("its entries are not those of its last commit", &contents, Some(record)))
        }
        (Some(record), Some(witness)) if record.number < witness.number => {
            Err(incomplete("its last commits are missing", &contents, Some(record)))
        }
        (Some(record), Some(witness))
            if record.number == witness.number && record.digest != witness.digest() =>
        {
            Err(incomplete("it is not the database that this folder had", &contents, Some(record)))
        }
        (Some(record), witness) => {
            if witness.is_none() {
                tracing::warn!(
                    commit = record.number,
                    "the database has no witness and gets one now; it is complete up to its last commit, but later ones \
                     may have been lost"
                );
            }
            Ok(Found::Complete { contents, record: *record })
        }
    }
}

/// The entries of a database and the record among them.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub contents: Contents,
    pub record: Option<CommitRecord>,
}

impl Scan {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        if CommitRecord::is_key(key) {
            self.record = CommitRecord::decode(value);
        } else {
            self.contents.add(key, value);
        }
    }

    /// What can be read of a damaged database.
    fn of_readable(path: &Path) -> Result<Self, Error> {
        let mut scan = Self::default();
        let mut visit = |key: &[u8], value: &[u8]| {
            scan.add(key, value);
            Ok(())
        };
        match recovery::salvage(path, &mut visit) {
            Ok(_) => Ok(scan),
            Err(cause) => Err(Error::io("cannot read", path, cause)),
        }
    }
}

/// Whether the folder of a database is complete in itself.
pub(super) fn is_complete(path: &Path) -> bool {
    let mut scan = Scan::default();
    let read = recovery::read_all(path, &mut |key, value| scan.add(key, value));
    read.is_ok() && scan.record.is_some_and(|record| record.digest == scan.contents.digest)
}

/// Writes the first record of a database durably.
fn begin_history(
    engine: &Engine,
    file: &File,
    contents: Contents,
    options: &Options,
) -> Result<(Contents, CommitRecord), Error> {
    let record = CommitRecord::new(1, options.clock.now(), &contents);
    engine.db().insert(CommitRecord::key(), record.encode()).map_err(from_sled)?;
    engine.db().flush().map_err(from_sled)?;
    file.sync_data().map_err(|cause| Error::Failed(cause.to_string()))?;
    Ok((contents, record))
}

/// Opens sled, and makes its files durable.
///
/// # Errors
/// [`Error::Damaged`] when sled cannot open the database, [`Error::Io`] when the file system refuses.
pub(super) fn open_engine(path: &Path, cache_capacity: u64) -> Result<(Engine, File), Error> {
    let config = sled::Config::new().path(path).cache_capacity(cache_capacity);
    let damaged = |cause: String| Error::Damaged { path: path.to_owned(), cause };
    let db = match open_with_retry(&config) {
        Ok(Ok(db)) => db,
        Ok(Err(sled::Error::Io(cause))) => return Err(Error::io("cannot open", path, cause)),
        Ok(Err(cause)) => return Err(damaged(cause.to_string())),
        Err(_) => return Err(damaged("sled panicked while opening it".to_owned())),
    };
    // The first flush creates the file. Before it and its folder are synced, a power cut can lose the file.
    db.flush().map_err(from_sled)?;
    let file = File::open(path.join("db")).map_err(|cause| Error::io("cannot open", path, cause))?;
    file.sync_all().map_err(|cause| Error::io("cannot sync", path, cause))?;
    sync_folder(path)?;
    Ok((Engine::new(db), file))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|cause| Error::io("cannot sync", path, cause))
}

/// Opens the database; retries while its file is locked. sled's background threads can hold the file for a moment after
/// the last handle in this process is dropped. No other process can hold it, because this process holds the folder.
fn open_with_retry(config: &sled::Config) -> std::thread::Result<sled::Result<sled::Db>> {
    let mut retries = 0;
    loop {
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open()));
        match &opened {
            Ok(Err(sled::Error::Io(cause))) if is_locked(cause) && retries < OPEN_RETRIES => retries += 1,
            _ => return opened,
        }
        std::thread::sleep(OPEN_RETRY_DELAY);
    }
}

/// Retries while the database file is locked, and the pause before each: 5 s in all.
const OPEN_RETRIES: u32 = 500;
const OPEN_RETRY_DELAY: Duration = Duration::from_millis(10);

/// Whether the file is locked. sled wraps the cause in another error (0.34.7, `config.rs`, `try_lock`).
fn is_locked(cause: &std::io::Error) -> bool {
    cause.kind() == std::io::ErrorKind::WouldBlock || cause.to_string().contains("could not acquire lock")
}

/// Removes snapshot files that sled did not finish. sled writes a snapshot as `snap.<lsn>.generating` and renames it
/// when it is complete. A start that was interrupted or found no space leaves such a file; the next start reads it as
/// the newest snapshot and reports the database as corrupt (0.34.7, `pagecache/snapshot.rs`). Removing it loses
/// nothing, because its contents are in the log.
fn remove_unfinished_snapshots(db: &Path) -> Result<(), Error> {
    let entries = match std::fs::read_dir(db) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(Error::io("cannot read", db, cause)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "database snapshot incomplete; removing it");
            std::fs::remove_file(entry.path())
                .map_err(|cause| Error::io("cannot remove", entry.path(), cause))?;
        }
    }
    Ok(())
}
