//! Bodies that nobody understood, kept for inspection: the newest, and of what nobody signed only the beginning.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;
use relevo_store::{self as store, Key, Space, Store, Tx};

use super::{Error, Handle};

/// So many are kept.
const MAX_ENTRIES: usize = 200;

/// Of a body that no secret vouches for so many bytes are kept: anybody could have sent it.
const MAX_UNSIGNED_BYTES: usize = 64 << 10;

/// A body that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedBody {
    pub id: QuarantineId,
    /// What nobody understood.
    pub reason: String,
    /// The length that it had when it came, in bytes. `body` is shorter when it was cut.
    pub size: usize,
    pub body: Bytes,
}

/// Where a kept body lies: newer ones come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuarantineId {
    pub at: Timestamp,
    /// Tells those of one millisecond apart.
    pub nonce: u64,
}

/// What stands before the body, as one line of JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
struct QuarantineHeader {
    reason: String,
    size: usize,
}

/// A body on its way to those that are kept.
#[derive(Debug)]
pub(super) struct NewQuarantineEntry {
    pub body: Bytes,
    pub reason: String,
    pub signed: bool,
}

impl NewQuarantineEntry {
    /// Writes the body down, forgetting the oldest of those kept.
    pub fn insert(&self, tx: &mut Tx, place: QuarantineId) -> Result<(), store::Error> {
        let all = Key::new(Space::Quarantine);
        let kept: Vec<Key> = {
            let entries = tx.range(&all, &all.clone().after_prefix());
            entries.map(|entry| entry.map(|(key, _)| Key::from(key))).collect::<Result<_, _>>()?
        };
        let excess = (kept.len() + 1).saturating_sub(MAX_ENTRIES);
        for key in kept.into_iter().take(excess) {
            tx.delete(key)?;
        }
        let label = QuarantineHeader { reason: self.reason.clone(), size: self.body.len() };
        let mut record =
            serde_json::to_vec(&label).map_err(|cause| store::Error::Codec(cause.to_string()))?;
        record.push(b'\n');
        let limit = if self.signed { usize::MAX } else { MAX_UNSIGNED_BYTES };
        record.extend(self.body.iter().take(limit));
        tx.put(place.key(), record)
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
    /// Bodies that nobody understood, the newest first: up to `limit`, after (that is, older than) `after`.
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
        page.extend(
            record
                .zip(QuarantineId::from_key(key.as_slice()))
                .map(|(record, place)| decode_entry(place, record)),
        );
    }
    Ok(page)
}

fn decode_entry(place: QuarantineId, record: Vec<u8>) -> QuarantinedBody {
    let record = Bytes::from(record);
    let end = record.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let label: QuarantineHeader = serde_json::from_slice(&record.slice(..end)).unwrap_or_default();
    QuarantinedBody {
        id: place,
        reason: label.reason,
        size: label.size,
        body: record.slice((end + 1).min(record.len())..),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_store::TestStore;

    fn insert_body(scratch: &TestStore, n: u64, size: usize, signed: bool) {
        let body = Bytes::from(vec![b'x'; size]);
        let keeping = NewQuarantineEntry { body, reason: "is\nodd".to_owned(), signed };
        let place = QuarantineId { at: Timestamp(n), nonce: 7 };
        scratch.write(|tx| keeping.insert(tx, place)).unwrap();
    }

    fn stored_bodies(scratch: &TestStore) -> Vec<QuarantinedBody> {
        let mut kept = Vec::new();
        for (key, _) in scratch.entries().into_iter().filter(|(key, _)| key[0] == Space::Quarantine as u8) {
            let place = QuarantineId::from_key(&key).unwrap();
            let record = scratch.write(|tx| tx.get(&place.key())).unwrap();
            kept.push(decode_entry(place, record.unwrap()));
        }
        kept
    }

    #[test]
    fn quarantine_keeps_the_newest_two_hundred_bodies() {
        let scratch = TestStore::new();
        (1..=210).for_each(|n| insert_body(&scratch, n, 10_000, true));
        let found = stored_bodies(&scratch);
        let times: Vec<_> = found.iter().map(|kept| kept.id.at.millis()).collect();
        assert_eq!(times, (11..=210).collect::<Vec<_>>());
        assert!(found.iter().all(|kept| (kept.size, kept.body.len()) == (10_000, 10_000)));
        assert_eq!(found[0].reason, "is\nodd");
        let parts = scratch.entries().len() / found.len();
        assert_eq!(scratch.entries().len(), parts * found.len());
    }

    #[test]
    fn unsigned_body_is_truncated() {
        let scratch = TestStore::new();
        insert_body(&scratch, 1, 3 << 20, true);
        insert_body(&scratch, 2, 3 << 20, false);
        let lengths: Vec<_> =
            stored_bodies(&scratch).iter().map(|kept| (kept.size, kept.body.len())).collect();
        assert_eq!(lengths, [(3 << 20, 3 << 20), (3 << 20, MAX_UNSIGNED_BYTES)]);
    }
}
