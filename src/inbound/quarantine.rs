//! The quarantine: webhook bodies that could not be parsed, for inspection. The newest ones are stored, unsigned ones
//! truncated.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;
use relevo_store::{self as store, Key, Space, Store, Tx};

use super::{Error, Handle};

/// Maximum number of bodies.
const MAX_ENTRIES: usize = 200;

/// Maximum size of an unsigned body, in bytes, because anyone can send one. The rest is cut off.
const MAX_UNSIGNED_BYTES: usize = 64 << 10;

/// A quarantined body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedBody {
    /// Key of the entry.
    pub id: QuarantineId,
    /// Why the body could not be parsed.
    pub reason: String,
    /// Size of the received body, in bytes. `body` is shorter if it was truncated.
    pub size: usize,
    /// The stored bytes.
    pub body: Bytes,
}

/// Key of a quarantined body. Newer bodies have greater keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuarantineId {
    /// Time of receipt.
    pub at: Timestamp,
    /// Distinguishes bodies of the same millisecond.
    pub nonce: u64,
}

/// The header before the body, one line of JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
struct QuarantineHeader {
    reason: String,
    size: usize,
}

/// A body to be quarantined.
#[derive(Debug)]
pub(super) struct NewQuarantineEntry {
    pub body: Bytes,
    pub reason: String,
    pub signed: bool,
}

impl NewQuarantineEntry {
    /// Stores the body and deletes the oldest ones above the maximum number.
    pub fn insert(&self, tx: &mut Tx, id: QuarantineId) -> Result<(), store::Error> {
        let all = Key::new(Space::Quarantine);
        let stored: Vec<Key> = {
            let entries = tx.range(&all, &all.clone().after_prefix());
            entries.map(|entry| entry.map(|(key, _)| Key::from(key))).collect::<Result<_, _>>()?
        };
        let excess = (stored.len() + 1).saturating_sub(MAX_ENTRIES);
        for key in stored.into_iter().take(excess) {
            tx.delete(key)?;
        }
        let header = QuarantineHeader { reason: self.reason.clone(), size: self.body.len() };
        let mut record =
            serde_json::to_vec(&header).map_err(|cause| store::Error::Codec(cause.to_string()))?;
        record.push(b'\n');
        let limit = if self.signed { usize::MAX } else { MAX_UNSIGNED_BYTES };
        record.extend(self.body.iter().take(limit));
        tx.put(id.key(), record)
    }
}

impl QuarantineId {
    fn key(self) -> Key {
        Key::new(Space::Quarantine).u64(self.at.millis()).u64(self.nonce)
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (at, nonce) = key.get(1..)?.split_first_chunk::<8>()?;
        let nonce = nonce.first_chunk::<8>()?;
        Some(Self { at: Timestamp(u64::from_be_bytes(*at)), nonce: u64::from_be_bytes(*nonce) })
    }
}

impl Handle {
    /// Up to `limit` quarantined bodies, the newest first, that are older than `after`.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn list_quarantined(
        &self,
        after: Option<QuarantineId>,
        limit: usize,
    ) -> Result<Vec<QuarantinedBody>, Error> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || read_page(&store, after, limit)).await;
        Ok(read.map_err(|cause| store::Error::Failed(cause.to_string()))??)
    }
}

fn read_page(
    store: &Store,
    after: Option<QuarantineId>,
    limit: usize,
) -> Result<Vec<QuarantinedBody>, store::Error> {
    let all = Key::new(Space::Quarantine);
    let end = after.map_or(all.clone().after_prefix(), QuarantineId::key);
    let mut page = Vec::new();
    for entry in store.range(&all, &end).rev() {
        if page.len() == limit {
            break;
        }
        let key = Key::from(entry?.0);
        let record = store.get(&key)?;
        if let (Some(record), Some(id)) = (record, QuarantineId::from_key(key.as_slice())) {
            page.push(decode_entry(id, record));
        }
    }
    Ok(page)
}

fn decode_entry(id: QuarantineId, record: Vec<u8>) -> QuarantinedBody {
    let record = Bytes::from(record);
    let end = record.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let header: QuarantineHeader = serde_json::from_slice(&record.slice(..end)).unwrap_or_default();
    QuarantinedBody {
        id,
        reason: header.reason,
        size: header.size,
        body: record.slice((end + 1).min(record.len())..),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_store::TestStore;

    fn insert_body(store: &TestStore, n: u64, size: usize, signed: bool) {
        let body = Bytes::from(vec![b'x'; size]);
        let entry = NewQuarantineEntry { body, reason: "is\nodd".to_owned(), signed };
        let id = QuarantineId { at: Timestamp(n), nonce: 7 };
        store.write(|tx| entry.insert(tx, id)).unwrap();
    }

    fn stored_bodies(store: &TestStore) -> Vec<QuarantinedBody> {
        let mut stored = Vec::new();
        for (key, _) in store.entries().into_iter().filter(|(key, _)| key[0] == Space::Quarantine as u8) {
            let id = QuarantineId::from_key(&key).unwrap();
            let record = store.write(|tx| tx.get(&id.key())).unwrap();
            stored.push(decode_entry(id, record.unwrap()));
        }
        stored
    }

    #[test]
    fn quarantine_keeps_the_newest_two_hundred_bodies() {
        let store = TestStore::new();
        (1..=210).for_each(|n| insert_body(&store, n, 10_000, true));
        let found = stored_bodies(&store);
        let times: Vec<_> = found.iter().map(|stored| stored.id.at.millis()).collect();
        assert_eq!(times, (11..=210).collect::<Vec<_>>());
        assert!(found.iter().all(|stored| (stored.size, stored.body.len()) == (10_000, 10_000)));
        assert_eq!(found[0].reason, "is\nodd");
        let parts = store.entries().len() / found.len();
        assert_eq!(store.entries().len(), parts * found.len());
    }

    #[test]
    fn unsigned_body_is_truncated() {
        let store = TestStore::new();
        insert_body(&store, 1, 3 << 20, true);
        insert_body(&store, 2, 3 << 20, false);
        let lengths: Vec<_> =
            stored_bodies(&store).iter().map(|stored| (stored.size, stored.body.len())).collect();
        assert_eq!(lengths, [(3 << 20, 3 << 20), (3 << 20, MAX_UNSIGNED_BYTES)]);
    }
}
