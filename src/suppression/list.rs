//! The handle of the suppression list: checks, pages and changes.

use relevo_clock::Clock;
use relevo_domain::{Recipient, Timestamp, ValidationError};
use relevo_store::{self as store, Key, Space, Store, Tx};

use super::Error;
use super::storage::{self, SuppressionReason, SuppressionRecord};

/// Maximum length of a note, in bytes.
pub const MAX_NOTE_BYTES: usize = 512;

/// Number of recipients that one commit adds.
const COMMIT_BATCH: usize = 500;

/// The list of people who must not receive unsolicited messages. Cheap to clone.
#[derive(Clone)]
pub struct SuppressionList {
    store: Store,
    clock: Clock,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct SuppressionEntry {
    pub recipient: Recipient,
    pub reason: SuppressionReason,
    /// Time at which the entry was added.
    pub at: Timestamp,
    /// Free text of the API client that added the entry.
    pub note: Option<String>,
}

/// Result of [`SuppressionList::add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddSummary {
    /// Number of new entries.
    pub added: u64,
    /// Number of recipients that were on the list already; their entries keep the first reason.
    pub existing: u64,
}

impl SuppressionList {
    /// A handle on the list in `store`.
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Whether `recipient` is on the list, in any spelling.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn contains(&self, recipient: &Recipient) -> Result<bool, store::Error> {
        Ok(storage::find(recipient, |key| self.store.get(key))?.is_some())
    }

    /// The entry of `recipient`, if there is one, in the spelling in which it was added.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or the record cannot be decoded.
    pub fn get(&self, recipient: &Recipient) -> Result<Option<SuppressionEntry>, Error> {
        match storage::find(recipient, |key| self.store.get(key))? {
            Some((text, record)) => Ok(Some(to_entry(decode_recipient(text)?, store::decode(&record)?))),
            None => Ok(None),
        }
    }

    /// Up to `limit` entries after the recipient `after`, in the order of their texts.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or a record cannot be decoded.
    pub async fn list(&self, after: Option<Recipient>, limit: usize) -> Result<Vec<SuppressionEntry>, Error> {
        let store = self.store.clone();
        let listing = tokio::task::spawn_blocking(move || page(&store, after.as_ref(), limit));
        Ok(listing.await.unwrap_or(Err(store::Error::Panicked))?)
    }

    /// Adds recipients, `COMMIT_BATCH` in each commit. A failure leaves the earlier batches added; a repeated call
    /// with the same recipients is harmless.
    ///
    /// # Errors
    ///
    /// The note is too long, the disk is nearly full, or the store failed.
    pub async fn add(
        &self,
        recipients: Vec<Recipient>,
        reason: SuppressionReason,
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
        let mut summary = AddSummary::default();
        for batch in recipients.chunks(COMMIT_BATCH) {
            let batch = batch.to_vec();
            let batch_size = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            let record = SuppressionRecord { why: reason, at: self.clock.now(), note: note.clone() };
            let insert_batch = move |tx: &mut Tx| {
                let mut added = 0;
                for recipient in &batch {
                    added += u64::from(storage::insert(tx, recipient, &record)?);
                }
                Ok(added)
            };
            let added = self.store.write(insert_batch).await?;
            summary.added += added;
            summary.existing += batch_size.saturating_sub(added);
        }
        Ok(summary)
    }

    /// Removes the entry of `recipient`. `false` if there is none.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn release(&self, recipient: Recipient) -> Result<bool, Error> {
        Ok(self.store.write(move |tx| storage::release(tx, &recipient)).await?)
    }
}

/// Reads a page; blocks on the disk.
fn page(
    store: &Store,
    after: Option<&Recipient>,
    limit: usize,
) -> Result<Vec<SuppressionEntry>, store::Error> {
    let space = Key::new(Space::Suppressed);
    let start = after.map_or_else(|| space.clone(), |recipient| storage::key_of(recipient).successor());
    let mut entries = Vec::new();
    for item in store.range(&start, &space.after_prefix()).take(limit) {
        let (key, record) = item?;
        let text = String::from_utf8_lossy(key.get(1..).unwrap_or_default());
        entries.push(to_entry(decode_recipient(text.into_owned())?, store::decode(&record)?));
    }
    Ok(entries)
}

fn decode_recipient(text: String) -> Result<Recipient, store::Error> {
    Recipient::try_from(text).map_err(|invalid| store::Error::Codec(invalid.to_string()))
}

fn to_entry(recipient: Recipient, record: SuppressionRecord) -> SuppressionEntry {
    SuppressionEntry { recipient, reason: record.why, at: record.at, note: record.note }
}
