//! The handle of the address book: lookups, pages and changes.

use std::sync::Arc;

use serde_json::{Map, Value};

use relevo_clock::Clock;
use relevo_domain::{Timestamp, ValidationError};
use relevo_store::{self as store, Store, Tx};

use super::Error;
use super::merge::merge;
use super::storage::{self, AddressBookEntry, AddressBookPage};

/// Maximum length of a phone, in bytes. Phones are keys of the store; no real number is nearly as long.
const MAX_PHONE_BYTES: usize = 128;
/// Maximum length of a name, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// Maximum size of the data of an entry, in bytes of JSON.
const MAX_DATA_BYTES: usize = 64 << 10;

/// Maximum number of phones that one request changes.
pub const MAX_PHONES: usize = 10_000;

/// Number of entries that one commit changes, so that other writers run in between.
const COMMIT_BATCH: usize = 100;

/// The address book. Cheap to clone.
#[derive(Clone)]
pub struct AddressBook {
    store: Store,
    clock: Clock,
}

/// Result of [`AddressBook::save`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveOutcome {
    /// The phone had no entry.
    Created,
    /// The phone had an entry, which was replaced as a whole.
    Replaced,
}

impl AddressBook {
    /// A handle on the address book in `store`.
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// The entry of `phone`, if there is one.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or the record cannot be decoded.
    pub fn get(&self, phone: &str) -> Result<Option<AddressBookEntry>, Error> {
        Ok(storage::get(&self.store, phone)?)
    }

    /// Up to `limit` entries after the position `after`, the latest change first. A large page ends early;
    /// [`AddressBookPage::next`] is set while there are more entries.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or a record cannot be decoded.
    pub async fn list(&self, after: Option<u64>, limit: usize) -> Result<AddressBookPage, Error> {
        let store = self.store.clone();
        let listing = tokio::task::spawn_blocking(move || storage::list(&store, after, limit));
        Ok(listing.await.unwrap_or(Err(store::Error::Panicked))?)
    }

    /// Creates the entry of a phone, or replaces it as a whole.
    ///
    /// # Errors
    ///
    /// The phone is empty or too long, the name or the data is too large, the disk is nearly full, or the store failed.
    pub async fn save(
        &self,
        phone: String,
        name: Option<String>,
        data: Map<String, Value>,
    ) -> Result<SaveOutcome, Error> {
        self.check_space()?;
        check_phone(&phone)?;
        if let Some(name) = name.as_ref().filter(|name| name.len() > MAX_NAME_BYTES) {
            return Err(Error::TooLarge { field: "name", size: name.len(), limit: MAX_NAME_BYTES });
        }
        check_data(&data)?;
        let now = self.clock.now();
        let entry = AddressBookEntry { phone, name, data, created_at: now, updated_at: now };
        let replaced = self.store.write(move |tx| storage::put(tx, &entry)).await?;
        Ok(if replaced { SaveOutcome::Replaced } else { SaveOutcome::Created })
    }

    /// Merges `changes` into the data of an entry; [`DELETE`](super::DELETE) removes a key. `false` if the phone has no
    /// entry.
    ///
    /// # Errors
    ///
    /// The data would become too large, the disk is nearly full, or the store failed.
    pub async fn change(&self, phone: String, changes: Map<String, Value>) -> Result<bool, Error> {
        let outcomes = self.change_all(vec![phone], changes).await?;
        outcomes.into_iter().next().unwrap_or(Ok(false))
    }

    /// [`change`](Self::change) for many phones. The outcomes are in the order of `phones`: whether the phone has an
    /// entry, or why the entry was not changed.
    ///
    /// # Errors
    ///
    /// There are more than [`MAX_PHONES`] phones, `changes` is too large, the disk is nearly full, or the store failed.
    pub async fn change_all(
        &self,
        phones: Vec<String>,
        changes: Map<String, Value>,
    ) -> Result<Vec<Result<bool, Error>>, Error> {
        self.check_space()?;
        if phones.len() > MAX_PHONES {
            return Err(
                ValidationError::new("phones", format!("may have {MAX_PHONES} entries at most")).into()
            );
        }
        check_data(&changes)?;
        let changes = Arc::new(changes);
        let mut outcomes = Vec::with_capacity(phones.len());
        for batch in phones.chunks(COMMIT_BATCH) {
            let (batch, changes, now) = (batch.to_vec(), Arc::clone(&changes), self.clock.now());
            let change_batch = move |tx: &mut Tx| {
                let mut outcomes = Vec::with_capacity(batch.len());
                for phone in batch {
                    outcomes.push(change_in(tx, &phone, &changes, now)?);
                }
                Ok(outcomes)
            };
            outcomes.extend(self.store.write(change_batch).await?);
        }
        Ok(outcomes)
    }

    /// Deletes the entry of a phone. `false` if there is none.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn delete(&self, phone: String) -> Result<bool, Error> {
        if phone.is_empty() {
            return Ok(false);
        }
        Ok(self.store.write(move |tx| storage::delete(tx, &phone)).await?)
    }

    /// Deletes all entries that exist when the call begins and returns their number. Entries that are saved or changed
    /// meanwhile stay. Works in small commits: a failure leaves the earlier batches deleted.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn clear(&self) -> Result<u64, Error> {
        let until = storage::read_meta(|key| self.store.get(key))?.change;
        let mut deleted = 0;
        loop {
            let count = self.store.write(move |tx| storage::delete_oldest(tx, until, COMMIT_BATCH)).await?;
            if count == 0 {
                return Ok(deleted);
            }
            deleted += count;
        }
    }

    fn check_space(&self) -> Result<(), Error> {
        if self.store.is_full() { Err(Error::DiskFull) } else { Ok(()) }
    }
}

/// Changes one entry. The outer error is a failure of the store, the inner one a reason to leave the entry unchanged.
fn change_in(
    tx: &mut Tx,
    phone: &str,
    changes: &Map<String, Value>,
    now: Timestamp,
) -> Result<Result<bool, Error>, store::Error> {
    let Some(mut entry) = storage::find_in(tx, phone)? else { return Ok(Ok(false)) };
    merge(&mut entry.data, changes);
    entry.updated_at = now;
    if let Err(too_large) = check_data(&entry.data) {
        return Ok(Err(too_large));
    }
    storage::put(tx, &entry)?;
    Ok(Ok(true))
}

fn check_phone(phone: &str) -> Result<(), ValidationError> {
    match phone.len() {
        0 => Err(ValidationError::new("phone", "is missing")),
        1..=MAX_PHONE_BYTES => Ok(()),
        _ => Err(ValidationError::new("phone", format!("may have {MAX_PHONE_BYTES} bytes at most"))),
    }
}

fn check_data(data: &Map<String, Value>) -> Result<(), Error> {
    let size = serde_json::to_vec(data).map_or(usize::MAX, |bytes| bytes.len());
    if size > MAX_DATA_BYTES {
        return Err(Error::TooLarge { field: "data", size, limit: MAX_DATA_BYTES });
    }
    Ok(())
}
