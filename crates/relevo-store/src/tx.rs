//! The transaction: an overlay of uncommitted changes over the stored tree, shared by all closures of a commit.

use std::collections::BTreeMap;
use std::iter::Peekable;

use super::engine::{Engine, EngineRange, StoredEntry};
use super::keys::is_large_key;
use super::{Error, Key, large};

/// Maximum size of one stored value, in bytes. Above about 7.5 KB sled moves values into files that it never syncs; at
/// 4 KB none of these files appeared in the power-cut tests.
pub const MAX_VALUE: usize = 4096;

/// A key with its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// The new value of a key; `None` deletes it.
pub(super) type ValueChange = Option<Vec<u8>>;

/// The changes of a commit, by key.
pub(super) type Changes = BTreeMap<Vec<u8>, ValueChange>;

/// The changes of one commit. Reads return the store's contents with the changes of earlier closures of the same commit
/// and of the running closure.
pub struct Tx<'a> {
    engine: &'a Engine,
    /// Changes that the commit will write.
    changes: Changes,
    /// Entries of `changes` before the running closure overwrote them, in order. A failed closure is rolled back with
    /// them.
    undo: Vec<(Vec<u8>, Option<ValueChange>)>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(engine: &'a Engine) -> Self {
        Self { engine, changes: BTreeMap::new(), undo: Vec::new() }
    }

    /// Reads one value.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read, [`Error::Codec`] when a part of a large value is missing.
    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Error> {
        let Some(stored) = self.get_stored(key)? else { return Ok(None) };
        if key.is_large() {
            large::join(key, &stored, |part| self.get_stored(part)).map(Some)
        } else {
            Ok(Some(stored))
        }
    }

    /// Whether a key exists.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read.
    pub fn contains(&self, key: &Key) -> Result<bool, Error> {
        match self.changes.get(key.as_slice()) {
            Some(change) => Ok(change.is_some()),
            None => self.engine.contains(key.as_slice()),
        }
    }

    /// Writes a value: up to 4096 bytes, in the spaces of large values up to about 268 MB.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the value is larger. In the spaces of large values also [`Error::Unreadable`] when sled
    /// cannot read the previous value, and [`Error::Codec`] when that is damaged.
    pub fn put(&mut self, key: Key, value: Vec<u8>) -> Result<(), Error> {
        if key.is_large() {
            return self.put_large(key, &value);
        }
        if value.len() > MAX_VALUE {
            return Err(key.too_large(value.len(), MAX_VALUE));
        }
        self.change(key, Some(value));
        Ok(())
    }

    fn put_large(&mut self, key: Key, value: &[u8]) -> Result<(), Error> {
        let parts_before = self.part_count(&key)?.unwrap_or(0);
        let split = large::split(&key, value)?;
        let mut count = 0;
        for part in split.parts {
            self.change(large::part_key(&key, count), Some(part.to_vec()));
            count += 1;
        }
        for number in count..parts_before {
            self.change(large::part_key(&key, number), None);
        }
        self.change(key, Some(split.head));
        Ok(())
    }

    /// Deletes a value with all of its parts; a no-op when it does not exist.
    ///
    /// # Errors
    /// Only in the spaces of large values: [`Error::Unreadable`] when sled cannot read the value, [`Error::Codec`] when it is
    /// damaged.
    pub fn delete(&mut self, key: Key) -> Result<(), Error> {
        if key.is_large() {
            let Some(count) = self.part_count(&key)? else { return Ok(()) };
            for number in 0..count {
                self.change(large::part_key(&key, number), None);
            }
        }
        self.change(key, None);
        Ok(())
    }

    /// The number of further parts of a large value, if it exists.
    fn part_count(&self, key: &Key) -> Result<Option<u16>, Error> {
        match self.changes.get(key.as_slice()) {
            Some(change) => change.as_deref().map(large::part_count).transpose(),
            None => self.engine.get(key.as_slice())?.as_deref().map(large::part_count).transpose(),
        }
    }

    /// Reads one entry as it is stored.
    fn get_stored(&self, key: &Key) -> Result<Option<Vec<u8>>, Error> {
        match self.changes.get(key.as_slice()) {
            Some(change) => Ok(change.clone()),
            None => Ok(self.engine.get(key.as_slice())?.map(|value| value.to_vec())),
        }
    }

    fn change(&mut self, key: Key, value: Option<Vec<u8>>) {
        let key = key.into_bytes();
        let before = self.changes.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// Entries from `start` (inclusive) to `end` (exclusive), in key order, read lazily.
    ///
    /// In the spaces of large values, each value of the range is cut to its first 4094 bytes; [`get`](Self::get) reads it
    /// whole.
    pub fn range<'t>(
        &'t self,
        start: &Key,
        end: &Key,
    ) -> impl Iterator<Item = Result<KeyValue, Error>> + use<'t, 'a> {
        let stored = self.engine.range(start, end);
        let changed = self.changes.range(start.as_slice().to_vec()..end.as_slice().to_vec());
        OverlayIter { stored: stored.peekable(), changed: changed.peekable() }
    }

    /// The first entry of [`range`](Self::range).
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read.
    pub fn first(&self, start: &Key, end: &Key) -> Result<Option<KeyValue>, Error> {
        self.range(start, end).next().transpose()
    }

    /// Runs one closure. When it fails or panics, all of its changes are rolled back.
    pub(super) fn run_closure<T>(
        &mut self,
        work: impl FnOnce(&mut Tx) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.undo.clear();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(self)));
        let outcome = outcome.unwrap_or(Err(Error::Panicked));
        if outcome.is_err() {
            for (key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
                match before {
                    Some(change) => self.changes.insert(key, change),
                    None => self.changes.remove(&key),
                };
            }
        }
        outcome
    }

    /// The changes of keys that begin with `prefix`.
    pub(super) fn changes_under(&self, prefix: &Key) -> Vec<(Vec<u8>, ValueChange)> {
        let from = self.changes.range(prefix.as_slice().to_vec()..);
        let under = from.take_while(|(key, _)| key.starts_with(prefix.as_slice()));
        under.map(|(key, change)| (key.clone(), change.clone())).collect()
    }

    /// The changes of all closures; `None` when there are none.
    pub(super) fn into_changes(self) -> Option<Changes> {
        Some(self.changes).filter(|changes| !changes.is_empty())
    }
}

/// The changes as one atomic batch.
pub(super) fn batch(changes: Changes) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for (key, change) in changes {
        match change {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    batch
}

/// Merges stored entries with the changes, in key order. A change hides the stored entry of the same key.
struct OverlayIter<'t, C: Iterator<Item = (&'t Vec<u8>, &'t ValueChange)>> {
    stored: Peekable<EngineRange>,
    changed: Peekable<C>,
}

impl<'t, C: Iterator<Item = (&'t Vec<u8>, &'t ValueChange)>> Iterator for OverlayIter<'t, C> {
    type Item = Result<KeyValue, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stored_first = match (self.stored.peek(), self.changed.peek()) {
                (Some(Ok((stored, _))), Some((changed, _))) => {
                    if stored.as_ref() == changed.as_slice() {
                        self.stored.next();
                        continue;
                    }
                    stored.as_ref() < changed.as_slice()
                }
                (Some(_), _) => true,
                (None, _) => false,
            };
            if stored_first {
                return self.stored.next().map(range_entry);
            }
            if let (key, Some(value)) = self.changed.next()? {
                return Some(Ok(key_value(key, value)));
            }
        }
    }
}

/// An entry of a range, as it is returned to callers.
pub(super) fn range_entry(entry: StoredEntry) -> Result<KeyValue, Error> {
    entry.map(|(key, stored)| key_value(&key, &stored))
}

fn key_value(key: &[u8], stored: &[u8]) -> KeyValue {
    let value = if is_large_key(key) { large::first_part(stored) } else { stored };
    (key.to_vec(), value.to_vec())
}

/// Converts a failure of a commit.
pub(super) fn from_sled(cause: sled::Error) -> Error {
    Error::Failed(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Space;

    fn key(n: u8) -> Key {
        Key::new(Space::NodeCounters).u8(n)
    }

    fn engine() -> Engine {
        Engine::new(sled::Config::new().temporary(true).open().unwrap())
    }

    fn stored_keys(tx: &Tx) -> Vec<u8> {
        let entries = tx.range(&Key::new(Space::NodeCounters), &Key::new(Space::NodeCounters).after_prefix());
        entries.map(|entry| entry.unwrap().0[1]).collect()
    }

    #[test]
    fn range_merges_stored_and_changed_entries() {
        let engine = engine();
        for n in [1, 3, 5] {
            engine.db().insert(key(n), vec![n]).unwrap();
        }
        let mut tx = Tx::new(&engine);
        tx.delete(key(3)).unwrap();
        tx.put(key(2), vec![2]).unwrap();
        tx.put(key(5), vec![50]).unwrap();
        tx.put(key(9), vec![9]).unwrap();
        tx.delete(key(9)).unwrap();
        assert_eq!(stored_keys(&tx), [1, 2, 5]);
        assert_eq!(tx.get(&key(5)).unwrap(), Some(vec![50]));
        assert_eq!(tx.get(&key(3)).unwrap(), None);
    }

    #[test]
    fn failed_closure_is_rolled_back_alone() {
        let engine = engine();
        let mut tx = Tx::new(&engine);
        tx.run_closure(|tx| tx.put(key(1), vec![1])).unwrap();
        let failed: Result<(), Error> = tx.run_closure(|tx| {
            tx.put(key(1), vec![9])?;
            tx.put(key(2), vec![2])?;
            Err(Error::Closed)
        });
        assert!(failed.is_err());
        let panicked: Result<(), Error> = tx.run_closure(|tx| {
            tx.delete(key(1)).unwrap();
            panic!("boom")
        });
        assert!(matches!(panicked, Err(Error::Panicked)));
        assert_eq!(stored_keys(&tx), [1]);
        assert_eq!(tx.get(&key(1)).unwrap(), Some(vec![1]));
    }

    #[test]
    fn oversized_value_is_refused() {
        let engine = engine();
        let mut tx = Tx::new(&engine);
        assert!(tx.put(key(1), vec![0; MAX_VALUE]).is_ok());
        assert!(matches!(tx.put(key(2), vec![0; MAX_VALUE + 1]), Err(Error::TooLarge { size: 4097, .. })));
    }
}
