//! `--accept-loss`: a new database from what can be read of a damaged one.
//!
//! sled would open the damaged database in place, overwrite what it cannot read, and mix older versions of pages with
//! newer ones. So the damaged one is only read, and stays beside the new one: what could not be taken over may still be
//! recovered from it.

use std::fs;
use std::io;
use std::path::Path;

use super::contents::CommitRecord;
use super::loss::Loss;
use super::recovery;
use super::startup_check::{Scan, is_complete, open_engine, sync_folder};
use super::tx::from_sled;
use super::witness::Witness;
use super::{DataFolder, Error, Options};

/// Name of the folder in which the new database is written.
const DRAFT: &str = "db.rebuilding";

/// Writes a new database with everything that can be read, and puts it in the place of the damaged one, which is
/// renamed. An interruption loses nothing: the next start is refused again, or uses the finished new database.
///
/// # Errors
/// [`Error::Io`] when the file system refuses, [`Error::Failed`] when sled does.
pub(super) fn rebuild(folder: &DataFolder, loss: &Loss, options: &Options) -> Result<(), Error> {
    let (damaged, draft) = (folder.path().join("db"), folder.path().join(DRAFT));
    tracing::warn!(%loss, "the loss is accepted; taking over what can be read");
    let is_finished = !damaged.exists() && is_complete(&draft);
    if !is_finished {
        remove(&draft)?;
        copy_readable(folder.path(), &damaged, &draft, options)?;
    }
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(|cause| Error::io("cannot rename", from, cause))?;
        sync_folder(folder.path())
    };
    if damaged.exists() {
        let aside = folder.path().join(format!("db.damaged-{}", options.clock.now().millis()));
        rename(&damaged, &aside)?;
        tracing::warn!(path = %aside.display(), "damaged database set aside; delete it when it is not needed any more");
    }
    rename(&draft, &damaged)
}

/// Copies the readable entries, and a record that follows the witness, to a new database.
fn copy_readable(folder: &Path, from: &Path, to: &Path, options: &Options) -> Result<(), Error> {
    let (engine, file) = open_engine(to, options.cache_capacity)?;
    let mut scan = Scan::default();
    let mut visit = |key: &[u8], value: &[u8]| {
        // The first value of a key is the newest.
        if CommitRecord::is_key(key) {
            scan.add(key, value);
        } else if !engine.db().contains_key(key).map_err(io::Error::other)? {
            engine.db().insert(key, value).map_err(io::Error::other)?;
            scan.add(key, value);
        }
        Ok(())
    };
    let salvaged = recovery::salvage(from, &mut visit);
    let salvaged = salvaged.map_err(|cause| Error::io("cannot read", from, cause))?;
    let known = Witness::read(folder)?.map_or(0, |witness| witness.number);
    let number = known.max(scan.record.map_or(0, |record| record.number)).saturating_add(1);
    let record = CommitRecord::new(number, options.clock.now(), &scan.contents);
    engine.db().insert(CommitRecord::key(), record.encode()).map_err(from_sled)?;
    engine.db().flush().map_err(from_sled)?;
    file.sync_all().map_err(|cause| Error::io("cannot sync", to, cause))?;
    tracing::warn!(
        entries = record.entries,
        unreadable_pages = salvaged.unreadable_pages,
        "entries taken over from the damaged database"
    );
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::io("cannot remove", path, cause)),
        _ => Ok(()),
    }
}
