//! Records of the relay queue: `Relay` · order → frame; `Relay` alone → the counters of the queue.

use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::frame::RelayFrame;

/// The head of the queue.
#[derive(Debug)]
pub(super) struct QueueHead {
    pub order: u64,
    pub frame: RelayFrame,
    /// Failed attempts of this frame.
    pub attempts: u32,
}

/// Counters of the queue.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct QueueMeta {
    /// Order of the frame that was queued last.
    pub last: u64,
    /// Number of queued frames.
    pub waiting: u64,
    /// Order of the frame that failed last, and the number of its failed attempts.
    #[serde(default)]
    failed: (u64, u32),
}

#[cfg(test)]
impl QueueMeta {
    /// Failed attempts of the frame that failed last.
    pub fn attempts(&self) -> u32 {
        self.failed.1
    }
}

/// Appends a frame.
pub(super) fn push(tx: &mut Tx, frame: &RelayFrame, capacity: u64) -> Result<(), Error> {
    let mut meta = read_meta(|key| tx.get(key))?;
    if meta.waiting >= capacity {
        return Err(Error::Full { what: "the relay's queue", limit: capacity });
    }
    meta.last += 1;
    meta.waiting += 1;
    tx.put(frame_key(meta.last), store::encode(frame)?)?;
    write_meta(tx, &meta)
}

/// Reads the head of the queue.
pub(super) fn head(tx: &Tx) -> Result<Option<QueueHead>, Error> {
    let Some((key, _)) = tx.first(&first_key(), &end_key())? else { return Ok(None) };
    let order = order_of(&key)?;
    let bytes = tx.get(&key.into())?;
    let frame = store::decode(&bytes.unwrap_or_default())?;
    let (failed, attempts) = read_meta(|key| tx.get(key))?.failed;
    Ok(Some(QueueHead { order, frame, attempts: if failed == order { attempts } else { 0 } }))
}

/// Deletes a frame. Returns whether it was still queued.
pub(super) fn remove(tx: &mut Tx, order: u64) -> Result<bool, Error> {
    if !tx.contains(&frame_key(order))? {
        return Ok(false);
    }
    tx.delete(frame_key(order))?;
    let mut meta = read_meta(|key| tx.get(key))?;
    meta.waiting = meta.waiting.saturating_sub(1);
    write_meta(tx, &meta)?;
    Ok(true)
}

/// Counts a failed attempt.
pub(super) fn count_failure(tx: &mut Tx, order: u64) -> Result<(), Error> {
    let mut meta = read_meta(|key| tx.get(key))?;
    let before = if meta.failed.0 == order { meta.failed.1 } else { 0 };
    meta.failed = (order, before.saturating_add(1));
    write_meta(tx, &meta)
}

/// Deletes up to `limit` frames up to the order `until`, and returns their number.
pub(super) fn remove_first(tx: &mut Tx, until: u64, limit: usize) -> Result<u64, Error> {
    let orders: Vec<u64> = {
        let entries = tx.range(&first_key(), &frame_key(until).successor()).take(limit);
        entries.map(|entry| order_of(&entry?.0)).collect::<Result<_, _>>()?
    };
    let mut deleted = 0;
    for order in orders {
        deleted += u64::from(remove(tx, order)?);
    }
    Ok(deleted)
}

pub(super) fn read_meta(get: impl Fn(&Key) -> Result<Option<Vec<u8>>, Error>) -> Result<QueueMeta, Error> {
    get(&meta_key())?.map_or_else(|| Ok(QueueMeta::default()), |bytes| store::decode(&bytes))
}

/// Time at which the head of the queue was queued.
pub(super) fn oldest(store: &Store) -> Result<Option<Timestamp>, Error> {
    let Some((key, _)) = store.range(&first_key(), &end_key()).next().transpose()? else { return Ok(None) };
    match store.get(&key.into()) {
        Ok(Some(bytes)) => Ok(Some(store::decode::<RelayFrame>(&bytes)?.queued_at)),
        // The frame was deleted while it was read.
        Ok(None) | Err(Error::Codec(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_meta(tx: &mut Tx, meta: &QueueMeta) -> Result<(), Error> {
    tx.put(meta_key(), store::encode(meta)?)
}

fn meta_key() -> Key {
    Key::new(Space::Relay)
}

fn frame_key(order: u64) -> Key {
    Key::new(Space::Relay).u64(order)
}

/// Below every frame: orders begin with 1.
fn first_key() -> Key {
    frame_key(0)
}

fn end_key() -> Key {
    Key::new(Space::Relay).after_prefix()
}

fn order_of(key: &[u8]) -> Result<u64, Error> {
    let order = key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    order.ok_or_else(|| Error::Codec("a key of the relay's queue has no order".to_owned()))
}
