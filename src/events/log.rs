//! The readers' handle on the event logs.

use tokio::sync::watch;

use relevo_domain::{InstanceNumber, ValidationError};
use relevo_store::{self as store, Store};

use super::record::{LogTail, tail_key};
use super::scan::{self, LogPage, LogPageQuery};
use super::{Error, EventFilter, LogCursor, last_sequence};

/// Read access to the event logs of all instances. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    store: Store,
}

impl EventLog {
    /// A handle on the logs in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Signals new durable events of this instance, or of any instance if it is `None`.
    pub fn watch(&self, instance: Option<InstanceNumber>) -> watch::Receiver<()> {
        super::watch(&self.store, instance)
    }

    /// Waits until all events that these logs contain at the moment of the call are durable. A reader that saw a change
    /// elsewhere, where it may be visible a moment earlier, finds its event after this call. Readers that wait for
    /// events do not need it.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn wait_until_durable(&self, instances: &[InstanceNumber]) -> Result<(), store::Error> {
        for &instance in instances {
            let appended = LogTail::read(self.store.get(&tail_key(instance))?)?.sequence;
            if appended > last_sequence(&self.store, instance)? {
                // The event is part of the running commit. An empty change completes after that commit.
                return self.store.write(|_| Ok(())).await;
            }
        }
        Ok(())
    }

    /// The position after the newest durable event of each of these logs. Events that become durable during the call may
    /// or may not be included.
    ///
    /// # Errors
    ///
    /// The tail of a log cannot be decoded.
    pub fn end_cursor(&self, instances: &[InstanceNumber]) -> Result<LogCursor, store::Error> {
        let mut cursor = LogCursor::default();
        for &instance in instances {
            cursor.set(instance, last_sequence(&self.store, instance)?);
        }
        Ok(cursor)
    }

    /// Checks that reading can continue from a cursor.
    ///
    /// # Errors
    ///
    /// The cursor is past the newest event: this log never issued it.
    pub fn check_cursor(&self, cursor: &LogCursor) -> Result<(), Error> {
        for (instance, sequence) in cursor.iter() {
            let last = last_sequence(&self.store, instance)?;
            if sequence > last {
                let reason = format!("{sequence} is past the newest event, which is {last}");
                return Err(ValidationError::new("after", reason).into());
            }
        }
        Ok(())
    }

    /// Whether these logs contain events after the cursor. Reads memory only, so it is much cheaper than a page.
    ///
    /// # Errors
    ///
    /// The tail of a log cannot be decoded.
    pub fn has_more(&self, instances: &[InstanceNumber], from: &LogCursor) -> Result<bool, store::Error> {
        for &instance in instances {
            if last_sequence(&self.store, instance)? > from.get(instance).unwrap_or(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next page of these logs, merged, read on a blocking thread. All events in it are durable.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or a record cannot be decoded.
    pub async fn page(
        &self,
        instances: &[InstanceNumber],
        from: &LogCursor,
        query: &LogPageQuery,
    ) -> Result<LogPage, store::Error> {
        let (store, instances) = (self.store.clone(), instances.to_vec());
        let (from, query) = (from.clone(), query.clone());
        let reading = tokio::task::spawn_blocking(move || scan::page(&store, &instances, &from, &query));
        reading.await.unwrap_or(Err(store::Error::Panicked))
    }
}

/// Up to `limit` events of any kind after the sequence `after`, oldest first. Skips events that retention has deleted.
/// Blocks on the disk.
///
/// # Errors
///
/// The store cannot be read, or a record cannot be decoded.
pub fn read(
    store: &Store,
    instance: InstanceNumber,
    after: u64,
    limit: usize,
) -> Result<Vec<super::Envelope>, store::Error> {
    let query = LogPageQuery {
        kinds: EventFilter::All,
        limit: limit + 1,
        bytes: usize::MAX,
        now: Default::default(),
    };
    let page = scan::page(store, &[instance], &LogCursor::single(instance, after), &query)?;
    let events = page.items.into_iter().map(|item| item.envelope);
    Ok(events.filter(|envelope| envelope.missing().is_none()).take(limit).collect())
}
