use relevo_clock::Clock;
use relevo_domain::{Recipient, Timestamp, ValidationError};
use relevo_store::{self as store, Key, Space, Store, Tx};

use super::Error;
use super::suppression_storage::{self, SuppressionReason, SuppressionRecord};

/// The longest note, in bytes.
pub const MAX_NOTE_BYTES: usize = 512;

/// So many people are entered in one commit.
const COMMIT_BATCH: usize = 500;

/// The list of people who must not be written to unasked. Cheap to clone.
#[derive(Clone)]
pub struct SuppressionList {
    store: Store,
    clock: Clock,
}

/// Somebody on the list.
#[derive(Debug, Clone, PartialEq)]
pub struct SuppressionEntry {
    pub recipient: Recipient,
    pub reason: SuppressionReason,
    pub at: Timestamp,
    /// What whoever entered them wanted to remember.
    pub note: Option<String>,
}

/// What entering people did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddSummary {
    pub added: u64,
    /// They were on the list already, which keeps its first reason.
    pub existing: u64,
}

impl SuppressionList {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Whether somebody is on the list.
    pub fn contains(&self, who: &Recipient) -> Result<bool, store::Error> {
        Ok(self.store.get(&suppression_storage::key_of(who))?.is_some())
    }

    /// Somebody's entry.
    pub fn get(&self, who: &Recipient) -> Result<Option<SuppressionEntry>, Error> {
        match self.store.get(&suppression_storage::key_of(who))? {
            Some(bytes) => Ok(Some(entry(who.clone(), store::decode(&bytes)?))),
            None => Ok(None),
        }
    }

    /// Up to `limit` entries behind `after`, in the order of their spelling.
    pub async fn list(&self, after: Option<Recipient>, limit: usize) -> Result<Vec<SuppressionEntry>, Error> {
        let store = self.store.clone();
        let listing = tokio::task::spawn_blocking(move || page(&store, after.as_ref(), limit));
        Ok(listing.await.unwrap_or(Err(store::Error::Panicked))?)
    }

    /// Puts people on the list, some hundreds in each commit: when it fails half way, a part is entered, and
    /// entering all of them again does no harm.
    ///
    /// # Errors
    ///
    /// The note is too long, the disk too full.
    pub async fn add(
        &self,
        people: Vec<Recipient>,
        why: SuppressionReason,
        note: Option<String>,
    ) -> Result<AddSummary, Error> {
        if self.store.is_full() {
            return Err(Error::DiskFull);
        }
        if note.as_ref().is_some_and(|note| note.len() > MAX_NOTE_BYTES) {
            return Err(
                ValidationError::new("note", format!("may have {MAX_NOTE_BYTES} bytes at most")).into()
            );
        }
        let mut entered = AddSummary::default();
        for group in people.chunks(COMMIT_BATCH) {
            let (group, record) =
                (group.to_vec(), SuppressionRecord { why, at: self.clock.now(), note: note.clone() });
            let work = move |tx: &mut Tx| {
                let mut added = 0;
                for who in &group {
                    added += u64::from(suppression_storage::insert(tx, who, &record)?);
                }
                Ok((added, group.len()))
            };
            let (added, all) = self.store.write(work).await?;
            entered.added += added;
            entered.existing += u64::try_from(all).unwrap_or(u64::MAX).saturating_sub(added);
        }
        Ok(entered)
    }

    /// Takes somebody off the list. `false` when they were not on it.
    pub async fn release(&self, who: Recipient) -> Result<bool, Error> {
        Ok(self.store.write(move |tx| suppression_storage::release(tx, &who)).await?)
    }
}

fn page(
    store: &Store,
    after: Option<&Recipient>,
    limit: usize,
) -> Result<Vec<SuppressionEntry>, store::Error> {
    let all = Key::new(Space::Suppressed);
    let start = after.map_or_else(|| all.clone(), |who| suppression_storage::key_of(who).successor());
    let mut found = Vec::new();
    for item in store.range(&start, &all.after_prefix()).take(limit) {
        let (key, record) = item?;
        let spelling = String::from_utf8_lossy(key.get(1..).unwrap_or_default());
        let who =
            spelling.parse().map_err(|wrong: ValidationError| store::Error::Codec(wrong.to_string()))?;
        found.push(entry(who, store::decode(&record)?));
    }
    Ok(found)
}

fn entry(who: Recipient, record: SuppressionRecord) -> SuppressionEntry {
    SuppressionEntry { recipient: who, reason: record.why, at: record.at, note: record.note }
}
