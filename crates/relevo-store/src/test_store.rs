//! An in-process store for tests, without a writer thread.
#![expect(clippy::unwrap_used, reason = "only tests use it")]

use super::engine::Engine;
use super::tx::{KeyValue, batch, from_sled};
use super::{Error, Tx};

/// A store for unit tests of storage functions: applies every closure at once, syncs nothing, and lists all entries.
pub struct TestStore(Engine);

impl TestStore {
    /// Opens an empty store in a temporary folder.
    #[expect(clippy::new_without_default, reason = "opens a database")]
    pub fn new() -> Self {
        Self(Engine::new(sled::Config::new().temporary(true).open().unwrap()))
    }

    /// Runs one closure and applies its changes.
    ///
    /// # Errors
    /// The closure's error, after its changes were rolled back, or [`Error::Failed`] from sled.
    pub fn write<T>(&self, work: impl FnOnce(&mut Tx) -> Result<T, Error>) -> Result<T, Error> {
        let mut tx = Tx::new(&self.0);
        let outcome = tx.run_closure(work)?;
        if let Some(changes) = tx.into_changes() {
            self.0.db().apply_batch(batch(changes)).map_err(from_sled)?;
        }
        Ok(outcome)
    }

    /// All entries as they are stored, in key order.
    pub fn entries(&self) -> Vec<KeyValue> {
        self.0.iter().map(|entry| entry.unwrap()).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// Removes every entry.
    pub fn clear(&self) {
        self.0.db().clear().unwrap();
    }
}
