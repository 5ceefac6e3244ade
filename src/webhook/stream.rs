//! One endpoint reading one log: page after page, event after event, each only when the one before it is settled.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Envelope, Log, Places, Wanted};
use relevo_domain::{InstanceId, InstanceNumber, Timestamp};
use relevo_store::{Error, Store, Tx};

use super::Options;
use super::delivery::Courier;
use super::endpoint::{Known, TroubleView};
use super::storage::{self, Cursor, Parked, Place};
use super::verdict::{self, Trouble, Verdict};

/// Events read at once, and about how many bytes of them: few, because one may hold media.
const PAGE: usize = 16;
const PAGE_BYTES: usize = 1 << 20;

/// How long a stream works before others of its endpoint have a turn.
const TURN: Duration = Duration::from_secs(1);

/// How often progress is written down while a stream works. A crash repeats what was delivered since.
const SAVE_EVERY: Duration = Duration::from_millis(100);

/// One turn of a stream.
pub(super) struct Turn {
    pub known: Arc<Known>,
    pub instance: InstanceNumber,
    pub name: InstanceId,
    pub store: Store,
    pub courier: Courier,
    pub options: Arc<Options>,
    /// Where the stream stands; `None` on its first turn.
    pub cursor: Option<Cursor>,
    /// Cancelled when no further attempt should begin.
    pub stop: CancellationToken,
}

/// Where a turn ended.
pub(super) struct Ended {
    pub cursor: Cursor,
    pub next: Next,
}

/// How the stream goes on.
pub(super) enum Next {
    /// With the next event of the log.
    Await,
    /// At once, or when others had their turn.
    GoOn,
    /// With another attempt, at this moment.
    Wait(Timestamp),
    /// Not at all: the endpoint must be disabled.
    GiveUp(Trouble),
    /// Not at all: somebody moved the cursor or deleted the endpoint.
    Superseded,
}

/// Takes a turn. Everything that it did is written down when it ends.
pub(super) async fn run(turn: Turn) -> Result<Ended, Error> {
    let (id, instance) = (turn.known.id, turn.instance);
    let cursor = match turn.cursor.clone() {
        Some(cursor) => Some(cursor),
        None => turn.store.write(move |tx| storage::adopt(tx, id, instance)).await?,
    };
    let Some(cursor) = cursor else {
        return Ok(Ended { cursor: Cursor::default(), next: Next::Superseded });
    };
    let mut work = Work { saved: cursor.clone(), saved_at: Instant::now(), cursor, turn };
    let next = work.run().await?;
    let next = if work.save().await? { next } else { Next::Superseded };
    Ok(Ended { cursor: work.cursor, next })
}

struct Work {
    turn: Turn,
    cursor: Cursor,
    /// The cursor as it was last given to the store.
    saved: Cursor,
    saved_at: Instant,
}

impl Work {
    async fn run(&mut self) -> Result<Next, Error> {
        let ends = Instant::now() + TURN;
        loop {
            if self.turn.stop.is_cancelled() || Instant::now() >= ends {
                return Ok(Next::GoOn);
            }
            let page = self.page().await?;
            let behind = page.next.get(self.turn.instance).unwrap_or(self.cursor.sequence);
            for item in page.items {
                if self.turn.stop.is_cancelled() || Instant::now() >= ends {
                    return Ok(Next::GoOn);
                }
                let envelope = item.envelope;
                self.pass_up_to(envelope.sequence.saturating_sub(envelope.missing().unwrap_or(1)));
                if let Some(next) = self.attempt(&envelope).await? {
                    return Ok(next);
                }
                self.save_by_and_by().await;
            }
            self.pass_up_to(behind);
            self.save_by_and_by().await;
            if page.at_end {
                return Ok(Next::Await);
            }
        }
    }

    /// The next wanted events, and the gaps where events were.
    async fn page(&self) -> Result<events::Page, Error> {
        let Turn { known, instance, store, courier, .. } = &self.turn;
        let wanted = Wanted {
            kinds: known.endpoint.events.clone(),
            limit: PAGE,
            bytes: PAGE_BYTES,
            now: courier.clock.now(),
        };
        let from = Places::one(*instance, self.cursor.sequence);
        Log::new(store.clone()).page(&[*instance], &from, &wanted).await
    }

    /// Attempts an event; `None` when it is settled and the next may follow.
    async fn attempt(&mut self, envelope: &Envelope) -> Result<Option<Next>, Error> {
        let Turn { known, instance, name, courier, options, .. } = &self.turn;
        let outcome = courier.deliver(known, *instance, name, envelope).await;
        let now = courier.clock.now();
        let before = self.cursor.trouble.as_ref();
        let others = before.is_some_and(|trouble| known.health.delivered_since(trouble.since));
        match verdict::next(options, before, outcome, now, others, rand::random()) {
            Verdict::Advance => {
                known.health.delivered(now);
                self.settle(envelope);
                Ok(None)
            }
            Verdict::Retry { after, trouble } => {
                known.health.failed();
                let due = now + after;
                self.show(&trouble, due);
                self.cursor.trouble = Some(trouble);
                Ok(Some(Next::Wait(due)))
            }
            Verdict::Park { reason, trouble } => {
                known.health.failed();
                let Trouble { attempts, error, .. } = trouble;
                if envelope.missing().is_some() {
                    // There is no event to keep for later.
                    tracing::warn!(endpoint = %known.id, instance = %name, cause = error,
                        "a webhook's receiver refuses to be told what it missed");
                    self.settle(envelope);
                    return Ok(None);
                }
                self.park(envelope.sequence, Parked { at: now, reason, attempts, error }).await
            }
            Verdict::Disable { trouble } => {
                known.health.failed();
                self.show(&trouble, now);
                self.cursor.trouble = Some(trouble.clone());
                Ok(Some(Next::GiveUp(trouble)))
            }
        }
    }

    /// Puts the event at the head aside, in the same commit that steps over it.
    async fn park(&mut self, sequence: u64, parked: Parked) -> Result<Option<Next>, Error> {
        let (id, instance) = (self.turn.known.id, self.turn.instance);
        tracing::warn!(endpoint = %id, instance = %self.turn.name, sequence, reason = parked.reason.as_str(),
            cause = parked.error, "a webhook's event is parked");
        let store = self.turn.store.clone();
        let oldest = tokio::task::spawn_blocking(move || events::read(&store, instance, 0, 1)).await;
        let kept_from = oldest.unwrap_or(Err(Error::Panicked))?.first().map_or(0, |oldest| oldest.sequence);
        self.pass(sequence);
        let cursor = self.cursor.clone();
        let write = move |tx: &mut Tx| {
            let ours = storage::save(tx, id, instance, &cursor)?;
            if ours {
                storage::park(tx, id, Place { instance, sequence }, &parked, kept_from)?;
            }
            Ok(ours)
        };
        let ours = self.turn.store.write(write).await?;
        self.mark_saved();
        if !ours {
            return Ok(Some(Next::Superseded));
        }
        self.turn.known.health.parked();
        Ok(None)
    }

    /// Goes on behind an event that is settled.
    fn settle(&mut self, envelope: &Envelope) {
        if let Some(missed) = envelope.missing() {
            // Retention may be faster than a receiver; that must not go unnoticed.
            self.turn.known.health.missed(missed);
            tracing::warn!(endpoint = %self.turn.known.id, instance = %self.turn.name, missed,
                "events left the log before a webhook endpoint took them");
        }
        self.pass(envelope.sequence);
    }

    /// Steps over events that are not wanted.
    fn pass_up_to(&mut self, sequence: u64) {
        if sequence > self.cursor.sequence {
            self.pass(sequence);
        }
    }

    fn pass(&mut self, sequence: u64) {
        self.cursor.sequence = sequence;
        if self.cursor.trouble.take().is_some() {
            self.turn.known.health.well(self.turn.instance);
        }
    }

    fn show(&self, trouble: &Trouble, next_attempt: Timestamp) {
        let Turn { known, instance, name, .. } = &self.turn;
        if trouble.attempts == 1 {
            tracing::warn!(endpoint = %known.id, instance = %name, cause = trouble.error, %next_attempt,
                "a webhook was not delivered and will be tried again");
        } else {
            tracing::debug!(endpoint = %known.id, instance = %name, cause = trouble.error, %next_attempt,
                attempts = trouble.attempts, "a webhook was not delivered");
        }
        known.health.trouble(TroubleView {
            instance: *instance,
            since: trouble.since,
            attempts: trouble.attempts,
            error: trouble.error.clone(),
            next_attempt,
        });
    }

    /// Gives progress to the store without waiting for it: what a crash forgets is told again.
    async fn save_by_and_by(&mut self) {
        if self.saved_at.elapsed() >= SAVE_EVERY && self.cursor != self.saved {
            let (id, instance, cursor) = (self.turn.known.id, self.turn.instance, self.cursor.clone());
            self.turn.store.submit(move |tx| storage::save(tx, id, instance, &cursor), |_| {}).await;
            self.mark_saved();
        }
    }

    /// Writes progress down; `false` when the cursor is not this stream's any more.
    async fn save(&mut self) -> Result<bool, Error> {
        if self.cursor == self.saved {
            return Ok(true);
        }
        let (id, instance, cursor) = (self.turn.known.id, self.turn.instance, self.cursor.clone());
        let ours = self.turn.store.write(move |tx| storage::save(tx, id, instance, &cursor)).await?;
        self.mark_saved();
        Ok(ours)
    }

    fn mark_saved(&mut self) {
        self.saved = self.cursor.clone();
        self.saved_at = Instant::now();
    }
}
