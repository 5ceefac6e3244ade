//! Bodies that nobody understood, kept for inspection: the newest, and of what nobody signed only the beginning.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;
use relevo_store::{self as store, Key, Space, Store, Tx};

use super::{Error, Handle};

/// So many are kept.
const KEPT_BODIES: usize = 200;

/// Of a body that no secret vouches for so many bytes are kept: anybody could have sent it.
const UNSIGNED_BYTES: usize = 64 << 10;

/// A body that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub place: KeptPlace,
    /// What nobody understood.
    pub reason: String,
    /// The length that it had when it came, in bytes. `body` is shorter when it was cut.
    pub size: usize,
    pub body: Bytes,
}

/// Where a kept body lies: newer ones come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeptPlace {
    pub at: Timestamp,
    /// Tells those of one millisecond apart.
    pub nonce: u64,
}

/// What stands before the body, as one line of JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Label {
    reason: String,
    size: usize,
}

/// A body on its way to those that are kept.
#[derive(Debug)]
pub(super) struct Keeping {
    pub body: Bytes,
    pub reason: String,
    pub signed: bool,
}

impl Keeping {
    /// Writes the body down, forgetting the oldest of those kept.
    pub fn keep(&self, tx: &mut Tx, place: KeptPlace) -> Result<(), store::Error> {
        let all = Key::new(Space::Raw);
        let kept: Vec<Key> = {
            let entries = tx.range(&all, &all.clone().after_prefix());
            entries.map(|entry| entry.map(|(key, _)| Key::from(key))).collect::<Result<_, _>>()?
        };
        let excess = (kept.len() + 1).saturating_sub(KEPT_BODIES);
        for key in kept.into_iter().take(excess) {
            store::delete_large(tx, key)?;
        }
        let label = Label { reason: self.reason.clone(), size: self.body.len() };
        let mut record =
            serde_json::to_vec(&label).map_err(|cause| store::Error::Codec(cause.to_string()))?;
        record.push(b'\n');
        let limit = if self.signed { usize::MAX } else { UNSIGNED_BYTES };
        record.extend(self.body.iter().take(limit));
        store::put_large(tx, place.key(), &record)
    }
}

impl KeptPlace {
    fn key(self) -> Key {
        Key::new(Space::Raw).u64(self.at.millis()).u64(self.nonce)
    }

    fn of(key: &[u8]) -> Option<Self> {
        let (at, nonce) = key.get(1..)?.split_first_chunk::<8>()?;
        let nonce = nonce.first_chunk::<8>()?;
        Some(Self { at: Timestamp(u64::from_be_bytes(*at)), nonce: u64::from_be_bytes(*nonce) })
    }
}

impl Handle {
    /// Bodies that nobody understood, the newest first: up to `limit`, after (that is, older than) `after`.
    pub async fn kept(&self, after: Option<KeptPlace>, limit: usize) -> Result<Vec<Kept>, Error> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || read(&store, after, limit)).await;
        Ok(read.map_err(|cause| store::Error::Failed(cause.to_string()))??)
    }
}

fn read(store: &Store, after: Option<KeptPlace>, limit: usize) -> Result<Vec<Kept>, store::Error> {
    let all = Key::new(Space::Raw);
    let end = after.map_or(all.clone().after_prefix(), KeptPlace::key);
    let mut page = Vec::new();
    for entry in store.range(&all, &end).rev() {
        if page.len() == limit {
            break;
        }
        let key = Key::from(entry?.0);
        let record = whole(&key, |key| store.get(key))?;
        page.extend(record.zip(KeptPlace::of(key.as_slice())).map(|(record, place)| unpack(place, record)));
    }
    Ok(page)
}

/// A record with all of its parts; `None` when it was forgotten meanwhile, maybe between two of them.
fn whole(
    key: &Key,
    get: impl Fn(&Key) -> Result<Option<Vec<u8>>, store::Error>,
) -> Result<Option<Vec<u8>>, store::Error> {
    match store::get_large(key, &get) {
        Err(_) if get(key)?.is_none() => Ok(None),
        record => record,
    }
}

fn unpack(place: KeptPlace, record: Vec<u8>) -> Kept {
    let record = Bytes::from(record);
    let end = record.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let label: Label = serde_json::from_slice(&record.slice(..end)).unwrap_or_default();
    Kept { place, reason: label.reason, size: label.size, body: record.slice((end + 1).min(record.len())..) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use relevo_store::Scratch;

    fn keep(scratch: &Scratch, n: u64, size: usize, signed: bool) {
        let body = Bytes::from(vec![b'x'; size]);
        let keeping = Keeping { body, reason: "is\nodd".to_owned(), signed };
        let place = KeptPlace { at: Timestamp(n), nonce: 7 };
        scratch.write(|tx| keeping.keep(tx, place)).unwrap();
    }

    fn kept(scratch: &Scratch) -> Vec<Kept> {
        let mut kept = Vec::new();
        for (key, _) in scratch.entries().into_iter().filter(|(key, _)| key[0] == Space::Raw as u8) {
            let place = KeptPlace::of(&key).unwrap();
            let record = scratch.write(|tx| store::get_large(&place.key(), |key| tx.get(key))).unwrap();
            kept.push(unpack(place, record.unwrap()));
        }
        kept
    }

    #[test]
    fn the_newest_two_hundred_are_kept_and_leave_nothing_behind() {
        let scratch = Scratch::new();
        (1..=210).for_each(|n| keep(&scratch, n, 10_000, true));
        let found = kept(&scratch);
        let times: Vec<_> = found.iter().map(|kept| kept.place.at.millis()).collect();
        assert_eq!(times, (11..=210).collect::<Vec<_>>());
        assert!(found.iter().all(|kept| (kept.size, kept.body.len()) == (10_000, 10_000)));
        assert_eq!(found[0].reason, "is\nodd");
        let parts = scratch.entries().len() / found.len();
        assert_eq!(scratch.entries().len(), parts * found.len());
    }

    #[test]
    fn what_is_forgotten_while_it_is_read_is_passed_over() {
        let scratch = Scratch::new();
        keep(&scratch, 1, 10_000, true);
        let key = KeptPlace { at: Timestamp(1), nonce: 7 }.key();
        let head = scratch.write(|tx| tx.get(&key)).unwrap();
        let reads = Cell::new(0);
        let forgotten_after_its_head = |_: &Key| Ok(head.clone().filter(|_| reads.replace(1) == 0));
        assert_eq!(whole(&key, forgotten_after_its_head).unwrap(), None);
        let damaged = |asked: &Key| Ok(head.clone().filter(|_| *asked == key));
        assert!(whole(&key, damaged).is_err(), "a part that is missing alone is damage");
    }

    #[test]
    fn what_nobody_signed_is_cut() {
        let scratch = Scratch::new();
        keep(&scratch, 1, 3 << 20, true);
        keep(&scratch, 2, 3 << 20, false);
        let lengths: Vec<_> = kept(&scratch).iter().map(|kept| (kept.size, kept.body.len())).collect();
        assert_eq!(lengths, [(3 << 20, 3 << 20), (3 << 20, UNSIGNED_BYTES)]);
    }
}
