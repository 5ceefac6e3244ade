//! Taking messages in: one at a time, whole pages of rows, and those that somebody waits for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ractor::{ActorRef, RpcReplyPort};

use crate::queue::accept::{self, Refused, Terms};
use crate::queue::dispatch::{self, Found};
use crate::queue::{Accepted, Error, Leased, Outcome, Submission, items};
use relevo_domain::{Class, MessageId, Mode, Timestamp};
use relevo_store::{Error as StoreError, Haste, Tx};

use super::{Msg, Reply, State, Together};

/// Why a submission was not taken, for its sender and for the metrics.
fn refusal(why: Refused, terms: Terms) -> (Error, &'static str) {
    match why {
        Refused::Full => (Error::Full { capacity: terms.capacity }, "queue_full"),
        Refused::KeyReused => (Error::KeyReused, "key_reused"),
    }
}

impl State {
    fn terms(&self) -> Terms {
        let (now, options) = (self.now(), &self.arguments.options);
        Terms {
            now,
            capacity: options.capacity,
            idempotency_expires: now + options.idempotency_ttl,
            random: rand::random(),
        }
    }

    /// Says when the message is too old to be sent, where its sender did not.
    fn limit_age(&self, submission: &mut Submission, now: Timestamp) {
        if let Some(expiry) = self.arguments.options.expiry(submission.class()) {
            let begins = submission.send_at.map_or(now, |at| at.max(now));
            submission.expires_at.get_or_insert(begins + expiry);
        }
    }

    /// Whoever waits for this submission.
    fn next_for(&mut self, submission: &Submission) -> Option<Reply<Leased>> {
        let is_awaited = submission.class() == Class::Transactional && submission.send_at.is_none();
        is_awaited.then(|| self.next.remove(&submission.instance)).flatten()
    }

    /// Takes a submission in and hands the durable result to `done`, on the writer's thread. Where its instance waits for
    /// it, it is leased by the same commit.
    async fn accept(
        &mut self,
        me: ActorRef<Msg>,
        mut submission: Submission,
        done: impl FnOnce(Result<Accepted, Error>) + Send + 'static,
    ) {
        let metrics = self.arguments.metrics.clone();
        if self.arguments.store.is_full() {
            metrics.refused("disk_full");
            return done(Err(Error::DiskFull));
        }
        let (terms, nudges, instance) = (self.terms(), self.arguments.nudges.clone(), submission.instance);
        self.limit_age(&mut submission, terms.now);
        let (class, mode, began) = (submission.class(), submission.mode.as_str(), Instant::now());
        let next = self.next_for(&submission).map(|next| self.hand(me, next, terms.now));
        let request =
            dispatch::Request { instance, max: 1, max_bulk: 0, now: terms.now, run: self.arguments.run };
        let is_awaited = next.is_some();
        let work = move |tx: &mut Tx| {
            let accepted = accept::accept(tx, submission, terms)?;
            let leases = is_awaited && matches!(accepted, Ok(Accepted::New(_)));
            let found = if leases { dispatch::lease(tx, request)? } else { Found::default() };
            Ok((accepted, found))
        };
        let finish = move |outcome: Result<(Result<Accepted, Refused>, Found), StoreError>| {
            let (accepted, found) = match outcome {
                Ok((accepted, found)) => (accepted.map_err(|why| refusal(why, terms)), found),
                Err(error) => (Err((Error::from(error), "store")), Found::default()),
            };
            let is_leased = |id| found.leased.leases.iter().any(|lease| lease.id == id);
            let is_looked_for = !matches!(&accepted, Ok(accepted) if is_leased(accepted.id()));
            match &accepted {
                Ok(Accepted::New(_)) => metrics.accepted(class.as_str(), mode, began.elapsed()),
                Ok(Accepted::Duplicate(_)) => metrics.refused("duplicate"),
                Err((_, reason)) => metrics.refused(reason),
            }
            done(accepted.map_err(|(error, _)| error));
            if let Some(next) = next {
                next.over(Ok(found));
            }
            if is_looked_for {
                nudges.nudge(instance, class);
            }
        };
        self.arguments.store.submit_with(Haste::First, work, finish).await;
    }

    pub(super) async fn enqueue(
        &mut self,
        me: ActorRef<Msg>,
        submission: Submission,
        reply: Reply<Accepted>,
    ) {
        self.accept(me, submission, move |accepted| drop(reply.send(accepted))).await;
    }

    pub(super) async fn enqueue_items(
        &self,
        mut submissions: Vec<Submission>,
        with: Together,
        reply: Reply<Vec<MessageId>>,
    ) {
        let (metrics, terms, began) = (self.arguments.metrics.clone(), self.terms(), Instant::now());
        if self.arguments.store.is_full() {
            metrics.refused("disk_full");
            return drop(reply.send(Err(Error::DiskFull)));
        }
        for submission in &mut submissions {
            self.limit_age(submission, terms.now);
        }
        let nudges = self.arguments.nudges.clone();
        let work = move |tx: &mut Tx| {
            let accepted = items::accept(tx, submissions, terms)?;
            if accepted.is_ok() {
                with(tx)?;
            }
            Ok(accepted)
        };
        let done = move |outcome: Result<Result<Vec<MessageId>, Refused>, StoreError>| {
            let accepted = match outcome {
                Ok(Ok(ids)) => Ok(ids),
                Ok(Err(why)) => Err(refusal(why, terms)),
                Err(error) => Err((Error::from(error), "store")),
            };
            let mut instances = BTreeSet::new();
            match &accepted {
                Ok(ids) => {
                    let (class, mode) = (Class::Bulk.as_str(), Mode::Async.as_str());
                    ids.iter().for_each(|_| metrics.accepted(class, mode, began.elapsed()));
                    instances.extend(ids.iter().map(|id| id.instance()));
                }
                Err((_, reason)) => metrics.refused(reason),
            }
            let _ = reply.send(accepted.map_err(|(error, _)| error));
            instances.into_iter().for_each(|instance| nudges.nudge(instance, Class::Bulk));
        };
        self.arguments.store.submit_with(Haste::Soon, work, done).await;
    }

    pub(super) async fn send_now(
        &mut self,
        me: ActorRef<Msg>,
        mut submission: Submission,
        wait: Duration,
        reply: Reply<Accepted>,
        outcome: RpcReplyPort<Outcome>,
    ) {
        let end = self.now() + wait;
        submission.expires_at = Some(submission.expires_at.map_or(end, |expires| expires.min(end)));
        let queue = me.clone();
        let done = move |accepted: Result<Accepted, Error>| {
            if let Ok(accepted) = accepted {
                // Told to the actor before anybody has the lease or is nudged, so that the end cannot come before the
                // waiting.
                let _ = queue.cast(Msg::Awaited(accepted, outcome));
            }
            let _ = reply.send(accepted);
        };
        self.accept(me, submission, done).await;
    }
}
