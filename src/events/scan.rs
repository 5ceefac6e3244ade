//! Pages of one log, or of several logs merged by time, from a cursor.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use relevo_domain::{EventKind, InstanceNumber, Timestamp};
use relevo_store::{Error, Key, KeyValue, Store};

use super::record::{self, EventHeader, event_key, sequence_of};
use super::{Envelope, EventFilter, LogCursor, last_sequence};

/// Maximum number of events that one page reads, whether the filter matches them or not.
const MAX_SCANNED: usize = 10_000;

/// The limits and the filter of a page.
#[derive(Debug, Clone)]
pub struct LogPageQuery {
    /// Kinds of events in the page.
    pub kinds: EventFilter,
    /// Maximum number of events.
    pub limit: usize,
    /// Approximate size, in bytes of records: the page ends with the event that reaches it.
    pub bytes: usize,
    /// Time of a gap that no event follows.
    pub now: Timestamp,
}

/// An entry of a page: an event, or a gap in place of deleted events.
#[derive(Debug, Clone, PartialEq)]
pub struct LogItem {
    pub instance: InstanceNumber,
    pub envelope: Envelope,
}

/// The entries of a page, and the cursor of the next page.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogPage {
    pub items: Vec<LogItem>,
    /// The position after all events that were read. It can advance although the page has no items.
    pub next: LogCursor,
    /// The logs had no further durable events.
    pub at_end: bool,
}

/// Reads a page of the logs of `instances`, merged. Events of one log keep their order; between logs the older event
/// comes first. Blocks on the disk. Events that are not durable yet belong to later pages.
///
/// # Errors
///
/// The store cannot be read, or a record cannot be decoded.
pub fn page(
    store: &Store,
    instances: &[InstanceNumber],
    from: &LogCursor,
    query: &LogPageQuery,
) -> Result<LogPage, Error> {
    let mut page = LogPage { next: from.clone(), ..LogPage::default() };
    let (mut logs, mut next_entries) = (Vec::with_capacity(instances.len()), BinaryHeap::new());
    for &instance in instances {
        let tail = last_sequence(store, instance)?;
        let after = from.get(instance);
        if after.is_some_and(|after| after >= tail) {
            continue;
        }
        let mut log = LogScan::open(store, instance, after, tail);
        match log.advance(query.now)? {
            Some(at) => next_entries.push(Reverse((at, logs.len()))),
            // All events were deleted. A new reader missed nothing and continues after them.
            None => page.next.set(instance, tail),
        }
        logs.push(log);
    }
    let (mut scanned, mut bytes, mut deleted_entry) = (0, 0, false);
    while page.items.len() < query.limit && bytes < query.bytes && scanned < MAX_SCANNED {
        let Some(Reverse((_, index))) = next_entries.pop() else { break };
        let Some(log) = logs.get_mut(index) else { break };
        let Some(entry) = log.current.take() else { break };
        scanned += 1;
        let sequence = entry.sequence();
        if query.kinds.matches(entry.kind()) {
            match entry.load(store)? {
                Some((envelope, size)) => {
                    bytes += size;
                    page.items.push(LogItem { instance: log.instance, envelope });
                }
                // Deleted after its header was read: the next page contains a gap.
                None => {
                    deleted_entry = true;
                    continue;
                }
            }
        }
        page.next.set(log.instance, sequence);
        if let Some(at) = log.advance(query.now)? {
            next_entries.push(Reverse((at, index)));
        }
    }
    page.at_end = next_entries.is_empty() && !deleted_entry && logs.iter().all(|log| log.finished);
    Ok(page)
}

/// The scan of one log.
struct LogScan {
    instance: InstanceNumber,
    /// The last sequence that was read; `None` before the first one.
    position: Option<u64>,
    /// The newest durable sequence when the page began. Every event up to it is stored or was deleted.
    tail: u64,
    entries: Box<dyn Iterator<Item = Result<KeyValue, Error>>>,
    /// The event after a gap, while the gap is the current entry.
    pending: Option<ScannedEntry>,
    current: Option<ScannedEntry>,
    /// Whether the scan has reached the tail.
    finished: bool,
}

enum ScannedEntry {
    Event { key: Key, sequence: u64, header: EventHeader },
    Gap(Envelope),
}

impl LogScan {
    fn open(store: &Store, instance: InstanceNumber, after: Option<u64>, tail: u64) -> Self {
        let start = event_key(instance, after.map_or(0, |after| after.saturating_add(1)));
        let entries = store.range(&start, &event_key(instance, tail.saturating_add(1)));
        Self {
            instance,
            position: after,
            tail,
            entries: Box::new(entries),
            pending: None,
            current: None,
            finished: false,
        }
    }

    /// Moves to the next entry and returns its time.
    fn advance(&mut self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let next = match self.pending.take() {
            Some(pending) => Some(pending),
            None => self.entries.next().transpose()?.map(ScannedEntry::read).transpose()?,
        };
        let entry = match (next, self.position) {
            (Some(next), Some(position)) if next.sequence() > position.saturating_add(1) => {
                let gap = Envelope::gap(position + 1, next.sequence() - 1, next.at());
                self.pending = Some(next);
                Some(ScannedEntry::Gap(gap))
            }
            (Some(next), _) => Some(next),
            (None, Some(position)) if position < self.tail => {
                Some(ScannedEntry::Gap(Envelope::gap(position + 1, self.tail, now)))
            }
            (None, _) => None,
        };
        self.finished = entry.is_none();
        self.current = entry;
        if let Some(entry) = &self.current {
            self.position = Some(entry.sequence());
        }
        Ok(self.current.as_ref().map(ScannedEntry::at))
    }
}

impl ScannedEntry {
    fn read((key, value): KeyValue) -> Result<Self, Error> {
        let header = EventHeader::read(&value);
        let header = header.ok_or_else(|| Error::Codec("the header of an event is cut off".to_owned()))?;
        Ok(ScannedEntry::Event { sequence: sequence_of(&key), key: Key::from(key), header })
    }

    fn sequence(&self) -> u64 {
        match self {
            ScannedEntry::Event { sequence, .. } => *sequence,
            ScannedEntry::Gap(envelope) => envelope.sequence,
        }
    }

    fn at(&self) -> Timestamp {
        match self {
            ScannedEntry::Event { header, .. } => header.at,
            ScannedEntry::Gap(envelope) => envelope.event.at,
        }
    }

    fn kind(&self) -> &EventKind {
        match self {
            ScannedEntry::Event { header, .. } => &header.kind,
            ScannedEntry::Gap(envelope) => &envelope.event.kind,
        }
    }

    /// The whole entry with the size of its record; `None` if retention has deleted the event meanwhile.
    fn load(self, store: &Store) -> Result<Option<(Envelope, usize)>, Error> {
        match self {
            ScannedEntry::Gap(envelope) => Ok(Some((envelope, 0))),
            ScannedEntry::Event { key, sequence, .. } => {
                // Retention may delete the record while its parts are read. Its first part is gone then, too.
                let record = match store.get(&key) {
                    Err(_) if store.get(&key)?.is_none() => None,
                    record => record?,
                };
                let Some(record) = record else { return Ok(None) };
                let event = record::decode(&record)?;
                Ok(Some((Envelope { sequence, event }, record.len())))
            }
        }
    }
}
