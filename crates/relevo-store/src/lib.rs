//! The durable memory of the node: one sled tree behind one writer, and a folder of blobs.
//!
//! What it promises: when [`Store::write`] answers `Ok`, the change is on the disk and survives `kill -9` and a
//! power cut; everything one closure changed is there or none of it is; closures run one after another, each
//! seeing what the earlier ones did, so a room can read, decide and write without locks.
//!
//! sled 0.34.7 keeps that promise only under the rules that this room enforces and no other room needs to know:
//! its `flush` does not sync on Linux (spacejam/sled#1351), so every commit is followed by `fdatasync` on its
//! file; no value is larger than 4 KB, because large ones spill into files that are never synced; one dedicated
//! thread does all writing and flushing; opening a damaged database can panic, which is caught.
//!
//! Commits are grouped: closures that arrive while a commit is being synced share the next one; those that nobody waits
//! for let the writer rest for as long as it worked, and what carries one message to somebody who waits for it goes
//! before all others ([`Haste`]).

mod blobs;
mod codec;
mod data_folder;
mod db;
#[doc(hidden)]
pub mod floor;
mod keys;
mod large;
mod scheduler;
mod test_store;
mod tx;
mod watch;
mod writer;

use std::path::PathBuf;

use relevo_domain::ErrorKind;

pub use blobs::{BlobSet, Blobs, SweepReport};
pub use codec::{decode, encode};
pub use data_folder::DataFolder;
pub use db::{Store, WriterExit};
pub use keys::{Key, Space};
pub use large::{delete_large, get_large, large_prefix, put_large, single_part_large};
pub use scheduler::Priority;
pub use test_store::TestStore;
pub use tx::{KeyValue, Tx};

/// How the store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of memory for cached pages. The store's own bookkeeping comes on top.
    pub cache_capacity: u64,
    /// Below this many free bytes on the disk nothing new is accepted; what was accepted goes on.
    pub min_free_space: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_capacity: 16 << 20, min_free_space: 64 << 20 }
    }
}

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(
        "the data folder {path} is in use by another relevo process; stop it, or choose another data_dir"
    )]
    InUse { path: PathBuf },
    #[error(
        "the data folder {path} was written by a newer relevo (format {found}, this binary knows {known}); \
         upgrade the binary, or choose another data_dir"
    )]
    TooNew { path: PathBuf, found: String, known: u32 },
    #[error(
        "the database in {path} is damaged and cannot be opened ({cause}); move that folder aside to start with an \
         empty queue, and keep it: its messages may still be recovered"
    )]
    Damaged { path: PathBuf, cause: String },
    #[error("{action} {path}: {cause}")]
    Io { action: &'static str, path: PathBuf, cause: String },
    #[error("the store failed and needs a restart: {0}")]
    Failed(String),
    #[error("the store is closed")]
    Closed,
    #[error("a record could not be read: {0}")]
    Codec(String),
    #[error("a record of {size} bytes under {space:?} is over the limit of {limit}")]
    TooLarge { space: char, size: usize, limit: usize },
    /// A room keeps as much as it may; the change was undone.
    #[error("{what} holds {limit} entries, which is its limit; try again later")]
    Full { what: &'static str, limit: u64 },
    #[error("a change panicked and was undone")]
    Panicked,
}

impl Error {
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

    /// A failure of the file system while `action` was done to `path`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> Self {
        Self::Io { action, path: path.into(), cause: cause.to_string() }
    }
}
