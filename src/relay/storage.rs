//! The line as it lies in the store: `Relay` · order → frame; `Relay` alone → what is known about the line.

use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::frame::Frame;

/// The first of the line.
#[derive(Debug)]
pub(super) struct Head {
    pub order: u64,
    pub frame: Frame,
    /// Attempts that failed so far.
    pub attempts: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Book {
    /// The order of the last frame that joined.
    pub last: u64,
    pub waiting: u64,
    /// The frame that was last attempted in vain, and how often.
    #[serde(default)]
    failed: (u64, u32),
}

#[cfg(test)]
impl Book {
    /// How often the frame that was last attempted in vain failed.
    pub fn attempts(&self) -> u32 {
        self.failed.1
    }
}

pub(super) fn push(tx: &mut Tx, frame: &Frame, capacity: u64) -> Result<(), Error> {
    let mut book = book(|key| tx.get(key))?;
    if book.waiting >= capacity {
        return Err(Error::Full { what: "the relay's queue", limit: capacity });
    }
    book.last += 1;
    book.waiting += 1;
    store::put_large(tx, key_of(book.last), &store::encode(frame)?)?;
    save(tx, &book)
}

pub(super) fn head(tx: &Tx) -> Result<Option<Head>, Error> {
    let Some((key, _)) = tx.first(&first(), &end())? else { return Ok(None) };
    let order = order_of(&key)?;
    let bytes = store::get_large(&key.into(), |key| tx.get(key))?;
    let frame = store::decode(&bytes.unwrap_or_default())?;
    let (failed, attempts) = book(|key| tx.get(key))?.failed;
    Ok(Some(Head { order, frame, attempts: if failed == order { attempts } else { 0 } }))
}

/// Takes a frame out. Tells whether it was still there.
pub(super) fn take(tx: &mut Tx, order: u64) -> Result<bool, Error> {
    if tx.get(&key_of(order))?.is_none() {
        return Ok(false);
    }
    store::delete_large(tx, key_of(order))?;
    let mut book = book(|key| tx.get(key))?;
    book.waiting = book.waiting.saturating_sub(1);
    save(tx, &book)?;
    Ok(true)
}

/// Counts an attempt that failed.
pub(super) fn count_failure(tx: &mut Tx, order: u64) -> Result<(), Error> {
    let mut book = book(|key| tx.get(key))?;
    let before = if book.failed.0 == order { book.failed.1 } else { 0 };
    book.failed = (order, before.saturating_add(1));
    save(tx, &book)
}

/// Takes out up to `limit` frames that joined no later than `until`; tells how many.
pub(super) fn take_first(tx: &mut Tx, until: u64, limit: usize) -> Result<u64, Error> {
    let orders: Vec<u64> = {
        let entries = tx.range(&first(), &key_of(until).successor()).take(limit);
        entries.map(|entry| order_of(&entry?.0)).collect::<Result<_, _>>()?
    };
    let mut taken = 0;
    for order in orders {
        taken += u64::from(take(tx, order)?);
    }
    Ok(taken)
}

pub(super) fn book(get: impl Fn(&Key) -> Result<Option<Vec<u8>>, Error>) -> Result<Book, Error> {
    get(&book_key())?.map_or_else(|| Ok(Book::default()), |bytes| store::decode(&bytes))
}

/// When the first of the line joined it.
pub(super) fn oldest(store: &Store) -> Result<Option<Timestamp>, Error> {
    let Some((key, _)) = store.range(&first(), &end()).next().transpose()? else { return Ok(None) };
    match store::get_large(&key.into(), |key| store.get(key)) {
        Ok(Some(bytes)) => Ok(Some(store::decode::<Frame>(&bytes)?.queued_at)),
        // It left the line while it was read.
        Ok(None) | Err(Error::Codec(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn save(tx: &mut Tx, book: &Book) -> Result<(), Error> {
    tx.put(book_key(), store::encode(book)?)
}

fn book_key() -> Key {
    Key::new(Space::Relay)
}

fn key_of(order: u64) -> Key {
    Key::new(Space::Relay).u64(order)
}

/// Orders begin with 1.
fn first() -> Key {
    key_of(0)
}

fn end() -> Key {
    Key::new(Space::Relay).after_prefix()
}

fn order_of(key: &[u8]) -> Result<u64, Error> {
    let order = key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
    order.ok_or_else(|| Error::Codec("a key of the relay's queue has no order".to_owned()))
}
