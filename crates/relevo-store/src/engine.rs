//! Reads of sled. Every read goes through [`Engine`], so that damage which sled meets is never taken for a missing entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, Key};

/// sled with a count of the reads that failed. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    db: sled::Db,
    failed_reads: Arc<AtomicU64>,
}

impl Engine {
    pub fn new(db: sled::Db) -> Self {
        Self { db, failed_reads: Arc::default() }
    }

    /// sled itself, for the writer.
    pub fn db(&self) -> &sled::Db {
        &self.db
    }

    /// Reads one value as it is stored.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read it.
    pub fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, Error> {
        self.db.get(key).map_err(|cause| self.unreadable(&cause))
    }

    /// Whether a key exists.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read.
    pub fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        self.db.contains_key(key).map_err(|cause| self.unreadable(&cause))
    }

    /// Entries from `start` (inclusive) to `end` (exclusive), in key order, read lazily.
    pub fn range(&self, start: &Key, end: &Key) -> EngineRange {
        EngineRange {
            entries: self.db.range(start.as_slice()..end.as_slice()),
            engine: self.clone(),
            has_failed: false,
        }
    }

    /// All entries.
    pub fn iter(&self) -> EngineRange {
        EngineRange { entries: self.db.iter(), engine: self.clone(), has_failed: false }
    }

    /// Whether a read has failed since the start.
    pub fn has_failed_reads(&self) -> bool {
        self.failed_reads.load(Ordering::Relaxed) > 0
    }

    /// Counts and logs a failed read. Of many failures, the first and each doubling is logged: a loop that reads the same
    /// damaged page does not fill the log.
    fn unreadable(&self, cause: &sled::Error) -> Error {
        let count = self.failed_reads.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if count.is_power_of_two() {
            tracing::error!(
                %cause, failed_reads = count,
                "a part of the database cannot be read; its entries are not missing, and requests for them fail. Stop the \
                 node, and see docs/damage.md"
            );
        }
        Error::Unreadable(cause.to_string())
    }
}

/// Entries of a range, with failures converted. It ends at a failure: sled would report the same one forever.
pub(super) struct EngineRange {
    entries: sled::Iter,
    engine: Engine,
    has_failed: bool,
}

impl EngineRange {
    fn step(&mut self, step: impl FnOnce(&mut sled::Iter) -> Option<SledEntry>) -> Option<StoredEntry> {
        if self.has_failed {
            return None;
        }
        let entry = step(&mut self.entries)?.map_err(|cause| self.engine.unreadable(&cause));
        self.has_failed = entry.is_err();
        Some(entry)
    }
}

type SledEntry = sled::Result<(sled::IVec, sled::IVec)>;

/// An entry as it is stored, or why it cannot be read.
pub(super) type StoredEntry = Result<(sled::IVec, sled::IVec), Error>;

impl Iterator for EngineRange {
    type Item = StoredEntry;

    fn next(&mut self) -> Option<StoredEntry> {
        self.step(Iterator::next)
    }
}

impl DoubleEndedIterator for EngineRange {
    fn next_back(&mut self) -> Option<StoredEntry> {
        self.step(DoubleEndedIterator::next_back)
    }
}
