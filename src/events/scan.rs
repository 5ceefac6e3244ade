//! Reading on from a place: one log, or several as one, in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use relevo_domain::{InstanceNumber, Timestamp};
use relevo_store::{Error, Key, KeyValue, Store};

use super::record::{self, EventHeader, event_key, sequence_of};
use super::{Envelope, EventFilter, LogCursor, last_sequence};

/// Events that one page looks at, at most, wanted or not.
const MAX_SCANNED: usize = 10_000;

/// What a page should hold.
#[derive(Debug, Clone)]
pub struct LogPageQuery {
    pub kinds: EventFilter,
    /// Events, at most.
    pub limit: usize,
    /// Bytes of events, about: a page ends with the event that reaches them.
    pub bytes: usize,
    /// Dates a gap behind which there is no event.
    pub now: Timestamp,
}

/// What was read at one place: an event, or the gap where events were.
#[derive(Debug, Clone, PartialEq)]
pub struct LogItem {
    pub instance: InstanceNumber,
    pub envelope: Envelope,
}

/// What was read, and from where to go on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogPage {
    pub items: Vec<LogItem>,
    /// Behind everything that was looked at. It may have moved though there are no items.
    pub next: LogCursor,
    /// Nothing was left when this was read.
    pub at_end: bool,
}

/// Reads a page of the logs of `instances` as one. Every log keeps its own order; between logs the older event comes
/// first. Reads the disk; what is still on its way there belongs to later pages.
pub fn page(
    store: &Store,
    instances: &[InstanceNumber],
    from: &LogCursor,
    wanted: &LogPageQuery,
) -> Result<LogPage, Error> {
    let mut page = LogPage { next: from.clone(), ..LogPage::default() };
    let (mut logs, mut heads) = (Vec::with_capacity(instances.len()), BinaryHeap::new());
    for &instance in instances {
        let tail = last_sequence(store, instance)?;
        let after = from.get(instance);
        if after.is_some_and(|after| after >= tail) {
            continue;
        }
        let mut log = LogScan::open(store, instance, after, tail);
        match log.advance(wanted.now)? {
            Some(at) => heads.push(Reverse((at, logs.len()))),
            // Nothing is left of it: who begins now missed nothing, and goes on behind what was there.
            None => page.next.set(instance, tail),
        }
        logs.push(log);
    }
    let (mut looks, mut bytes, mut disturbed) = (0, 0, false);
    while page.items.len() < wanted.limit && bytes < wanted.bytes && looks < MAX_SCANNED {
        let Some(Reverse((_, index))) = heads.pop() else { break };
        let Some(log) = logs.get_mut(index) else { break };
        let Some(found) = log.current.take() else { break };
        looks += 1;
        let sequence = found.sequence();
        if wanted.kinds.matches(found.kind()) {
            match found.load(store)? {
                Some((envelope, size)) => {
                    bytes += size;
                    page.items.push(LogItem { instance: log.instance, envelope });
                }
                // Forgotten since it was found: the next page tells.
                None => {
                    disturbed = true;
                    continue;
                }
            }
        }
        page.next.set(log.instance, sequence);
        if let Some(at) = log.advance(wanted.now)? {
            heads.push(Reverse((at, index)));
        }
    }
    page.at_end = heads.is_empty() && !disturbed && logs.iter().all(|log| log.finished);
    Ok(page)
}

/// One log on the way through a page.
struct LogScan {
    instance: InstanceNumber,
    /// The last sequence that was read; `None` at the beginning.
    position: Option<u64>,
    /// The newest durable event of the moment at which the page began. Everything up to it is there, or was forgotten.
    tail: u64,
    entries: Box<dyn Iterator<Item = Result<KeyValue, Error>>>,
    /// Found behind a gap, while the gap is told.
    pending: Option<ScannedEntry>,
    current: Option<ScannedEntry>,
    /// Read to its tail.
    finished: bool,
}

enum ScannedEntry {
    Event { key: Key, sequence: u64, head: EventHeader },
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

    /// Finds what comes next, and tells its time.
    fn advance(&mut self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let next = match self.pending.take() {
            Some(held) => Some(held),
            None => self.entries.next().transpose()?.map(ScannedEntry::read).transpose()?,
        };
        let found = match (next, self.position) {
            (Some(next), Some(place)) if next.sequence() > place.saturating_add(1) => {
                let gap = Envelope::gap(place + 1, next.sequence() - 1, next.at());
                self.pending = Some(next);
                Some(ScannedEntry::Gap(gap))
            }
            (Some(next), _) => Some(next),
            (None, Some(place)) if place < self.tail => {
                Some(ScannedEntry::Gap(Envelope::gap(place + 1, self.tail, now)))
            }
            (None, _) => None,
        };
        self.finished = found.is_none();
        self.current = found;
        if let Some(found) = &self.current {
            self.position = Some(found.sequence());
        }
        Ok(self.current.as_ref().map(ScannedEntry::at))
    }
}

impl ScannedEntry {
    fn read((key, value): KeyValue) -> Result<Self, Error> {
        let head = EventHeader::read(&value);
        let head = head.ok_or_else(|| Error::Codec("an event's head is cut short".to_owned()))?;
        Ok(ScannedEntry::Event { sequence: sequence_of(&key), key: Key::from(key), head })
    }

    fn sequence(&self) -> u64 {
        match self {
            ScannedEntry::Event { sequence, .. } => *sequence,
            ScannedEntry::Gap(envelope) => envelope.sequence,
        }
    }

    fn at(&self) -> Timestamp {
        match self {
            ScannedEntry::Event { head, .. } => head.at,
            ScannedEntry::Gap(envelope) => envelope.event.at,
        }
    }

    fn kind(&self) -> &str {
        match self {
            ScannedEntry::Event { head, .. } => &head.kind,
            ScannedEntry::Gap(envelope) => &envelope.event.kind,
        }
    }

    /// The whole of it with its size; `None` when the log has forgotten it meanwhile.
    fn load(self, store: &Store) -> Result<Option<(Envelope, usize)>, Error> {
        match self {
            ScannedEntry::Gap(envelope) => Ok(Some((envelope, 0))),
            ScannedEntry::Event { key, sequence, .. } => {
                let Some(record) = store.get(&key)? else { return Ok(None) };
                let event = record::decode(&record)?;
                Ok(Some((Envelope { sequence, event }, record.len())))
            }
        }
    }
}
