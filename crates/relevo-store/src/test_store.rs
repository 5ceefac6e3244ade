//! A store for tests.
#![expect(clippy::unwrap_used, reason = "tests alone use it")]

use super::tx::{KeyValue, from_sled};
use super::{Error, Tx};

/// A store for tests of what other rooms keep in it: every change is applied at once, none is synced, and all of
/// it can be looked at.
pub struct TestStore(sled::Db);

impl TestStore {
    /// An empty store in a temporary folder.
    #[expect(clippy::new_without_default, reason = "it opens a database")]
    pub fn new() -> Self {
        Self(sled::Config::new().temporary(true).open().unwrap())
    }

    /// Runs one closure in a commit of its own.
    pub fn write<T>(&self, work: impl FnOnce(&mut Tx) -> Result<T, Error>) -> Result<T, Error> {
        let mut tx = Tx::new(&self.0);
        let outcome = tx.run_closure(work)?;
        if let Some(batch) = tx.into_batch() {
            self.0.apply_batch(batch).map_err(from_sled)?;
        }
        Ok(outcome)
    }

    /// Everything there is, in key order.
    pub fn entries(&self) -> Vec<KeyValue> {
        self.0.iter().map(|entry| entry.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// Removes every entry.
    pub fn clear(&self) {
        self.0.clear().unwrap();
    }
}
