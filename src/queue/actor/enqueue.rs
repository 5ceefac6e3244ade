//! Enqueueing: single messages, pages of bulk rows, and synchronous messages.

use std::collections::BTreeSet;
use std::time::Duration;

use ractor::{ActorRef, RpcReplyPort};
use tokio::time::Instant;

use crate::queue::accept::{self, EnqueueContext, EnqueueRefusal, KeyUse};
use crate::queue::dispatch::{self, LeaseResult};
use crate::queue::{Acceptance, Error, IdempotencyKey, LeaseBatch, SendOutcome, Submission, bulk_rows};
use relevo_domain::{Class, InstanceNumber, MessageId, Mode, Timestamp};
use relevo_store::{Error as StoreError, Priority, Tx};

use super::{CommitHook, Msg, QueueReply, State};

/// The error of a refused submission, and its metric label.
fn refusal_error(why: EnqueueRefusal, context: EnqueueContext) -> (Error, &'static str) {
    match why {
        EnqueueRefusal::Full => (Error::Full { capacity: context.capacity }, "queue_full"),
        EnqueueRefusal::KeyReused => (Error::KeyReused, "key_reused"),
    }
}

impl State {
    fn enqueue_context(&self) -> EnqueueContext {
        let (now, options) = (self.now(), &self.arguments.options);
        EnqueueContext {
            now,
            capacity: options.capacity,
            idempotency_expires: now + options.idempotency_ttl,
            random: self.arguments.random.value(),
        }
    }

    /// Sets the default expiry of a message whose sender set none.
    fn set_default_expiry(&self, submission: &mut Submission, now: Timestamp) {
        if let Some(expiry) = self.arguments.options.expiry(submission.class()) {
            let begins = submission.send_at.map_or(now, |at| at.max(now));
            submission.expires_at.get_or_insert(begins + expiry);
        }
    }

    /// The waiter that this submission completes, if any.
    fn take_next_waiter(&mut self, submission: &Submission) -> Option<QueueReply<LeaseBatch>> {
        let is_awaited = submission.class() == Class::Transactional && submission.send_at.is_none();
        is_awaited.then(|| self.next_waiters.remove(&submission.instance)).flatten()
    }

    /// Enqueues a submission and passes the durable result to `done`, on the thread of the store's writer. If its instance
    /// waits for its next message, the same commit leases it.
    async fn accept(
        &mut self,
        me: ActorRef<Msg>,
        mut submission: Submission,
        done: impl FnOnce(Result<Acceptance, Error>) + Send + 'static,
    ) {
        let metrics = self.arguments.metrics.clone();
        if self.arguments.store.is_full() {
            metrics.record_refused("disk_full");
            return done(Err(Error::DiskFull));
        }
        let (context, notifier, instance) =
            (self.enqueue_context(), self.arguments.notifier.clone(), submission.instance);
        self.set_default_expiry(&mut submission, context.now);
        let (class, mode, began) = (submission.class(), submission.mode.as_str(), Instant::now());
        let next = self.take_next_waiter(&submission).map(|next| self.lease_reply(me, next, context.now));
        let request = dispatch::LeaseRequest {
            instance,
            max: 1,
            max_bulk: 0,
            now: context.now,
            expiry_time: self.expiry_time(),
            run: self.arguments.run,
        };
        let is_awaited = next.is_some();
        let work = move |tx: &mut Tx| {
            let accepted = accept::accept(tx, submission, context)?;
            let leases = is_awaited && matches!(accepted, Ok(Acceptance::New(_)));
            let found = if leases { dispatch::lease(tx, request)? } else { LeaseResult::default() };
            Ok((accepted, found))
        };
        let finish = move |outcome: Result<(Result<Acceptance, EnqueueRefusal>, LeaseResult), StoreError>| {
            let (accepted, found) = match outcome {
                Ok((accepted, found)) => (accepted.map_err(|why| refusal_error(why, context)), found),
                Err(error) => (Err((Error::from(error), "store")), LeaseResult::default()),
            };
            let is_leased = |id| found.batch.leases.iter().any(|lease| lease.id == id);
            let needs_lease = !matches!(&accepted, Ok(accepted) if is_leased(accepted.id()));
            match &accepted {
                Ok(Acceptance::New(_)) => metrics.record_accepted(class.as_str(), mode, began.elapsed()),
                Ok(Acceptance::Duplicate(_)) => metrics.record_refused("duplicate"),
                Err((_, reason)) => metrics.record_refused(reason),
            }
            done(accepted.map_err(|(error, _)| error));
            if let Some(next) = next {
                next.send(Ok(found));
            }
            if needs_lease {
                notifier.notify(instance, class);
            }
        };
        self.arguments.store.submit_with_priority(Priority::Urgent, work, finish).await;
    }

    pub(super) async fn enqueue(
        &mut self,
        me: ActorRef<Msg>,
        submission: Submission,
        reply: QueueReply<Acceptance>,
    ) {
        self.accept(me, submission, move |accepted| drop(reply.send(accepted))).await;
    }

    /// Looks an idempotency key up. The reply follows the commits of all earlier requests, so the message that it names is
    /// durable.
    pub(super) async fn find_repeated(
        &self,
        instance: InstanceNumber,
        key: IdempotencyKey,
        reply: QueueReply<Option<MessageId>>,
    ) {
        let (now, metrics) = (self.now(), self.arguments.metrics.clone());
        let work = move |tx: &mut Tx| accept::find_key(tx, instance, &key, now);
        let done = move |found: Result<KeyUse, StoreError>| {
            let found = match found {
                Ok(KeyUse::Unused | KeyUse::Expired(_)) => Ok(None),
                Ok(KeyUse::SameRequest(id)) => {
                    metrics.record_refused("duplicate");
                    Ok(Some(id))
                }
                Ok(KeyUse::OtherRequest) => {
                    metrics.record_refused("key_reused");
                    Err(Error::KeyReused)
                }
                Err(error) => Err(Error::from(error)),
            };
            let _ = reply.send(found);
        };
        self.arguments.store.submit_with_priority(Priority::Urgent, work, done).await;
    }

    pub(super) async fn enqueue_items(
        &self,
        mut submissions: Vec<Submission>,
        hook: CommitHook,
        reply: QueueReply<Vec<MessageId>>,
    ) {
        let (metrics, context, began) =
            (self.arguments.metrics.clone(), self.enqueue_context(), Instant::now());
        if self.arguments.store.is_full() {
            metrics.record_refused("disk_full");
            return drop(reply.send(Err(Error::DiskFull)));
        }
        for submission in &mut submissions {
            self.set_default_expiry(submission, context.now);
        }
        let notifier = self.arguments.notifier.clone();
        let work = move |tx: &mut Tx| {
            let accepted = bulk_rows::accept(tx, submissions, context)?;
            if accepted.is_ok() {
                hook(tx)?;
            }
            Ok(accepted)
        };
        let done = move |outcome: Result<Result<Vec<MessageId>, EnqueueRefusal>, StoreError>| {
            let accepted = match outcome {
                Ok(Ok(ids)) => Ok(ids),
                Ok(Err(why)) => Err(refusal_error(why, context)),
                Err(error) => Err((Error::from(error), "store")),
            };
            let mut instances = BTreeSet::new();
            match &accepted {
                Ok(ids) => {
                    let (class, mode) = (Class::Bulk.as_str(), Mode::Async.as_str());
                    ids.iter().for_each(|_| metrics.record_accepted(class, mode, began.elapsed()));
                    instances.extend(ids.iter().map(|id| id.instance()));
                }
                Err((_, reason)) => metrics.record_refused(reason),
            }
            let _ = reply.send(accepted.map_err(|(error, _)| error));
            instances.into_iter().for_each(|instance| notifier.notify(instance, Class::Bulk));
        };
        self.arguments.store.submit_with_priority(Priority::Background, work, done).await;
    }

    pub(super) async fn send_now(
        &mut self,
        me: ActorRef<Msg>,
        mut submission: Submission,
        wait: Duration,
        reply: QueueReply<Acceptance>,
        outcome: RpcReplyPort<SendOutcome>,
    ) {
        let end = self.now() + wait;
        submission.expires_at = Some(submission.expires_at.map_or(end, |expires| expires.min(end)));
        let queue = me.clone();
        let done = move |accepted: Result<Acceptance, Error>| {
            if let Ok(accepted) = accepted {
                // Sent before the lease reply and the notification, so that the waiter is registered before the message
                // can be settled.
                let _ = queue.cast(Msg::AddWaiter(accepted, outcome));
            }
            let _ = reply.send(accepted);
        };
        self.accept(me, submission, done).await;
    }
}
