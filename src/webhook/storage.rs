//! Records of the webhooks: endpoints, their cursors, and their parked events.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::events;
use relevo_domain::{InstanceNumber, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::endpoint::{Endpoint, EndpointId};
use super::retry::Failures;

/// Maximum number of keys that one commit deletes.
const PURGE_PAGE: usize = 256;

/// Maximum number of expired entries that each parked event deletes.
const EXPIRED_PER_PARKED: usize = 16;

/// Reference to one event of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventRef {
    /// The instance.
    pub instance: InstanceNumber,
    /// Sequence of the event in its log.
    pub sequence: u64,
}

impl fmt::Display for EventRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of instance number {}", self.sequence, self.instance.get())
    }
}

/// Position of an endpoint in the log of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// All events up to this sequence were delivered, parked, or did not match the filter.
    pub sequence: u64,
    /// Incremented when the cursor is moved or the endpoint is updated. A stream that started before cannot save its cursor
    /// any more.
    #[serde(default)]
    pub epoch: u32,
    /// The failed attempts of the event after `sequence`.
    #[serde(default)]
    pub trouble: Option<Failures>,
}

/// Why an event was parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParkReason {
    /// The receiver refused it for good, more than once.
    Refused,
    /// It failed for `give_up_after`, while the receiver accepted events of other instances.
    Exhausted,
}

impl ParkReason {
    /// The name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            ParkReason::Refused => "refused",
            ParkReason::Exhausted => "exhausted",
        }
    }
}

/// The record of a parked event. The event itself is in the log until retention deletes it.
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

/// Key of a parked event.
pub(super) fn parked_key(id: EndpointId, event_ref: EventRef) -> Key {
    parked_prefix(id).u32(event_ref.instance.get()).u64(event_ref.sequence)
}

/// All stored endpoints.
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

/// The stored record of an endpoint.
pub(super) fn get_endpoint(store: &Store, id: EndpointId) -> Result<Option<Endpoint>, Error> {
    store.get(&endpoint_key(id))?.map(|bytes| store::decode(&bytes)).transpose()
}

/// Stores a new endpoint, with a cursor at the end of the log of each of `instances`.
pub(super) fn create_endpoint(
    tx: &mut Tx,
    store: &Store,
    id: EndpointId,
    endpoint: &Endpoint,
    instances: &[InstanceNumber],
) -> Result<(), Error> {
    put_endpoint(tx, id, endpoint)?;
    for &instance in instances {
        // Events that are appended meanwhile are delivered.
        let tail = events::last_sequence(store, instance)?;
        move_cursor(tx, id, instance, tail)?;
    }
    Ok(())
}

/// Changes the record of an endpoint and returns it; `None` if the endpoint was deleted.
pub(super) fn modify_endpoint(
    tx: &mut Tx,
    id: EndpointId,
    change: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Option<Endpoint>, Error> {
    let Some(bytes) = tx.get(&endpoint_key(id))? else { return Ok(None) };
    let endpoint = change(store::decode(&bytes)?);
    put_endpoint(tx, id, &endpoint)?;
    Ok(Some(endpoint))
}

/// The endpoints of single instances.
///
/// # Errors
///
/// The store could not be read, or a record could not be decoded.
pub fn endpoints_of_instances(tx: &Tx) -> Result<Vec<(EndpointId, InstanceNumber)>, Error> {
    let all = Key::new(Space::Endpoint);
    let mut found = Vec::new();
    for entry in tx.range(&all, &all.clone().after_prefix()) {
        let key = Key::from(entry?.0);
        let (Some(id), Some(bytes)) = (endpoint_id_of_key(key.as_slice()), tx.get(&key)?) else { continue };
        let endpoint: Endpoint = store::decode(&bytes)?;
        found.extend(endpoint.scope.instance().map(|instance| (id, instance)));
    }
    Ok(found)
}

/// Deletes the records of endpoints. After the commit, pass the instance whose endpoints they were to
/// [`Handle::forget_instance`](super::Handle::forget_instance); it deletes their cursors and parked events.
///
/// # Errors
///
/// The store could not be read.
pub fn delete_endpoints(tx: &mut Tx, ids: &[EndpointId]) -> Result<(), Error> {
    ids.iter().try_for_each(|&id| tx.delete(endpoint_key(id)))
}

fn put_endpoint(tx: &mut Tx, id: EndpointId, endpoint: &Endpoint) -> Result<(), Error> {
    tx.put(endpoint_key(id), store::encode(endpoint)?)
}

/// The cursor of a new stream. For an instance that is newer than the endpoint it is before the first event. `None` if the
/// endpoint was deleted.
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

/// Saves the cursor of a stream. `false` if the cursor was moved or deleted since the stream started.
pub(super) fn save_cursor(
    tx: &mut Tx,
    id: EndpointId,
    instance: InstanceNumber,
    cursor: &Cursor,
) -> Result<bool, Error> {
    let key = cursor_key(id, instance);
    let stored: Option<Cursor> = tx.get(&key)?.map(|bytes| store::decode(&bytes)).transpose()?;
    let current = stored.is_some_and(|stored| stored.epoch == cursor.epoch);
    if current {
        tx.put(key, store::encode(cursor)?)?;
    }
    Ok(current)
}

/// Moves a cursor. A running stream can no longer save its own.
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

/// Resets the failures of all cursors of an endpoint, at their positions. Running streams can no longer save theirs.
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

/// All cursors of an endpoint.
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

/// Parks an event. Also deletes some entries before `log_start`, the first sequence in the log of the instance, because
/// their events no longer exist.
pub(super) fn park(
    tx: &mut Tx,
    id: EndpointId,
    event_ref: EventRef,
    parked: &ParkedRecord,
    log_start: u64,
) -> Result<(), Error> {
    let start = parked_key(id, EventRef { sequence: 0, ..event_ref });
    let end = parked_key(id, EventRef { sequence: log_start, ..event_ref });
    let old = {
        let keys = tx.range(&start, &end).take(EXPIRED_PER_PARKED).map(|entry| entry.map(|(key, _)| key));
        keys.collect::<Result<Vec<_>, _>>()?
    };
    old.into_iter().try_for_each(|key| tx.delete(key.into()))?;
    tx.put(parked_key(id, event_ref), store::encode(parked)?)
}

/// Up to `limit` parked events after `after`, ordered by instance and sequence.
pub(super) fn parked_page(
    store: &Store,
    id: EndpointId,
    after: Option<EventRef>,
    limit: usize,
) -> Result<Vec<(EventRef, ParkedRecord)>, Error> {
    let start = after.map_or_else(|| parked_prefix(id), |event_ref| parked_key(id, event_ref).successor());
    let mut page = Vec::new();
    for entry in store.range(&start, &parked_prefix(id).after_prefix()).take(limit) {
        let (key, bytes) = entry?;
        let sequence = key.get(21..).and_then(|bytes| bytes.first_chunk::<8>());
        if let (Some(instance), Some(sequence)) = (instance_of_key(&key), sequence) {
            let event_ref = EventRef { instance, sequence: u64::from_be_bytes(*sequence) };
            page.push((event_ref, store::decode(&bytes)?));
        }
    }
    Ok(page)
}

/// Deletes the cursors and parked events of a deleted endpoint, or those of an endpoint for one deleted instance.
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

/// Deleted endpoints with remaining cursors or parked events, because the node stopped before [`purge`] ended.
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
