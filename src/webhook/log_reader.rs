//! One endpoint reading one log: page after page, event after event, each only when the one before it is settled.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Envelope, EventLog, LogCursor, LogPageQuery};
use relevo_domain::{InstanceId, InstanceNumber, Timestamp};
use relevo_store::{Error, Store, Tx};

use super::Options;
use super::delivery::Deliverer;
use super::endpoint::{EndpointRuntime, FailuresView};
use super::retry::{self, DeliveryDecision, Failures};
use super::storage::{self, Cursor, EventRef, ParkedRecord};

/// Events read at once, and about how many bytes of them: few, because one may hold media.
const PAGE_EVENTS: usize = 16;
const PAGE_BYTES: usize = 1 << 20;

/// How long a stream works before others of its endpoint have a turn.
const TIME_SLICE: Duration = Duration::from_secs(1);

/// How often progress is written down while a stream works. A crash repeats what was delivered since.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// One turn of a stream.
pub(super) struct TimeSlice {
    pub runtime: Arc<EndpointRuntime>,
    pub instance: InstanceNumber,
    pub name: InstanceId,
    pub store: Store,
    pub deliverer: Deliverer,
    pub options: Arc<Options>,
    /// Where the stream stands; `None` on its first turn.
    pub cursor: Option<Cursor>,
    /// Cancelled when no further attempt should begin.
    pub stop: CancellationToken,
}

/// Where a turn ended.
pub(super) struct SliceEnd {
    pub cursor: Cursor,
    pub next: NextStep,
}

/// How the stream goes on.
pub(super) enum NextStep {
    /// With the next event of the log.
    AwaitEvents,
    /// At once, or when others had their turn.
    Continue,
    /// With another attempt, at this moment.
    RetryAt(Timestamp),
    /// Not at all: the endpoint must be disabled.
    Disable(Failures),
    /// Not at all: somebody moved the cursor or deleted the endpoint.
    Superseded,
}

/// Takes a turn. Everything that it did is written down when it ends.
pub(super) async fn run(turn: TimeSlice) -> Result<SliceEnd, Error> {
    let (id, instance) = (turn.runtime.id, turn.instance);
    let cursor = match turn.cursor.clone() {
        Some(cursor) => Some(cursor),
        None => turn.store.write(move |tx| storage::load_or_create_cursor(tx, id, instance)).await?,
    };
    let Some(cursor) = cursor else {
        return Ok(SliceEnd { cursor: Cursor::default(), next: NextStep::Superseded });
    };
    let mut work = EndpointLogReader { saved: cursor.clone(), saved_at: Instant::now(), cursor, slice: turn };
    let next = work.run().await?;
    let next = if work.save().await? { next } else { NextStep::Superseded };
    Ok(SliceEnd { cursor: work.cursor, next })
}

struct EndpointLogReader {
    slice: TimeSlice,
    cursor: Cursor,
    /// The cursor as it was last given to the store.
    saved: Cursor,
    saved_at: Instant,
}

impl EndpointLogReader {
    async fn run(&mut self) -> Result<NextStep, Error> {
        let ends = Instant::now() + TIME_SLICE;
        loop {
            if self.slice.stop.is_cancelled() || Instant::now() >= ends {
                return Ok(NextStep::Continue);
            }
            let page = self.page().await?;
            let behind = page.next.get(self.slice.instance).unwrap_or(self.cursor.sequence);
            for item in page.items {
                if self.slice.stop.is_cancelled() || Instant::now() >= ends {
                    return Ok(NextStep::Continue);
                }
                let envelope = item.envelope;
                self.advance_to(envelope.sequence.saturating_sub(envelope.missing().unwrap_or(1)));
                if let Some(next) = self.attempt(&envelope).await? {
                    return Ok(next);
                }
                self.save_if_due().await;
            }
            self.advance_to(behind);
            self.save_if_due().await;
            if page.at_end {
                return Ok(NextStep::AwaitEvents);
            }
        }
    }

    /// The next wanted events, and the gaps where events were.
    async fn page(&self) -> Result<events::LogPage, Error> {
        let TimeSlice { runtime: known, instance, store, deliverer: courier, .. } = &self.slice;
        let wanted = LogPageQuery {
            kinds: known.endpoint.events.clone(),
            limit: PAGE_EVENTS,
            bytes: PAGE_BYTES,
            now: courier.clock.now(),
        };
        let from = LogCursor::single(*instance, self.cursor.sequence);
        EventLog::new(store.clone()).page(&[*instance], &from, &wanted).await
    }

    /// Attempts an event; `None` when it is settled and the next may follow.
    async fn attempt(&mut self, envelope: &Envelope) -> Result<Option<NextStep>, Error> {
        let TimeSlice { runtime: known, instance, name, deliverer: courier, options, .. } = &self.slice;
        let outcome = courier.deliver(known, *instance, name, envelope).await;
        let now = courier.clock.now();
        let before = self.cursor.trouble.as_ref();
        let others = before.is_some_and(|trouble| known.health.delivered_since(trouble.since));
        match retry::decide_retry(options, before, outcome, now, others, rand::random()) {
            DeliveryDecision::Advance => {
                known.health.record_delivered(now);
                self.settle(envelope);
                Ok(None)
            }
            DeliveryDecision::Retry { after, trouble } => {
                known.health.record_failed();
                let due = now + after;
                self.publish_failures(&trouble, due);
                self.cursor.trouble = Some(trouble);
                Ok(Some(NextStep::RetryAt(due)))
            }
            DeliveryDecision::Park { reason, trouble } => {
                known.health.record_failed();
                let Failures { attempts, error, .. } = trouble;
                if envelope.missing().is_some() {
                    // There is no event to keep for later.
                    tracing::warn!(endpoint = %known.id, instance = %name, cause = error,
                        "a webhook's receiver refuses to be told what it missed");
                    self.settle(envelope);
                    return Ok(None);
                }
                self.park(envelope.sequence, ParkedRecord { at: now, reason, attempts, error }).await
            }
            DeliveryDecision::Disable { trouble } => {
                known.health.record_failed();
                self.publish_failures(&trouble, now);
                self.cursor.trouble = Some(trouble.clone());
                Ok(Some(NextStep::Disable(trouble)))
            }
        }
    }

    /// Puts the event at the head aside, in the same commit that steps over it.
    async fn park(&mut self, sequence: u64, parked: ParkedRecord) -> Result<Option<NextStep>, Error> {
        let (id, instance) = (self.slice.runtime.id, self.slice.instance);
        tracing::warn!(endpoint = %id, instance = %self.slice.name, sequence, reason = parked.reason.as_str(),
            cause = parked.error, "a webhook's event is parked");
        let store = self.slice.store.clone();
        let oldest = tokio::task::spawn_blocking(move || events::read(&store, instance, 0, 1)).await;
        let kept_from = oldest.unwrap_or(Err(Error::Panicked))?.first().map_or(0, |oldest| oldest.sequence);
        self.advance(sequence);
        let cursor = self.cursor.clone();
        let write = move |tx: &mut Tx| {
            let ours = storage::save_cursor(tx, id, instance, &cursor)?;
            if ours {
                storage::park(tx, id, EventRef { instance, sequence }, &parked, kept_from)?;
            }
            Ok(ours)
        };
        let ours = self.slice.store.write(write).await?;
        self.mark_saved();
        if !ours {
            return Ok(Some(NextStep::Superseded));
        }
        self.slice.runtime.health.record_parked();
        Ok(None)
    }

    /// Goes on behind an event that is settled.
    fn settle(&mut self, envelope: &Envelope) {
        if let Some(missed) = envelope.missing() {
            // Retention may be faster than a receiver; that must not go unnoticed.
            self.slice.runtime.health.record_missed(missed);
            tracing::warn!(endpoint = %self.slice.runtime.id, instance = %self.slice.name, missed,
                "events left the log before a webhook endpoint took them");
        }
        self.advance(envelope.sequence);
    }

    /// Steps over events that are not wanted.
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

    fn publish_failures(&self, trouble: &Failures, next_attempt: Timestamp) {
        let TimeSlice { runtime: known, instance, name, .. } = &self.slice;
        if trouble.attempts == 1 {
            tracing::warn!(endpoint = %known.id, instance = %name, cause = trouble.error, %next_attempt,
                "a webhook was not delivered and will be tried again");
        } else {
            tracing::debug!(endpoint = %known.id, instance = %name, cause = trouble.error, %next_attempt,
                attempts = trouble.attempts, "a webhook was not delivered");
        }
        known.health.record_failures(FailuresView {
            instance: *instance,
            since: trouble.since,
            attempts: trouble.attempts,
            error: trouble.error.clone(),
            next_attempt,
        });
    }

    /// Gives progress to the store without waiting for it: what a crash forgets is told again.
    async fn save_if_due(&mut self) {
        if self.saved_at.elapsed() >= SAVE_INTERVAL && self.cursor != self.saved {
            let (id, instance, cursor) = (self.slice.runtime.id, self.slice.instance, self.cursor.clone());
            self.slice.store.submit(move |tx| storage::save_cursor(tx, id, instance, &cursor), |_| {}).await;
            self.mark_saved();
        }
    }

    /// Writes progress down; `false` when the cursor is not this stream's any more.
    async fn save(&mut self) -> Result<bool, Error> {
        if self.cursor == self.saved {
            return Ok(true);
        }
        let (id, instance, cursor) = (self.slice.runtime.id, self.slice.instance, self.cursor.clone());
        let ours = self.slice.store.write(move |tx| storage::save_cursor(tx, id, instance, &cursor)).await?;
        self.mark_saved();
        Ok(ours)
    }

    fn mark_saved(&mut self) {
        self.saved = self.cursor.clone();
        self.saved_at = Instant::now();
    }
}
