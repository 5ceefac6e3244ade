//! The line as it lies in the store: `Relay` · order → frame; `Relay` alone → what is known about the line.

use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::frame::RelayFrame;

/// The first of the line.
#[derive(Debug)]
pub(super) struct QueueHead {
    pub order: u64,
    pub frame: RelayFrame,
    /// Attempts that failed so far.
    pub attempts: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct QueueMeta {
    /// The order of the last frame that joined.
    pub last: u64,
    pub waiting: u64,
    /// The frame that was last attempted in vain, and how often.
    #[serde(default)]
    failed: (u64, u32),
}

#[cfg(test)]
impl QueueMeta {
    /// How often the frame that was last attempted in vain failed.
    pub fn attempts(&self) -> u32 {
        self.failed.1
    }
}

pub(super) fn push(tx: &mut Tx, frame: &RelayFrame, capacity: u64) -> Result<(), Error> {
    let mut book = read_meta(|key| tx.get(key))?;
    if book.waiting >= capacity {
        return Err(Error::Full { what: "the relay's queue", limit: capacity });
    }
    book.last += 1;
    book.waiting += 1;
    tx.put(frame_key(book.last), store::encode(frame)?)?;
    write_meta(tx, &book)
}

pub(super) fn head(tx: &Tx) -> Result<Option<QueueHead>, Error> {
    let Some((key, _)) = tx.first(&first_key(), &end_key())? else { return Ok(None) };
    let order = order_of(&key)?;
    let bytes = tx.get(&key.into())?;
    let frame = store::decode(&bytes.unwrap_or_default())?;
    let (failed, attempts) = read_meta(|key| tx.get(key))?.failed;
    Ok(Some(QueueHead { order, frame, attempts: if failed == order { attempts } else { 0 } }))
}

/// Takes a frame out. Tells whether it was still there.
pub(super) fn remove(tx: &mut Tx, order: u64) -> Result<bool, Error> {
    if !tx.contains(&frame_key(order))? {
        return Ok(false);
    }
    tx.delete(frame_key(order))?;
    let mut book = read_meta(|key| tx.get(key))?;
    book.waiting = book.waiting.saturating_sub(1);
    write_meta(tx, &book)?;
    Ok(true)
}

/// Counts an attempt that failed.
pub(super) fn count_failure(tx: &mut Tx, order: u64) -> Result<(), Error> {
    let mut book = read_meta(|key| tx.get(key))?;
    let before = if book.failed.0 == order { book.failed.1 } else { 0 };
    book.failed = (order, before.saturating_add(1));
    write_meta(tx, &book)
}

/// Takes out up to `limit` frames that joined no later than `until`; tells how many.
pub(super) fn remove_first(tx: &mut Tx, until: u64, limit: usize) -> Result<u64, Error> {
    let orders: Vec<u64> = {
        let entries = tx.range(&first_key(), &frame_key(until).successor()).take(limit);
        entries.map(|entry| order_of(&entry?.0)).collect::<Result<_, _>>()?
    };
    let mut taken = 0;
    for order in orders {
        taken += u64::from(remove(tx, order)?);
    }
    Ok(taken)
}

pub(super) fn read_meta(get: impl Fn(&Key) -> Result<Option<Vec<u8>>, Error>) -> Result<QueueMeta, Error> {
    get(&meta_key())?.map_or_else(|| Ok(QueueMeta::default()), |bytes| store::decode(&bytes))
}

/// When the first of the line joined it.
pub(super) fn oldest(store: &Store) -> Result<Option<Timestamp>, Error> {
    let Some((key, _)) = store.range(&first_key(), &end_key()).next().transpose()? else { return Ok(None) };
    match store.get(&key.into()) {
        Ok(Some(bytes)) => Ok(Some(store::decode::<RelayFrame>(&bytes)?.queued_at)),
        // It left the line while it was read.
        Ok(None) | Err(Error::Codec(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_meta(tx: &mut Tx, book: &QueueMeta) -> Result<(), Error> {
    tx.put(meta_key(), store::encode(book)?)
}

fn meta_key() -> Key {
    Key::new(Space::Relay)
}

fn frame_key(order: u64) -> Key {
    Key::new(Space::Relay).u64(order)
}

/// Orders begin with 1.
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
