//! The event log: what happened to an instance, in one order, for every reader.
//!
//! One durable sequence per instance. An event is appended in the same commit as the change that it announces, so
//! neither exists without the other. Readers keep their own place and pull; nothing is pushed at them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::domain::{InstanceNumber, Timestamp};
use crate::store::{self, Error, Key, Space, Store, Tx};

/// One event of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// For example `message`, `message_ack`, `receipt`, `status`, `raw`.
    #[serde(rename = "type")]
    pub kind: String,
    pub at: Timestamp,
    /// What receivers get as `data`.
    pub data: Value,
}

/// An event with its place in the log of its instance; sequences begin at 1 and have no gaps.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub sequence: u64,
    pub event: Event,
}

/// Appends an event to an instance's log and tells its sequence.
pub fn append(tx: &mut Tx, instance: InstanceNumber, event: &Event) -> Result<u64, Error> {
    let tail = tail_key(instance);
    let last = tx.get(&tail)?.map_or(0, |bytes| number(&bytes));
    let sequence = last + 1;
    tx.put(tail, sequence.to_be_bytes().to_vec())?;
    // JSON inside, because `data` is JSON outside; it must come back exactly as it was.
    let bytes = serde_json::to_vec(event).map_err(|cause| Error::Codec(cause.to_string()))?;
    store::put_large(tx, event_key(instance, sequence), &bytes)?;
    Ok(sequence)
}

/// Changes whenever events were appended to any log, after they are durable. Carries nothing: readers look where they
/// stand against [`last_sequence`].
pub fn watch(store: &Store) -> watch::Receiver<()> {
    store.watch_tails()
}

/// The sequence of the newest event of an instance; 0 when it has none.
pub fn last_sequence(store: &Store, instance: InstanceNumber) -> Result<u64, Error> {
    Ok(store.get(&tail_key(instance))?.map_or(0, |bytes| number(&bytes)))
}

/// Up to `limit` events after the sequence `after`, oldest first. Reads the disk.
pub fn read(
    store: &Store,
    instance: InstanceNumber,
    after: u64,
    limit: usize,
) -> Result<Vec<Envelope>, Error> {
    let (start, end) = (event_key(instance, after.saturating_add(1)), log_end(instance));
    let mut page = Vec::new();
    for entry in store.range(&start, &end).take(limit) {
        let key = Key::from(entry?.0);
        let Some(bytes) = store::get_large(&key, |key| store.get(key))? else { continue };
        let event = serde_json::from_slice(&bytes).map_err(|cause| Error::Codec(cause.to_string()))?;
        page.push(Envelope { sequence: number(key.as_slice().get(5..).unwrap_or_default()), event });
    }
    Ok(page)
}

/// Deletes up to `limit` events that are older than `before`; tells how many it deleted.
pub fn trim(tx: &mut Tx, instance: InstanceNumber, before: Timestamp, limit: usize) -> Result<usize, Error> {
    let old = {
        let entries = tx.range(&event_key(instance, 0), &log_end(instance));
        let keys = entries.take(limit).map(|entry| entry.map(|(key, _)| Key::from(key)));
        keys.collect::<Result<Vec<_>, _>>()?
    };
    let mut deleted = 0;
    for key in old {
        let Some(bytes) = store::get_large(&key, |key| tx.get(key))? else { continue };
        let event: Result<Event, _> = serde_json::from_slice(&bytes);
        if event.is_ok_and(|event| event.at >= before) {
            break;
        }
        store::delete_large(tx, key)?;
        deleted += 1;
    }
    Ok(deleted)
}

fn event_key(instance: InstanceNumber, sequence: u64) -> Key {
    Key::new(Space::Event).u32(instance.get()).u64(sequence)
}

fn log_end(instance: InstanceNumber) -> Key {
    Key::new(Space::Event).u32(instance.get()).after_prefix()
}

fn tail_key(instance: InstanceNumber) -> Key {
    Key::new(Space::EventTail).u32(instance.get())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::store::{Folder, Options};

    fn event(n: u64, size: usize) -> Event {
        let data = serde_json::json!({ "n": n, "text": "x".repeat(size) });
        Event { kind: "raw".to_owned(), at: Timestamp(n), data }
    }

    #[tokio::test]
    async fn events_come_back_in_order_whole_and_from_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let (one, two) = (InstanceNumber::FIRST, InstanceNumber::FIRST.next().unwrap());
        let mut tails = watch(&store);
        for n in 1..=5 {
            store.write(move |tx| append(tx, one, &event(n, 5000))).await.unwrap();
            store.write(move |tx| append(tx, two, &event(n * 10, 1))).await.unwrap();
        }
        tails.changed().await.unwrap();
        let page = read(&store, one, 2, 2).unwrap();
        assert_eq!(page.iter().map(|envelope| envelope.sequence).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(page[0].event, event(3, 5000));
        assert_eq!(last_sequence(&store, one).unwrap(), 5);
        assert_eq!(store.write(move |tx| trim(tx, one, Timestamp(4), 100)).await.unwrap(), 3);
        assert_eq!(read(&store, one, 0, 9).unwrap().len(), 2);
        assert_eq!(read(&store, two, 0, 9).unwrap().len(), 5);
    }
}
