//! What is written down: endpoints, their places in the logs, and what they refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use relevo_domain::{InstanceNumber, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::endpoint::{Endpoint, EndpointId};
use super::retry::Failures;

/// Keys that one commit deletes at most.
const PURGE_PAGE: usize = 256;

/// Parked events without an event that each new one clears away.
const EXPIRED_PER_PARKED: usize = 16;

/// One event of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventRef {
    pub instance: InstanceNumber,
    pub sequence: u64,
}

impl fmt::Display for EventRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of instance number {}", self.sequence, self.instance.get())
    }
}

/// How far an endpoint was told of an instance's log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Everything up to here was delivered, parked, or not wanted.
    pub sequence: u64,
    /// Grows when somebody moves the cursor by hand or changes the endpoint: a stream that began before writes no
    /// more.
    #[serde(default)]
    pub epoch: u32,
    /// What the event behind `sequence` has met so far.
    #[serde(default)]
    pub trouble: Option<Failures>,
}

/// Why an event was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParkReason {
    /// The receiver refused it for good, more than once.
    Refused,
    /// It failed for as long as an event may, while the receiver took those of other instances.
    Exhausted,
}

impl ParkReason {
    pub fn as_str(self) -> &'static str {
        match self {
            ParkReason::Refused => "refused",
            ParkReason::Exhausted => "exhausted",
        }
    }
}

/// An event put aside. The event itself stays in the log, and with it goes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ParkedRecord {
    pub at: Timestamp,
    pub reason: ParkReason,
    pub attempts: u32,
    pub error: String,
}

fn endpoint_key(id: EndpointId) -> Key {
    Key::new(Space::Endpoint).bytes(id.as_bytes())
}

fn cursor_prefix(id: EndpointId) -> Key {
    Key::new(Space::EndpointCursor).bytes(id.as_bytes())
}

fn cursor_key(id: EndpointId, instance: InstanceNumber) -> Key {
    cursor_prefix(id).u32(instance.get())
}

fn parked_prefix(id: EndpointId) -> Key {
    Key::new(Space::Parked).bytes(id.as_bytes())
}

pub(super) fn parked_key(id: EndpointId, place: EventRef) -> Key {
    parked_prefix(id).u32(place.instance.get()).u64(place.sequence)
}

/// Every endpoint that is written down.
pub(super) fn load(store: &Store) -> Result<Vec<(EndpointId, Endpoint)>, Error> {
    let all = Key::new(Space::Endpoint);
    let mut found = Vec::new();
    for entry in store.range(&all, &all.clone().after_prefix()) {
        let key = Key::from(entry?.0);
        let bytes = store.get(&key)?;
        if let (Some(id), Some(bytes)) = (endpoint_id_of_key(key.as_slice()), bytes) {
            found.push((id, store::decode(&bytes)?));
        }
    }
    Ok(found)
}

pub(super) fn put_endpoint(tx: &mut Tx, id: EndpointId, endpoint: &Endpoint) -> Result<(), Error> {
    tx.put(endpoint_key(id), store::encode(endpoint)?)
}

/// Deletes the endpoint itself; what it leaves behind is for [`purge`].
pub(super) fn delete_endpoint(tx: &mut Tx, id: EndpointId) -> Result<(), Error> {
    tx.delete(endpoint_key(id))
}

/// The cursor of a stream that begins. An instance that came after its endpoint is told from its first event;
/// `None` when the endpoint is gone.
pub(super) fn load_or_create_cursor(
    tx: &mut Tx,
    id: EndpointId,
    instance: InstanceNumber,
) -> Result<Option<Cursor>, Error> {
    if let Some(bytes) = tx.get(&cursor_key(id, instance))? {
        return Ok(Some(store::decode(&bytes)?));
    }
    if !tx.contains(&endpoint_key(id))? {
        return Ok(None);
    }
    let cursor = Cursor::default();
    tx.put(cursor_key(id, instance), store::encode(&cursor)?)?;
    Ok(Some(cursor))
}

/// Keeps a stream's place; `false` when the stream is not the cursor's any more.
pub(super) fn save_cursor(
    tx: &mut Tx,
    id: EndpointId,
    instance: InstanceNumber,
    cursor: &Cursor,
) -> Result<bool, Error> {
    let key = cursor_key(id, instance);
    let stored: Option<Cursor> = tx.get(&key)?.map(|bytes| store::decode(&bytes)).transpose()?;
    let ours = stored.is_some_and(|stored| stored.epoch == cursor.epoch);
    if ours {
        tx.put(key, store::encode(cursor)?)?;
    }
    Ok(ours)
}

/// Puts a cursor at a place, whatever stream is reading there.
pub(super) fn move_cursor(
    tx: &mut Tx,
    id: EndpointId,
    instance: InstanceNumber,
    sequence: u64,
) -> Result<(), Error> {
    let key = cursor_key(id, instance);
    let stored: Option<Cursor> = tx.get(&key)?.map(|bytes| store::decode(&bytes)).transpose()?;
    let epoch = stored.map_or(0, |stored| stored.epoch.wrapping_add(1));
    tx.put(key, store::encode(&Cursor { sequence, epoch, trouble: None })?)
}

/// Leaves every cursor of an endpoint where it is, free of trouble and of the streams that read there.
pub(super) fn reset_cursors(tx: &mut Tx, id: EndpointId) -> Result<(), Error> {
    let prefix = cursor_prefix(id);
    let entries = tx.range(&prefix, &prefix.clone().after_prefix()).collect::<Result<Vec<_>, _>>()?;
    for (key, bytes) in entries {
        let before: Cursor = store::decode(&bytes)?;
        let cursor = Cursor { epoch: before.epoch.wrapping_add(1), trouble: None, ..before };
        tx.put(key.into(), store::encode(&cursor)?)?;
    }
    Ok(())
}

/// Every cursor of an endpoint.
pub(super) fn cursors(store: &Store, id: EndpointId) -> Result<Vec<(InstanceNumber, Cursor)>, Error> {
    let prefix = cursor_prefix(id);
    let mut found = Vec::new();
    for entry in store.range(&prefix, &prefix.clone().after_prefix()) {
        let (key, bytes) = entry?;
        if let Some(instance) = instance_of_key(&key) {
            found.push((instance, store::decode(&bytes)?));
        }
    }
    Ok(found)
}

/// Puts an event aside. Those that were put aside before `kept_from`, where the instance's log begins, are
/// forgotten by and by.
pub(super) fn park(
    tx: &mut Tx,
    id: EndpointId,
    place: EventRef,
    parked: &ParkedRecord,
    kept_from: u64,
) -> Result<(), Error> {
    let start = parked_key(id, EventRef { sequence: 0, ..place });
    let end = parked_key(id, EventRef { sequence: kept_from, ..place });
    let old = {
        let keys = tx.range(&start, &end).take(EXPIRED_PER_PARKED).map(|entry| entry.map(|(key, _)| key));
        keys.collect::<Result<Vec<_>, _>>()?
    };
    old.into_iter().try_for_each(|key| tx.delete(key.into()))?;
    tx.put(parked_key(id, place), store::encode(parked)?)
}

/// Up to `limit` parked events behind `after`, in the order of instances and sequences.
pub(super) fn parked_page(
    store: &Store,
    id: EndpointId,
    after: Option<EventRef>,
    limit: usize,
) -> Result<Vec<(EventRef, ParkedRecord)>, Error> {
    let start = after.map_or_else(|| parked_prefix(id), |place| parked_key(id, place).successor());
    let mut page = Vec::new();
    for entry in store.range(&start, &parked_prefix(id).after_prefix()).take(limit) {
        let (key, bytes) = entry?;
        let sequence = key.get(21..).and_then(|bytes| bytes.first_chunk::<8>());
        if let (Some(instance), Some(sequence)) = (instance_of_key(&key), sequence) {
            let place = EventRef { instance, sequence: u64::from_be_bytes(*sequence) };
            page.push((place, store::decode(&bytes)?));
        }
    }
    Ok(page)
}

/// Deletes what an endpoint that is gone left behind: everything, or what it knew of one instance.
pub(super) async fn purge(
    store: &Store,
    id: EndpointId,
    instance: Option<InstanceNumber>,
) -> Result<(), Error> {
    for prefix in [cursor_prefix(id), parked_prefix(id)] {
        let prefix = instance.map_or(prefix.clone(), |instance| prefix.u32(instance.get()));
        loop {
            let prefix = prefix.clone();
            let deleted = store.write(move |tx| delete_page(tx, &prefix)).await?;
            if deleted < PURGE_PAGE {
                break;
            }
        }
    }
    Ok(())
}

fn delete_page(tx: &mut Tx, prefix: &Key) -> Result<usize, Error> {
    let page = {
        let entries = tx.range(prefix, &prefix.clone().after_prefix()).take(PURGE_PAGE);
        entries.map(|entry| entry.map(|(key, _)| key)).collect::<Result<Vec<_>, _>>()?
    };
    let deleted = page.len();
    page.into_iter().try_for_each(|key| tx.delete(key.into()))?;
    Ok(deleted)
}

/// Endpoints that are gone and left something behind, because the node ended before it was deleted.
pub(super) fn orphans(store: &Store) -> Result<Vec<EndpointId>, Error> {
    let mut found = Vec::new();
    for space in [Space::EndpointCursor, Space::Parked] {
        let end = Key::new(space).after_prefix();
        let mut start = Key::new(space);
        while let Some((key, _)) = store.range(&start, &end).next().transpose()? {
            let Some(id) = endpoint_id_of_key(&key) else { break };
            if !store.contains(&endpoint_key(id))? && !found.contains(&id) {
                found.push(id);
            }
            start = Key::new(space).bytes(id.as_bytes()).after_prefix();
        }
    }
    Ok(found)
}

fn endpoint_id_of_key(key: &[u8]) -> Option<EndpointId> {
    key.get(1..)?.first_chunk::<16>().map(|bytes| EndpointId::from_bytes(*bytes))
}

fn instance_of_key(key: &[u8]) -> Option<InstanceNumber> {
    InstanceNumber::from_be_bytes(*key.get(17..)?.first_chunk::<4>()?)
}
