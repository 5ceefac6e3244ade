//! The durable store of the node: one sled tree behind one writer thread, and a folder of blobs.
//!
//! Guarantees: when [`Store::write`] returns `Ok`, the change is durable and survives `kill -9` and a power cut.
//! A closure's changes are committed together or not at all. Closures run one after another, and each reads the
//! changes of the earlier ones, so a caller reads, decides and writes without locks.
//!
//! sled 0.34.7 gives these guarantees only under rules that this crate enforces for all callers: sled's `flush` does
//! not fsync on Linux (spacejam/sled#1351), so `fdatasync` on sled's file follows every flush; no value is larger
//! than 4 KB, because sled moves larger ones into files that it never syncs (this crate splits larger values of the
//! spaces that allow them, [`Space`]); one dedicated thread writes and flushes;
//! opening a damaged database can panic, which this crate catches.
//!
//! Commits are grouped: closures that arrive while a commit is synced share the next commit. [`Priority`] decides
//! which closures go first, and which ones wait for others.

mod blobs;
mod codec;
mod commit_history;
mod commit_planner;
mod contents;
#[cfg(test)]
mod damage_tests;
mod data_folder;
mod db;
mod engine;
#[doc(hidden)]
pub mod floor;
mod keys;
mod large;
mod loss;
mod recovery;
mod salvage;
mod scheduler;
mod startup_check;
mod test_store;
mod tx;
mod watch;
mod witness;
mod writer;

use std::path::PathBuf;

use relevo_clock::Clock;
use relevo_domain::ErrorKind;

pub use blobs::{BlobSet, Blobs, SweepReport};
pub use codec::{decode, encode};
pub use data_folder::DataFolder;
pub use db::{Store, WriterExit};
pub use keys::{InstanceEntries, Key, Space};
pub use loss::Loss;
pub use scheduler::Priority;
pub use test_store::TestStore;
pub use tx::{KeyValue, Tx};

/// Settings of the store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of memory for cached pages. sled's page table needs memory in addition.
    pub cache_capacity: u64,
    /// Minimum number of free bytes on the disk. Below it the store reports a full disk ([`Store::is_full`]), and the
    /// node accepts no new messages; messages that it has accepted are still sent.
    pub min_free_space: u64,
    /// Open a database that is not complete: set it aside, and continue with what can be read of it. Nothing happens to a
    /// complete one.
    pub accept_loss: bool,
    /// The time that commits record.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_capacity: 16 << 20,
            min_free_space: 64 << 20,
            accept_loss: false,
            clock: Clock::system(),
        }
    }
}

/// Failures of the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process holds the lock of the data folder.
    #[error(
        "the data folder {path} is in use by another relevo process; stop it, or choose another data_dir"
    )]
    InUse { path: PathBuf },
    /// The data folder has a format that this binary does not read.
    #[error(
        "the data folder {path} was written by a newer relevo (format {found}, this binary reads up to {known}); \
         upgrade the binary, or choose another data_dir"
    )]
    TooNew { path: PathBuf, found: String, known: u32 },
    /// sled cannot open the database.
    #[error(
        "the database in {path} is damaged and cannot be opened ({cause}); move that folder aside to start with an \
         empty queue, and keep it: its messages may still be recovered"
    )]
    Damaged { path: PathBuf, cause: String },
    /// Something that was in the database is missing. The data folder is unchanged.
    #[error("the database in {path} is not complete: {loss}")]
    Incomplete { path: PathBuf, loss: Box<Loss> },
    /// A part of the database is damaged on the disk. Its entries are not missing, but cannot be read.
    #[error("a part of the database cannot be read ({0}); stop the node, and see docs/damage.md")]
    Unreadable(String),
    /// A stored file has other contents than were written.
    #[error("the file {path} is damaged: its contents are not those that were written")]
    DamagedFile { path: PathBuf },
    /// An operation on the file system failed.
    #[error("{action} {path}: {cause}")]
    Io { action: &'static str, path: PathBuf, cause: String },
    /// A commit failed. After a failed commit the store accepts no changes until the node restarts.
    #[error("the store failed; restart the node: {0}")]
    Failed(String),
    /// The writer thread has ended.
    #[error("the store is closed")]
    Closed,
    /// A stored record has an unexpected encoding.
    #[error("a record cannot be decoded: {0}")]
    Codec(String),
    /// A value is larger than its space allows.
    #[error("a record of {size} bytes in space {space:?} exceeds the limit of {limit} bytes")]
    TooLarge { space: char, size: usize, limit: usize },
    /// A collection has reached its limit; the closure was rolled back.
    #[error("{what} holds {limit} entries, which is its limit; try again later")]
    Full { what: &'static str, limit: u64 },
    /// A closure panicked; its changes were rolled back.
    #[error("a change panicked and was rolled back")]
    Panicked,
}

impl Error {
    /// The category that decides the HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Failed(_)
            | Error::Closed
            | Error::InUse { .. }
            | Error::Io { .. }
            | Error::Full { .. } => ErrorKind::Unavailable,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            _ => ErrorKind::Internal,
        }
    }

    /// A failed file system operation: `action` (such as "cannot write") on `path`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> Self {
        Self::Io { action, path: path.into(), cause: cause.to_string() }
    }
}
