//! A stream: one endpoint reads the log of one instance and delivers its events, one after another. An event is attempted
//! after the previous one was delivered or parked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Envelope, EventLog, LogCursor, LogPageQuery};
use relevo_clock::Random;
use relevo_domain::{InstanceId, InstanceNumber, Timestamp};
use relevo_store::{Error, Store, Tx};

use super::Options;
use super::delivery::Deliverer;
use super::endpoint::{EndpointRuntime, FailuresView};
use super::retry::{self, DeliveryDecision, Failures};
use super::storage::{self, Cursor, EventRef, ParkedRecord};

/// Events of one page. Few, because one event can be large.
const PAGE_EVENTS: usize = 16;
/// Approximate bytes of one page.
const PAGE_BYTES: usize = 1 << 20;

/// Duration of a time slice, after which other streams of the endpoint run.
const TIME_SLICE: Duration = Duration::from_secs(1);

/// Interval at which a running stream saves its cursor past events that its filter does not match.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// The inputs of one time slice of a stream.
pub(super) struct TimeSlice {
    pub runtime: Arc<EndpointRuntime>,
    pub instance: InstanceNumber,
    pub name: InstanceId,
    pub store: Store,
    pub deliverer: Deliverer,
    pub random: Random,
    pub options: Arc<Options>,
    /// The cursor of the stream; `None` in its first time slice.
    pub cursor: Option<Cursor>,
    /// Cancelled when no further attempt may start.
    pub stop: CancellationToken,
}

/// The result of a time slice.
pub(super) struct SliceEnd {
    pub cursor: Cursor,
    pub next: NextStep,
}

/// How a stream continues.
pub(super) enum NextStep {
    /// When the log has new events.
    AwaitEvents,
    /// In its next time slice.
    Continue,
    /// With another attempt at this time.
    RetryAt(Timestamp),
    /// Not at all, because the endpoint must be disabled.
    Disable(Failures),
    /// Not at all, because the cursor was moved or the endpoint was deleted.
    Superseded,
}

/// Runs one time slice. Its cursor is durable when it ends.
pub(super) async fn run(slice: TimeSlice) -> Result<SliceEnd, Error> {
    let (id, instance) = (slice.runtime.id, slice.instance);
    let cursor = match slice.cursor.clone() {
        Some(cursor) => Some(cursor),
        None => slice.store.write(move |tx| storage::load_or_create_cursor(tx, id, instance)).await?,
    };
    let Some(cursor) = cursor else {
        return Ok(SliceEnd { cursor: Cursor::default(), next: NextStep::Superseded });
    };
    let mut reader =
        EndpointLogReader { saved: cursor.clone(), saved_at: Instant::now(), saving: None, cursor, slice };
    let next = reader.run().await?;
    let next = if reader.finish_save().await? && reader.save().await? { next } else { NextStep::Superseded };
    Ok(SliceEnd { cursor: reader.cursor, next })
}

/// A stream during a time slice.
struct EndpointLogReader {
    slice: TimeSlice,
    cursor: Cursor,
    /// The cursor that was last given to the store.
    saved: Cursor,
    saved_at: Instant,
    /// The commit of `saved`, while it is not known to be durable. `false`: the cursor was moved or deleted by others.
    saving: Option<oneshot::Receiver<Result<bool, Error>>>,
}

impl EndpointLogReader {
    async fn run(&mut self) -> Result<NextStep, Error> {
        let deadline = Instant::now() + TIME_SLICE;
        loop {
            if self.slice.stop.is_cancelled() || Instant::now() >= deadline {
                return Ok(NextStep::Continue);
            }
            let page = self.page().await?;
            let page_end = page.next.get(self.slice.instance).unwrap_or(self.cursor.sequence);
            for item in page.items {
                if self.slice.stop.is_cancelled() || Instant::now() >= deadline {
                    return Ok(NextStep::Continue);
                }
                let envelope = item.envelope;
                self.advance_to(envelope.sequence.saturating_sub(envelope.missing().unwrap_or(1)));
                if let Some(next) = self.attempt(&envelope).await? {
                    return Ok(next);
                }
                if !self.begin_save().await? {
                    return Ok(NextStep::Superseded);
                }
            }
            self.advance_to(page_end);
            if self.saved_at.elapsed() >= SAVE_INTERVAL && !self.begin_save().await? {
                return Ok(NextStep::Superseded);
            }
            if page.at_end {
                return Ok(NextStep::AwaitEvents);
            }
        }
    }

    /// The next events that match the filter, and gaps.
    async fn page(&self) -> Result<events::LogPage, Error> {
        let TimeSlice { runtime, instance, store, deliverer, .. } = &self.slice;
        let query = LogPageQuery {
            kinds: runtime.endpoint.events.clone(),
            limit: PAGE_EVENTS,
            bytes: PAGE_BYTES,
            now: deliverer.clock.now(),
        };
        let from = LogCursor::single(*instance, self.cursor.sequence);
        EventLog::new(store.clone()).page(&[*instance], &from, &query).await
    }

    /// Makes one attempt. `None` if the event was delivered or parked and the next one follows.
    async fn attempt(&mut self, envelope: &Envelope) -> Result<Option<NextStep>, Error> {
        let TimeSlice { runtime, instance, name, deliverer, random, options, .. } = &self.slice;
        let outcome = deliverer.deliver(runtime, *instance, name, envelope).await;
        let now = deliverer.clock.now();
        let before = self.cursor.trouble.as_ref();
        let others_delivered = before.is_some_and(|failures| runtime.health.delivered_since(failures.since));
        match retry::decide_retry(options, before, outcome, now, others_delivered, random.value()) {
            DeliveryDecision::Advance => {
                runtime.health.record_delivered(now);
                self.settle(envelope);
                Ok(None)
            }
            DeliveryDecision::Retry { after, failures } => {
                runtime.health.record_failed();
                let due = now + after;
                self.publish_failures(&failures, due);
                self.cursor.trouble = Some(failures);
                Ok(Some(NextStep::RetryAt(due)))
            }
            DeliveryDecision::Park { reason, failures } => {
                runtime.health.record_failed();
                let Failures { attempts, error, .. } = failures;
                if envelope.missing().is_some() {
                    // A gap is not stored, so it cannot be parked.
                    tracing::warn!(endpoint = %runtime.id, instance = %name, cause = error,
                        "webhook receiver refused a gap; skipped");
                    self.settle(envelope);
                    return Ok(None);
                }
                self.park(envelope.sequence, ParkedRecord { at: now, reason, attempts, error }).await
            }
            DeliveryDecision::Disable { failures } => {
                runtime.health.record_failed();
                self.publish_failures(&failures, now);
                self.cursor.trouble = Some(failures.clone());
                Ok(Some(NextStep::Disable(failures)))
            }
        }
    }

    /// Parks an event in the commit that moves the cursor past it.
    async fn park(&mut self, sequence: u64, parked: ParkedRecord) -> Result<Option<NextStep>, Error> {
        let (id, instance) = (self.slice.runtime.id, self.slice.instance);
        tracing::warn!(endpoint = %id, instance = %self.slice.name, sequence, reason = parked.reason.as_str(),
            cause = parked.error, "webhook event parked");
        let store = self.slice.store.clone();
        let oldest = tokio::task::spawn_blocking(move || events::read(&store, instance, 0, 1)).await;
        let log_start = oldest.unwrap_or(Err(Error::Panicked))?.first().map_or(0, |oldest| oldest.sequence);
        self.advance(sequence);
        let cursor = self.cursor.clone();
        let write = move |tx: &mut Tx| {
            let current = storage::save_cursor(tx, id, instance, &cursor)?;
            if current {
                storage::park(tx, id, EventRef { instance, sequence }, &parked, log_start)?;
            }
            Ok(current)
        };
        let current = self.slice.store.write(write).await?;
        self.mark_saved();
        if !current {
            return Ok(Some(NextStep::Superseded));
        }
        self.slice.runtime.health.record_parked();
        Ok(None)
    }

    /// Moves the cursor past a delivered event or gap.
    fn settle(&mut self, envelope: &Envelope) {
        if let Some(missed) = envelope.missing() {
            // Retention deleted events before delivery: count them and warn.
            self.slice.runtime.health.record_missed(missed);
            tracing::warn!(endpoint = %self.slice.runtime.id, instance = %self.slice.name, missed,
                "retention deleted events before their webhook delivery");
        }
        self.advance(envelope.sequence);
    }

    /// Moves the cursor past events that the filter does not match.
    fn advance_to(&mut self, sequence: u64) {
        if sequence > self.cursor.sequence {
            self.advance(sequence);
        }
    }

    fn advance(&mut self, sequence: u64) {
        self.cursor.sequence = sequence;
        if self.cursor.trouble.take().is_some() {
            self.slice.runtime.health.clear_failures(self.slice.instance);
        }
    }

    fn publish_failures(&self, failures: &Failures, next_attempt: Timestamp) {
        let TimeSlice { runtime, instance, name, .. } = &self.slice;
        if failures.attempts == 1 {
            tracing::warn!(endpoint = %runtime.id, instance = %name, cause = failures.error, %next_attempt,
                "webhook delivery failed; retrying");
        } else {
            tracing::debug!(endpoint = %runtime.id, instance = %name, cause = failures.error, %next_attempt,
                attempts = failures.attempts, "webhook delivery failed; retrying");
        }
        runtime.health.record_failures(FailuresView {
            instance: *instance,
            since: failures.since,
            attempts: failures.attempts,
            error: failures.error.clone(),
            next_attempt,
        });
    }

    /// Begins to save the cursor, after the previous save is durable. So the next delivery and the commit for this one
    /// run at the same time, and after a crash at most two events are delivered again: the one that was in flight, and
    /// the one before it. `false` if the cursor was moved or deleted by others.
    async fn begin_save(&mut self) -> Result<bool, Error> {
        if !self.finish_save().await? {
            return Ok(false);
        }
        if self.cursor != self.saved {
            let (id, instance, cursor) = (self.slice.runtime.id, self.slice.instance, self.cursor.clone());
            let (done, saving) = oneshot::channel();
            let write = move |tx: &mut Tx| storage::save_cursor(tx, id, instance, &cursor);
            self.slice.store.submit(write, |saved| drop(done.send(saved))).await;
            self.mark_saved();
            self.saving = Some(saving);
        }
        Ok(true)
    }

    /// Waits until the latest save is durable. `false` if the cursor was moved or deleted by others.
    async fn finish_save(&mut self) -> Result<bool, Error> {
        match self.saving.take() {
            Some(saving) => saving.await.unwrap_or(Err(Error::Closed)),
            None => Ok(true),
        }
    }

    /// Saves the cursor and waits for the commit. `false` if the cursor was moved or deleted by others.
    async fn save(&mut self) -> Result<bool, Error> {
        if self.cursor == self.saved {
            return Ok(true);
        }
        let (id, instance, cursor) = (self.slice.runtime.id, self.slice.instance, self.cursor.clone());
        let current =
            self.slice.store.write(move |tx| storage::save_cursor(tx, id, instance, &cursor)).await?;
        self.mark_saved();
        Ok(current)
    }

    fn mark_saved(&mut self) {
        self.saved = self.cursor.clone();
        self.saved_at = Instant::now();
    }
}
