//! The event log: what happened to an instance, in one order, for every reader.
//!
//! One durable sequence per instance. An event is appended in the same commit as the change that it announces, so
//! neither exists without the other. Readers keep their own place and pull; nothing is pushed at them.
//!
//! A log is bounded by the age of its events and by their bytes. A reader whose place was overrun is told what it
//! missed: in the stead of the events that are gone it reads one of kind [`GAP`].
//!
//! Readers see what is durable and nothing else, so no crash makes a reader's place mean another event. The newest
//! durable sequence of each log is published after the sync of each commit; a reader that has everything waits for it
//! to move, and one that has not reads up to it without waiting for the disk.

mod cursor;
mod filter;
mod log;
mod record;
mod scan;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};
use tokio::sync::watch;

use relevo_domain::{ErrorKind, InstanceNumber, Timestamp, ValidationError};
use relevo_store::{self as store, Key, Space, Store, Tx};

pub use cursor::LogCursor;
pub use filter::EventFilter;
pub use log::{EventLog, read};
pub use scan::{LogItem, LogPage, LogPageQuery, page};

#[cfg(test)]
pub(crate) use record::decode;
use record::{EventHeader, LogTail, event_key, log_end, tail_key};

/// The kind of the event that stands for events which the log has forgotten before a reader took them. Its data is
/// `{"from": first sequence, "to": last sequence, "missing": how many}`; its sequence is `to`. Every reader is told
/// of it, whatever kinds it asked for. It is never written down.
pub const GAP: &str = "gap";

/// One event of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// For example `message`, `message_ack`, `receipt`, `status`, `raw`.
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

impl Envelope {
    /// What is read in the stead of the events `from` to `to`, which are gone.
    fn gap(from: u64, to: u64, at: Timestamp) -> Self {
        let missing = to.saturating_sub(from).saturating_add(1);
        let data = json!({ "from": from, "to": to, "missing": missing });
        Self { sequence: to, event: Event { kind: GAP.to_owned(), at, data } }
    }

    /// How many events are gone where this one stands; `None` when it is an event of the log.
    pub fn missing(&self) -> Option<u64> {
        let event = &self.event;
        if event.kind == GAP { event.data.get("missing").and_then(Value::as_u64) } else { None }
    }
}

/// What of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Events before this moment go.
    pub since: Timestamp,
    /// The oldest go until the rest has no more bytes than this.
    pub bytes: u64,
}

/// Why events could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cursor(#[from] ValidationError),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Cursor(_) => ErrorKind::Invalid,
            Error::Store(error) => error.kind(),
        }
    }
}

/// Appends an event to an instance's log and tells its sequence.
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

/// Changes when events of this instance, or of any when it is `None`, have become durable. Carries nothing: readers
/// look where they stand against [`last_sequence`].
pub fn watch(store: &Store, instance: Option<InstanceNumber>) -> watch::Receiver<()> {
    match instance {
        Some(instance) => store.watch_tail(&tail_key(instance)),
        None => store.watch_tails(),
    }
}

/// The sequence of the newest durable event of an instance; 0 when it has none. Looks at memory only.
pub fn last_sequence(store: &Store, instance: InstanceNumber) -> Result<u64, store::Error> {
    Ok(LogTail::read(store.durable_tail(&tail_key(instance)))?.sequence)
}

/// Deletes up to `limit` events, oldest first, that need not be kept; tells how many it deleted.
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
        // What cannot be read is of use to nobody; it goes when its turn comes.
        let needless = EventHeader::read(&value)
            .is_none_or(|head| head.at < keep.since || tail.bytes.saturating_sub(head.offset) > keep.bytes);
        if !needless {
            break;
        }
        old.push(Key::from(key));
    }
    let deleted = old.len();
    old.into_iter().try_for_each(|key| tx.delete(key))?;
    Ok(deleted)
}

/// The space of every log's tail, for upkeep to go through.
pub fn logs(tx: &Tx) -> Result<Vec<InstanceNumber>, store::Error> {
    let tails = Key::new(Space::EventTail);
    let mut found = Vec::new();
    for entry in tx.range(&tails, &tails.clone().after_prefix()) {
        let number = entry?.0.get(1..).and_then(|bytes| bytes.first_chunk::<4>().copied());
        found.extend(number.and_then(InstanceNumber::from_be_bytes));
    }
    Ok(found)
}
