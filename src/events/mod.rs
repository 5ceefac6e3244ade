//! The event log: one durable, ordered sequence of events per instance.
//!
//! An event is appended in the same commit as the change that it announces, so neither exists without the other. Readers
//! keep a cursor and pull; nothing is pushed to them.
//!
//! A log is bounded by the age of its events and by their bytes. A reader whose next events were deleted receives one
//! event of kind [`EventKind::Gap`] in their place, with their number.
//!
//! Readers see durable events only, so a cursor means the same event after a crash. The newest durable sequence of each
//! log is published after the sync of each commit: a reader at the end waits for it to change, and a reader behind it
//! reads up to it without waiting for a commit.

mod cursor;
mod event_kind;
mod filter;
mod log;
mod record;
mod scan;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};
use tokio::sync::watch;

use relevo_domain::{ErrorKind, EventKind, InstanceNumber, Timestamp, ValidationError};
use relevo_store::{self as store, Key, Space, Store, Tx};

pub use cursor::LogCursor;
pub use event_kind::parse_kind;
pub use filter::EventFilter;
pub use log::{EventLog, read};
pub use scan::{LogItem, LogPage, LogPageQuery, page};

#[cfg(test)]
pub(crate) use record::decode;
use record::{EventHeader, LogTail, event_key, log_end, tail_key};

/// One event of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The kind of the event.
    pub kind: EventKind,
    /// Time of the event.
    pub at: Timestamp,
    /// The `data` that receivers get.
    pub data: Value,
}

/// An event with its sequence in the log of its instance. Sequences begin with 1 and are consecutive.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub sequence: u64,
    pub event: Event,
}

impl Envelope {
    /// The event of kind [`EventKind::Gap`] in place of the deleted events `from` to `to`. Its data is
    /// `{"from": first sequence, "to": last sequence, "missing": number of events}`; its sequence is `to`. Every reader
    /// receives it, whatever its filter. It is never stored.
    fn gap(from: u64, to: u64, at: Timestamp) -> Self {
        let missing = to.saturating_sub(from).saturating_add(1);
        let data = json!({ "from": from, "to": to, "missing": missing });
        Self { sequence: to, event: Event { kind: EventKind::Gap, at, data } }
    }

    /// Number of deleted events that this gap replaces; `None` for an event of the log.
    pub fn missing(&self) -> Option<u64> {
        let event = &self.event;
        if event.kind == EventKind::Gap { event.data.get("missing").and_then(Value::as_u64) } else { None }
    }
}

/// Bounds of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Older events are deleted.
    pub since: Timestamp,
    /// The oldest events are deleted until the rest fits into this many bytes.
    pub bytes: u64,
}

/// Why events could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The cursor of the request is wrong.
    #[error(transparent)]
    Cursor(#[from] ValidationError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The kind of the error, from which the API derives its answer.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Cursor(_) => ErrorKind::Invalid,
            Error::Store(error) => error.kind(),
        }
    }
}

/// Appends an event to the log of an instance and returns its sequence.
///
/// # Errors
///
/// The store cannot be read, or the event cannot be encoded.
pub fn append(tx: &mut Tx, instance: InstanceNumber, event: &Event) -> Result<u64, store::Error> {
    let tail = tail_key(instance);
    let LogTail { sequence, bytes } = LogTail::read(tx.get(&tail)?)?;
    let sequence = sequence + 1;
    let record = record::encode(event, bytes)?;
    let size = u64::try_from(record.len()).unwrap_or(u64::MAX);
    tx.put(tail, LogTail { sequence, bytes: bytes.saturating_add(size) }.to_vec())?;
    tx.put(event_key(instance, sequence), record)?;
    Ok(sequence)
}

/// Signals new durable events of this instance, or of any instance if it is `None`. The signal carries no data: readers
/// compare their cursor with [`last_sequence`].
pub fn watch(store: &Store, instance: Option<InstanceNumber>) -> watch::Receiver<()> {
    match instance {
        Some(instance) => store.watch_tail(&tail_key(instance)),
        None => store.watch_tails(),
    }
}

/// The sequence of the newest durable event of an instance; 0 if there is none. Reads memory only.
///
/// # Errors
///
/// The tail of the log cannot be decoded.
pub fn last_sequence(store: &Store, instance: InstanceNumber) -> Result<u64, store::Error> {
    Ok(LogTail::read(store.durable_tail(&tail_key(instance)))?.sequence)
}

/// Deletes up to `limit` events outside the bounds `keep`, oldest first, and returns their number.
///
/// # Errors
///
/// The store cannot be read.
pub fn trim(
    tx: &mut Tx,
    instance: InstanceNumber,
    keep: &RetentionLimits,
    limit: usize,
) -> Result<usize, store::Error> {
    let tail = LogTail::read(tx.get(&tail_key(instance))?)?;
    let mut old = Vec::new();
    for entry in tx.range(&event_key(instance, 0), &log_end(instance)).take(limit) {
        let (key, value) = entry?;
        // A record that cannot be decoded is deleted, too.
        let expired = EventHeader::read(&value).is_none_or(|header| {
            header.at < keep.since || tail.bytes.saturating_sub(header.offset) > keep.bytes
        });
        if !expired {
            break;
        }
        old.push(Key::from(key));
    }
    let deleted = old.len();
    old.into_iter().try_for_each(|key| tx.delete(key))?;
    Ok(deleted)
}

/// The instances that have a log.
///
/// # Errors
///
/// The store cannot be read.
pub fn logs(tx: &Tx) -> Result<Vec<InstanceNumber>, store::Error> {
    let tails = Key::new(Space::EventTail);
    let mut instances = Vec::new();
    for entry in tx.range(&tails, &tails.clone().after_prefix()) {
        let number = entry?.0.get(1..).and_then(|bytes| bytes.first_chunk::<4>().copied());
        instances.extend(number.and_then(InstanceNumber::from_be_bytes));
    }
    Ok(instances)
}
