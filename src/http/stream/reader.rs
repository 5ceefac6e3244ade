//! A live reader of the event log.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::events::{Error, EventFilter, EventLog, LogCursor, LogItem, LogPageQuery};
use crate::http::Services;
use crate::webhook::InstanceIds;
use relevo_clock::Clock;
use relevo_domain::{InstanceId, InstanceNumber};

/// Limits of one read: events, and about how many bytes. There is no other buffer: the log is read at the speed of
/// the client.
const PAGE_EVENTS: usize = 64;
const PAGE_BYTES: usize = 256 << 10;

/// The logs that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum EventScope {
    Instance(InstanceNumber),
    /// The logs of all instances, including instances that are created later.
    All,
}

impl EventScope {
    /// The instances of this scope that exist.
    pub fn instances(self, known: &InstanceIds) -> Vec<InstanceNumber> {
        let numbers = known.iter().map(|(number, _)| *number);
        numbers
            .filter(|number| matches!(self, EventScope::All) || self == EventScope::Instance(*number))
            .collect()
    }

    fn instance(self) -> Option<InstanceNumber> {
        match self {
            EventScope::Instance(number) => Some(number),
            EventScope::All => None,
        }
    }

    /// The cursor that callers see: the sequence in one log, or an opaque text for several logs.
    pub fn encode_cursor(self, places: &LogCursor) -> String {
        match self {
            EventScope::Instance(number) => places.get(number).unwrap_or(0).to_string(),
            EventScope::All => places.encode(),
        }
    }
}

/// A reader with its cursor.
pub(in crate::http) struct EventReader {
    scope: EventScope,
    kinds: EventFilter,
    log: EventLog,
    clock: Clock,
    log_changes: watch::Receiver<()>,
    instances: watch::Receiver<InstanceIds>,
    /// After the last event that was returned.
    position: LogCursor,
    /// Events that were read and not returned yet, and the cursor after all of them.
    pending: VecDeque<LogItem>,
    page_end: Option<LogCursor>,
}

/// An event with its cursor.
pub(in crate::http) struct StreamedEvent {
    pub item: LogItem,
    pub instance_id: InstanceId,
    /// The cursor after the event.
    pub cursor: String,
}

impl EventReader {
    /// A reader that begins after `from`.
    pub fn new(services: &Services, scope: EventScope, kinds: EventFilter, from: LogCursor) -> Self {
        Self {
            scope,
            kinds,
            log: services.events.clone(),
            clock: services.clock,
            log_changes: services.events.watch(scope.instance()),
            instances: services.instances.names(),
            position: from,
            pending: VecDeque::new(),
            page_end: None,
        }
    }

    /// Waits for the next event; `None` when the instance was deleted. Cancel safe.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn next(&mut self) -> Result<Option<StreamedEvent>, Error> {
        loop {
            while let Some(item) = self.pending.pop_front() {
                self.position.set(item.instance, item.envelope.sequence);
                if let Some(name) = self.instance_id_of(item.instance) {
                    return Ok(Some(StreamedEvent { item, instance_id: name, cursor: self.cursor() }));
                }
            }
            if let Some(behind) = self.page_end.take() {
                self.position = behind;
            }
            // Marked as seen before the read, so that no change is missed.
            self.log_changes.borrow_and_update();
            let instances = self.scope.instances(&self.instances.borrow_and_update());
            if instances.is_empty() && self.scope != EventScope::All {
                return Ok(None);
            }
            self.position.retain(|number| instances.contains(&number));
            if self.log.has_more(&instances, &self.position)? {
                let (kinds, now) = (self.kinds.clone(), self.clock.now());
                let query = LogPageQuery { kinds, limit: PAGE_EVENTS, bytes: PAGE_BYTES, now };
                let page = self.log.page(&instances, &self.position, &query).await?;
                self.pending = page.items.into();
                self.page_end = Some(page.next);
                continue;
            }
            tokio::select! {
                Ok(()) = self.log_changes.changed() => {}
                Ok(()) = self.instances.changed() => {}
                else => return Ok(None),
            }
        }
    }

    /// The cursor after the last event that was returned.
    pub fn cursor(&self) -> String {
        self.scope.encode_cursor(&self.position)
    }

    fn instance_id_of(&self, instance: InstanceNumber) -> Option<InstanceId> {
        let known = self.instances.borrow();
        known.iter().find(|(number, _)| *number == instance).map(|(_, name)| name.clone())
    }
}
