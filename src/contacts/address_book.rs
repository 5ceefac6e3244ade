use serde_json::{Map, Value};

use relevo_clock::Clock;
use relevo_domain::ValidationError;
use relevo_store::{self as store, Store, Tx};

use super::Error;
use super::merge::merge;
use super::storage::{self, AddressBookEntry, AddressBookPage};

/// The longest phone and the longest name, in bytes. Phones are keys of the store; no spelling of a real one comes
/// near.
const MAX_PHONE_BYTES: usize = 128;
const MAX_NAME_BYTES: usize = 1024;

/// The largest data of a number, in bytes of JSON.
const MAX_DATA_BYTES: usize = 64 << 10;

/// The most phones that are changed by one request.
pub const MAX_PHONES: usize = 10_000;

/// So many entries are changed in one commit, so that others get their turn in between.
const COMMIT_BATCH: usize = 100;

/// The address book. Cheap to clone.
#[derive(Clone)]
pub struct AddressBook {
    store: Store,
    clock: Clock,
}

/// What saving a number did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveOutcome {
    Created,
    /// There was one already; nothing of it is left.
    Replaced,
}

impl AddressBook {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Who has this phone.
    pub fn get(&self, phone: &str) -> Result<Option<AddressBookEntry>, Error> {
        Ok(storage::get(&self.store, phone)?)
    }

    /// Up to `limit` numbers behind the place `after`, the latest change first. A page is cut short when it gets
    /// large; `next` tells whether there is more.
    pub async fn list(&self, after: Option<u64>, limit: usize) -> Result<AddressBookPage, Error> {
        let store = self.store.clone();
        let listing = tokio::task::spawn_blocking(move || storage::list(&store, after, limit));
        Ok(listing.await.unwrap_or(Err(store::Error::Panicked))?)
    }

    /// Enters a number anew; what was known about it before is forgotten.
    ///
    /// # Errors
    ///
    /// The phone is empty or too long, the name or the data too large, the disk too full.
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
        let number = AddressBookEntry { phone, name, data, created_at: now, updated_at: now };
        let replaced = self.store.write(move |tx| storage::put(tx, &number)).await?;
        Ok(if replaced { SaveOutcome::Replaced } else { SaveOutcome::Created })
    }

    /// Lays `changes` over the data of a number; see [`DELETE`](super::DELETE). Tells whether there is such a number.
    ///
    /// # Errors
    ///
    /// The data would become too large, the disk is too full.
    pub async fn change(&self, phone: String, changes: Map<String, Value>) -> Result<bool, Error> {
        let found = self.change_all(vec![phone], changes).await?;
        found.into_iter().next().unwrap_or(Ok(false))
    }

    /// The same for many, in their order: for each whether there is such a number, or why it stays as it is.
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
        let changes = std::sync::Arc::new(changes);
        let mut outcomes = Vec::with_capacity(phones.len());
        for group in phones.chunks(COMMIT_BATCH) {
            let (group, changes, now) = (group.to_vec(), changes.clone(), self.clock.now());
            let work = move |tx: &mut Tx| {
                let mut outcomes = Vec::with_capacity(group.len());
                for phone in group {
                    let Some(mut number) = storage::find_in(tx, &phone)? else {
                        outcomes.push(Ok(false));
                        continue;
                    };
                    merge(&mut number.data, &changes);
                    number.updated_at = now;
                    if let Err(refused) = check_data(&number.data) {
                        outcomes.push(Err(refused));
                        continue;
                    }
                    storage::put(tx, &number)?;
                    outcomes.push(Ok(true));
                }
                Ok(outcomes)
            };
            outcomes.extend(self.store.write(work).await?);
        }
        Ok(outcomes)
    }

    /// Forgets a number. Tells whether there was one.
    pub async fn delete(&self, phone: String) -> Result<bool, Error> {
        if phone.is_empty() {
            return Ok(false);
        }
        Ok(self.store.write(move |tx| storage::delete(tx, &phone)).await?)
    }

    /// Forgets every number that is there when this begins; those that are saved or changed meanwhile stay. Works
    /// in small commits: when it fails half way, a part is gone.
    pub async fn clear(&self) -> Result<u64, Error> {
        let until = storage::read_meta(|key| self.store.get(key))?.change;
        let mut deleted = 0;
        loop {
            let taken = self.store.write(move |tx| storage::delete_oldest(tx, until, COMMIT_BATCH)).await?;
            if taken == 0 {
                return Ok(deleted);
            }
            deleted += taken;
        }
    }

    fn check_space(&self) -> Result<(), Error> {
        if self.store.is_full() { Err(Error::DiskFull) } else { Ok(()) }
    }
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
