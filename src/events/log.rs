use tokio::sync::watch;

use relevo_domain::{InstanceNumber, ValidationError};
use relevo_store::{self as store, Store};

use super::record::{LogTail, tail_key};
use super::scan::{self, LogPage, LogPageQuery};
use super::{Error, EventFilter, LogCursor, last_sequence};

/// The logs of all instances, for readers. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    store: Store,
}

impl EventLog {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Changes when there are new events of this instance, or of any when it is `None`.
    pub fn watch(&self, instance: Option<InstanceNumber>) -> watch::Receiver<()> {
        super::watch(&self.store, instance)
    }

    /// Waits until everything that is in these logs by now is durable, where it is not. Whoever learned of something
    /// elsewhere, which may be shown a moment earlier, then finds its event. Those who wait for events need not.
    pub async fn wait_until_durable(&self, instances: &[InstanceNumber]) -> Result<(), store::Error> {
        for &instance in instances {
            let appended = LogTail::read(self.store.get(&tail_key(instance))?)?.sequence;
            if appended > last_sequence(&self.store, instance)? {
                // It is part of the commit under way; one change that waits for its turn waits for all of that.
                return self.store.write(|_| Ok(())).await;
            }
        }
        Ok(())
    }

    /// Behind the newest event of each of these logs. Events that are appended meanwhile may count or not.
    pub fn end_cursor(&self, instances: &[InstanceNumber]) -> Result<LogCursor, store::Error> {
        let mut places = LogCursor::default();
        for &instance in instances {
            places.set(instance, last_sequence(&self.store, instance)?);
        }
        Ok(places)
    }

    /// Whether a place can be gone on from.
    ///
    /// # Errors
    ///
    /// It lies behind the newest event: it was never handed out, or by a log that is no more.
    pub fn check_cursor(&self, places: &LogCursor) -> Result<(), Error> {
        for (instance, sequence) in places.iter() {
            let last = last_sequence(&self.store, instance)?;
            if sequence > last {
                let reason = format!("{sequence} is behind the newest event, which is {last}");
                return Err(ValidationError::new("after", reason).into());
            }
        }
        Ok(())
    }

    /// Whether these logs hold something behind these places. A look at memory: much cheaper than a page.
    pub fn has_more(&self, instances: &[InstanceNumber], from: &LogCursor) -> Result<bool, store::Error> {
        for &instance in instances {
            if last_sequence(&self.store, instance)? > from.get(instance).unwrap_or(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next page of these logs, read as one, on a thread that may wait for the disk. Everything in it is durable.
    pub async fn page(
        &self,
        instances: &[InstanceNumber],
        from: &LogCursor,
        wanted: &LogPageQuery,
    ) -> Result<LogPage, store::Error> {
        let (store, instances) = (self.store.clone(), instances.to_vec());
        let (begun, wanted) = (from.clone(), wanted.clone());
        let reading = tokio::task::spawn_blocking(move || scan::page(&store, &instances, &begun, &wanted));
        reading.await.unwrap_or(Err(store::Error::Panicked))
    }
}

/// Up to `limit` events after the sequence `after`, oldest first, of whatever kind. What is gone is passed over. Reads
/// the disk.
pub fn read(
    store: &Store,
    instance: InstanceNumber,
    after: u64,
    limit: usize,
) -> Result<Vec<super::Envelope>, store::Error> {
    let wanted = LogPageQuery {
        kinds: EventFilter::All,
        limit: limit + 1,
        bytes: usize::MAX,
        now: Default::default(),
    };
    let page = scan::page(store, &[instance], &LogCursor::single(instance, after), &wanted)?;
    let events = page.items.into_iter().map(|item| item.envelope);
    Ok(events.filter(|envelope| envelope.missing().is_none()).take(limit).collect())
}
