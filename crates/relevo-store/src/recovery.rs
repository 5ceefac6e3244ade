//! Reads a closed sled database without changing a byte of it: what sled would recover, and whether it is complete.
//!
//! sled 0.34.7 overwrites, while it opens, whatever it takes for torn or unused. After that, damage cannot be told from
//! an interrupted write. So the store runs sled's recovery here first, read-only and in the same steps: the newest
//! snapshot file (`snapshot`), the log behind it (`log`), the page table that both give (`page_table`), and the
//! pages of the tree in key order (`tree`). It reads every live page once and verifies its checksum. Nothing of a page
//! is trusted before its checksum held.
//!
//! Why not open a copy of the folder: a copy needs as much free space as the database, and a node must start on a disk
//! that is nearly full. Why not only the checksums of the log: sled reuses segments, so a segment that is missing, or
//! whose header does not hold, looks like one that was reused. Only the contents show that nothing is missing
//! ([`Contents`](super::contents::Contents)).
//!
//! Memory: the page table, as in sled itself (about 100 bytes for each page of up to 16 entries), one segment
//! (512 KiB) and one page.
//!
//! Source of the format: sled 0.34.7, `src/pagecache/{snapshot,iterator,logger,segment}.rs`, `src/serialization.rs`
//! and `src/node.rs` (<https://docs.rs/crate/sled/0.34.7/source/>). The version is pinned, and a test compares this
//! module with sled on random workloads.

mod format;
mod log;
mod page_table;
mod pages;
mod snapshot;
mod tree;

use std::fs::File;
use std::io;
use std::path::Path;

pub(super) use tree::Salvaged;

use page_table::PageTable;
use pages::PageFile;

/// sled takes a file of settings that is not longer than this for missing.
const MIN_SETTINGS: usize = 8;

/// Reason why a database cannot be read completely.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoveryError {
    /// The bytes on the disk are not those that sled wrote.
    #[error("{0}")]
    Damaged(String),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl RecoveryError {
    fn damaged(text: impl Into<String>) -> Self {
        Self::Damaged(text.into())
    }
}

/// Calls `visit` for every entry that sled would recover from the folder, in key order. A missing or empty database has
/// no entries.
///
/// # Errors
/// [`RecoveryError::Damaged`] when a part that is in use does not hold, [`RecoveryError::Io`] when the file system fails.
pub(super) fn read_all(db: &Path, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), RecoveryError> {
    let Some(file) = open(db)? else { return Ok(()) };
    check_settings(db)?;
    let snapshot = snapshot::read_newest(db)?;
    let table = PageTable::recover(&file, db, snapshot)?;
    tree::read_all(&PageFile::new(&file, db, &table), visit)
}

/// Calls `visit` for every entry that can still be read, in no order, possibly more than once: the first call for a key
/// has its newest readable value.
///
/// # Errors
/// [`RecoveryError::Io`] when the file system fails.
pub(super) fn salvage(db: &Path, visit: &mut tree::Visit<'_>) -> Result<Salvaged, RecoveryError> {
    let Some(file) = open(db)? else { return Ok(Salvaged::default()) };
    // Without a readable snapshot the whole log gives the same table, as far as it is readable.
    let snapshot = match snapshot::read_newest(db) {
        Err(RecoveryError::Damaged(_)) => None,
        read => read?,
    };
    let table = PageTable::recover_readable(&file, db, snapshot)?;
    tree::salvage(&PageFile::new(&file, db, &table), visit)
}

/// Checks the file in which sled keeps its settings. sled reads damaged ones, and writes missing ones again.
fn check_settings(db: &Path) -> Result<(), RecoveryError> {
    let file = match std::fs::read(db.join("conf")) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    match file.split_last_chunk::<4>() {
        Some((text, crc))
            if file.len() > MIN_SETTINGS && crc32fast::hash(text) != u32::from_le_bytes(*crc) =>
        {
            Err(RecoveryError::damaged("the checksum of the file conf does not hold"))
        }
        _ => Ok(()),
    }
}

fn open(db: &Path) -> Result<Option<File>, RecoveryError> {
    match File::open(db.join("db")) {
        Ok(file) => Ok(Some(file)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause.into()),
    }
}
