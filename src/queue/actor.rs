//! The actor that makes all changes of the queue.
//!
//! Each message becomes one change of the store. Changes are applied in the order of the messages, share commits, and
//! get their reply when they are durable. The actor never waits for the disk.

mod clock;
mod enqueue;
mod retention;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};

use relevo_clock::{Clock, Random};
use relevo_domain::{
    Class, Failure, InstanceNumber, MessageId, Overdue, ProviderMessageId, RetryDecision, Status, Timestamp,
};
use relevo_metrics::Metrics;
use relevo_store::{Error as StoreError, Key, Priority, Store, Tx};
use tokio::time::Instant;

use super::clock_steps::ClockSteps;
use super::notifier::WorkNotifier;
use super::{
    Acceptance, Error, IdempotencyKey, ItemOutcome, Lease, LeaseBatch, Options, ReceiptReport, ReceiptResult,
    SendOutcome, Submission, accept, bulk_rows, dead_letters, dispatch, item_outcomes, ledger, receipts,
    schedule, settle,
};

/// A change of another module that is made in the same commit.
pub type CommitHook = Box<dyn FnOnce(&mut Tx) -> Result<(), StoreError> + Send>;

type QueueReply<T> = RpcReplyPort<Result<T, Error>>;

/// Requests to the queue. Every reply is sent after the change is durable.
pub enum Msg {
    /// From the HTTP front end: enqueue a message.
    Enqueue(Box<Submission>, QueueReply<Acceptance>),
    /// From bulk jobs: enqueue rows, all or none, and run the hook in the same commit.
    EnqueueItems(Vec<Submission>, CommitHook, QueueReply<Vec<MessageId>>),
    /// From bulk jobs: delete noted outcomes, and run the hook in the same commit.
    NoteOutcomes(Vec<ItemOutcome>, CommitHook, QueueReply<()>),
    /// From bulk jobs: withdraw the messages that were not attempted yet; replies with their ids.
    WithdrawItems(Vec<MessageId>, QueueReply<Vec<MessageId>>),
    /// From bulk jobs: a job is deleted; delete a page of its outcomes. Replies whether there is more.
    DeleteJob(u16, QueueReply<bool>),
    /// From the HTTP front end: enqueue a message and reply when its only attempt is over, which must begin within this
    /// time. The first reply contains the id, so that a caller that stops waiting can withdraw the message.
    SendNow(Box<Submission>, Duration, QueueReply<Acceptance>, RpcReplyPort<SendOutcome>),
    /// From the HTTP front end: look an idempotency key up. Replies with the message that the same request created, if any.
    FindRepeated(InstanceNumber, IdempotencyKey, QueueReply<Option<MessageId>>),
    /// From an instance: lease up to `max` messages, at most `max_bulk` of them bulk, with this commit priority.
    Lease {
        instance: InstanceNumber,
        max: usize,
        max_bulk: usize,
        priority: Priority,
        reply: QueueReply<LeaseBatch>,
    },
    /// From an instance: lease the next transactional message with the commit that accepts it. A second request of the
    /// instance, or a cancellation, completes the first with an empty batch.
    LeaseNext(InstanceNumber, QueueReply<LeaseBatch>),
    /// From an instance: cancel its `LeaseNext`.
    CancelLeaseNext(InstanceNumber),
    /// From an instance: WhatsApp accepted the message.
    Sent(Box<Lease>, ProviderMessageId),
    /// From an instance: the attempt did not begin; lease the message again at this time.
    Postpone(Box<Lease>, Timestamp),
    /// From `retry`: apply the decision about a failed attempt.
    ApplyDecision(Box<Lease>, RetryDecision, Failure),
    /// From `inbound`: record receipts. Replies with their effects in the same order.
    RecordReceipts(Vec<ReceiptReport>, QueueReply<Vec<ReceiptResult>>),
    /// From the HTTP front end: change the time of a scheduled message. Replies `false` when it is not scheduled.
    Reschedule(MessageId, Timestamp, QueueReply<bool>),
    /// From the HTTP front end: append dead letters to their lanes again. Replies how many there were.
    Redrive(Vec<MessageId>, QueueReply<usize>),
    /// From the HTTP front end: delete dead letters. Replies how many there were.
    Discard(Vec<MessageId>, QueueReply<usize>),
    /// From the HTTP front end: withdraw a message if it was not attempted yet. Replies whether it was withdrawn.
    Withdraw(MessageId, QueueReply<bool>),
    /// From `retry`: find leases whose outcome will not be reported.
    FindOverdue(QueueReply<Vec<(Lease, Overdue)>>),
    /// From `retry`, periodically: delete a page of expired records from this position. Replies where the next begins.
    RunRetention(Option<MessageId>, QueueReply<Option<MessageId>>),
    /// From instances: an instance is deleted; delete a page of its records. Replies whether there is more.
    Purge(InstanceNumber, QueueReply<bool>),
    /// A synchronous message is durable, or was before, and its caller waits for the outcome.
    AddWaiter(Acceptance, RpcReplyPort<SendOutcome>),
    /// From the actor itself: a message is settled; a caller may wait for it.
    MessageEnded(MessageId, SendOutcome),
    /// From the actor itself: the wall clock went back; bring the due times back that follow this key.
    BringBackDueTimes(Option<Key>),
}

/// The actor of the queue. A child of the retry supervisor.
pub struct QueueActor;

/// The dependencies of the actor.
#[derive(Clone)]
pub struct Arguments {
    /// Holds all state of the queue.
    pub store: Store,
    /// Wall time.
    pub clock: Clock,
    /// The random parts of message ids.
    pub random: Random,
    /// Limits and retention.
    pub options: Options,
    /// The current run of the process: leases of any other run are overdue.
    pub run: u64,
    /// Notifies instances and bulk jobs.
    pub notifier: WorkNotifier,
    /// Counts messages and outcomes.
    pub metrics: Metrics,
}

/// The state of the actor: pending replies to callers that wait for an outcome, and to instances that wait for their
/// next message.
pub struct State {
    arguments: Arguments,
    waiters: HashMap<MessageId, Vec<RpcReplyPort<SendOutcome>>>,
    next_waiters: HashMap<InstanceNumber, QueueReply<LeaseBatch>>,
    clock_steps: ClockSteps,
    /// The start of the actor, for the monotonic time of `clock_steps`.
    started: Instant,
}

impl Actor for QueueActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let mut state = State {
            arguments,
            waiters: HashMap::new(),
            next_waiters: HashMap::new(),
            clock_steps: ClockSteps::default(),
            started: Instant::now(),
        };
        state.start_clock(&me)?;
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.observe_clock(&me)?;
        match message {
            Msg::Enqueue(submission, reply) => state.enqueue(me, *submission, reply).await,
            Msg::EnqueueItems(submissions, hook, reply) => {
                state.enqueue_items(submissions, hook, reply).await;
            }
            Msg::NoteOutcomes(noted, hook, reply) => state.note_outcomes(noted, hook, reply).await,
            Msg::WithdrawItems(ids, reply) => state.withdraw_items(ids, reply).await,
            Msg::DeleteJob(job, reply) => {
                state.change(reply, move |tx: &mut Tx| item_outcomes::delete_slot(tx, job)).await;
            }
            Msg::SendNow(submission, wait, accepted, outcome) => {
                state.send_now(me, *submission, wait, accepted, outcome).await;
            }
            Msg::FindRepeated(instance, key, reply) => state.find_repeated(instance, key, reply).await,
            Msg::Lease { instance, max, max_bulk, priority, reply } => {
                let (now, run) = (state.now(), state.arguments.run);
                let expiry_time = state.expiry_time();
                let request = dispatch::LeaseRequest { instance, max, max_bulk, now, expiry_time, run };
                state.lease(me, request, priority, reply).await;
            }
            Msg::LeaseNext(instance, reply) => state.set_next_waiter(instance, Some(reply)),
            Msg::CancelLeaseNext(instance) => state.set_next_waiter(instance, None),
            Msg::Sent(lease, provider_id) => state.record_sent(me, *lease, provider_id).await,
            Msg::Postpone(lease, until) => state.postpone(me, *lease, until).await,
            Msg::ApplyDecision(lease, decision, failure) => {
                state.apply_decision(me, *lease, decision, failure).await;
            }
            Msg::RecordReceipts(reports, reply) => state.record_receipts(me, reports, reply).await,
            Msg::Reschedule(id, at, reply) => state.reschedule(id, at, reply).await,
            Msg::Redrive(ids, reply) => state.redrive(ids, reply).await,
            Msg::Discard(ids, reply) => {
                state.change(reply, move |tx: &mut Tx| dead_letters::discard(tx, &ids)).await;
            }
            Msg::Withdraw(id, reply) => state.withdraw(me, id, reply).await,
            Msg::FindOverdue(reply) => state.find_overdue(reply).await,
            Msg::RunRetention(from, reply) => {
                state.remove_closed_waiters();
                state.run_retention(from, reply).await;
            }
            Msg::Purge(instance, reply) => state.purge(instance, reply).await,
            Msg::AddWaiter(accepted, outcome) => state.add_waiter(accepted, outcome),
            Msg::MessageEnded(id, outcome) => state.reply_to_waiters(id, &outcome),
            Msg::BringBackDueTimes(from) => state.bring_back_due_times(me, from).await,
        }
        Ok(())
    }
}

/// Maximum number of overdue leases in one reply.
const OVERDUE_PAGE: usize = 200;

/// The commit priority of a message's changes.
fn priority_of(class: Class) -> Priority {
    match class {
        Class::Transactional => Priority::Urgent,
        Class::Bulk => Priority::Background,
    }
}

/// Sends the reply to a request for leases, on the thread of the store's writer.
struct LeaseReply {
    me: ActorRef<Msg>,
    reply: QueueReply<LeaseBatch>,
    now: Timestamp,
    metrics: Metrics,
    notifier: WorkNotifier,
}

impl LeaseReply {
    fn send(self, found: Result<dispatch::LeaseResult, StoreError>) {
        let leased = found.map(|found| {
            for id in found.expired {
                self.metrics.record_end("expired", None);
                self.notifier.notify_job_of(id);
                let _ = self.me.cast(Msg::MessageEnded(id, SendOutcome::Cancelled));
            }
            found.batch
        });
        if let Err(MessagingErr::SendErr(Ok(unsent))) = self.reply.send(leased.map_err(Error::from)) {
            // The requester is gone. No attempt began, so all of its leases may be granted again at once.
            for lease in unsent.leases {
                let _ = self.me.cast(Msg::Postpone(Box::new(lease), self.now));
            }
        }
    }
}

impl State {
    fn now(&self) -> Timestamp {
        self.arguments.clock.now()
    }

    fn add_waiter(&mut self, accepted: Acceptance, waiter: RpcReplyPort<SendOutcome>) {
        let outcome = match accepted {
            Acceptance::New(_) => None,
            // An outcome that cannot be read is unknown.
            Acceptance::Duplicate(id) => {
                ledger::outcome(&self.arguments.store, id).unwrap_or(Some(SendOutcome::Unknown))
            }
        };
        match outcome {
            Some(outcome) => drop(waiter.send(outcome)),
            None => self.waiters.entry(accepted.id()).or_default().push(waiter),
        }
    }

    /// Removes callers that stopped waiting.
    fn remove_closed_waiters(&mut self) {
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
    }

    fn reply_to_waiters(&mut self, id: MessageId, outcome: &SendOutcome) {
        for waiter in self.waiters.remove(&id).unwrap_or_default() {
            let _ = waiter.send(outcome.clone());
        }
    }

    async fn lease(
        &self,
        me: ActorRef<Msg>,
        request: dispatch::LeaseRequest,
        priority: Priority,
        reply: QueueReply<LeaseBatch>,
    ) {
        let lease_reply = self.lease_reply(me, reply, request.now);
        let work = move |tx: &mut Tx| dispatch::lease(tx, request);
        self.arguments.store.submit_with_priority(priority, work, move |found| lease_reply.send(found)).await;
    }

    fn lease_reply(&self, me: ActorRef<Msg>, reply: QueueReply<LeaseBatch>, now: Timestamp) -> LeaseReply {
        let (metrics, notifier) = (self.arguments.metrics.clone(), self.arguments.notifier.clone());
        LeaseReply { me, reply, now, metrics, notifier }
    }

    /// Registers or removes the waiter of an instance, and completes a previous one with an empty batch.
    fn set_next_waiter(&mut self, instance: InstanceNumber, reply: Option<QueueReply<LeaseBatch>>) {
        let previous = match reply {
            Some(reply) => self.next_waiters.insert(instance, reply),
            None => self.next_waiters.remove(&instance),
        };
        if let Some(previous) = previous {
            let _ = previous.send(Ok(LeaseBatch::default()));
        }
    }

    async fn note_outcomes(&self, noted: Vec<ItemOutcome>, hook: CommitHook, reply: QueueReply<()>) {
        let work = move |tx: &mut Tx| {
            item_outcomes::delete_noted(tx, &noted)?;
            hook(tx)
        };
        let done = move |result: Result<(), StoreError>| drop(reply.send(result.map_err(Error::from)));
        self.arguments.store.submit_with_priority(Priority::Background, work, done).await;
    }

    async fn record_sent(&self, me: ActorRef<Msg>, lease: Lease, provider_id: ProviderMessageId) {
        let work = move |tx: &mut Tx, lease: &Lease, now| settle::record_sent(tx, lease, &provider_id, now);
        self.settle(me, lease, Some("sent"), work).await;
    }

    async fn postpone(&self, me: ActorRef<Msg>, lease: Lease, until: Timestamp) {
        let work =
            move |tx: &mut Tx, lease: &Lease, now| settle::postpone(tx, lease, until, now).map(|()| None);
        self.settle(me, lease, None, work).await;
    }

    async fn apply_decision(
        &self,
        me: ActorRef<Msg>,
        lease: Lease,
        decision: RetryDecision,
        failure: Failure,
    ) {
        let fate = match decision {
            RetryDecision::Bury(_) => Some("dead_letter"),
            RetryDecision::Fail => Some("failed"),
            RetryDecision::Retry { .. } | RetryDecision::Defer { .. } | RetryDecision::Hold { .. } => None,
        };
        let work =
            move |tx: &mut Tx, lease: &Lease, now| settle::apply_decision(tx, lease, decision, &failure, now);
        self.settle(me, lease, fate, work).await;
    }

    /// Applies a change that ends an attempt, replies to the callers of a settled message, and notifies instance and job.
    /// `fate` is the metric label of a message that the change settles.
    async fn settle<W>(&self, me: ActorRef<Msg>, lease: Lease, fate: Option<&'static str>, work: W)
    where
        W: FnOnce(&mut Tx, &Lease, Timestamp) -> Result<Option<SendOutcome>, StoreError> + Send + 'static,
    {
        let (now, id, notifier) = (self.now(), lease.id, self.arguments.notifier.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |outcome: Result<Option<SendOutcome>, StoreError>| {
            match outcome {
                Ok(Some(outcome)) => {
                    if let Some(fate) = fate {
                        let took =
                            matches!(outcome, SendOutcome::Sent(_)).then(|| now.since(id.accepted_at()));
                        metrics.record_end(fate, took);
                    }
                    let _ = me.cast(Msg::MessageEnded(id, outcome));
                }
                Ok(None) => {}
                // The lease expires, and `retry` decides about it then.
                Err(error) => {
                    tracing::error!(message_id = %id, %error, "attempt not settled; its lease will expire")
                }
            }
            notifier.notify_instance_of(id);
            notifier.notify_job_of(id);
        };
        let work = move |tx: &mut Tx| work(tx, &lease, now);
        self.arguments.store.submit_with_priority(priority_of(id.class()), work, done).await;
    }

    async fn record_receipts(
        &self,
        me: ActorRef<Msg>,
        reports: Vec<ReceiptReport>,
        reply: QueueReply<Vec<ReceiptResult>>,
    ) {
        let (now, notifier) = (self.now(), self.arguments.notifier.clone());
        let metrics = self.arguments.metrics.clone();
        let kinds: Vec<_> = reports.iter().map(|report| Status::from(report.receipt).as_str()).collect();
        let work = move |tx: &mut Tx| {
            let mut results = Vec::with_capacity(reports.len());
            for report in &reports {
                results.push(receipts::record(tx, report, now)?);
            }
            Ok(results)
        };
        let done = move |results: Result<Vec<(ReceiptResult, Option<SendOutcome>)>, StoreError>| {
            let results = match results {
                Ok(results) => results,
                Err(error) => return drop(reply.send(Err(error.into()))),
            };
            let mut recorded = Vec::with_capacity(results.len());
            for ((result, outcome), kind) in results.into_iter().zip(kinds) {
                metrics.record_receipt(kind, matches!(result, ReceiptResult::Advanced(_)));
                if let ReceiptResult::Advanced(id) = result {
                    notifier.notify_job_of(id);
                    if let Some(outcome) = outcome {
                        let _ = me.cast(Msg::MessageEnded(id, outcome));
                        notifier.notify_instance_of(id);
                    }
                }
                recorded.push(result);
            }
            let _ = reply.send(Ok(recorded));
        };
        self.arguments.store.submit(work, done).await;
    }

    async fn withdraw(&self, me: ActorRef<Msg>, id: MessageId, reply: QueueReply<bool>) {
        let (now, notifier) = (self.now(), self.arguments.notifier.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |withdrawn: Result<bool, StoreError>| {
            if matches!(withdrawn, Ok(true)) {
                metrics.record_end("cancelled", None);
                let _ = me.cast(Msg::MessageEnded(id, SendOutcome::Cancelled));
                notifier.notify_instance_of(id);
                notifier.notify_job_of(id);
            }
            let _ = reply.send(withdrawn.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| accept::withdraw(tx, id, now), done).await;
    }

    async fn withdraw_items(&self, ids: Vec<MessageId>, reply: QueueReply<Vec<MessageId>>) {
        let (now, notifier) = (self.now(), self.arguments.notifier.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |withdrawn: Result<Vec<MessageId>, StoreError>| {
            for &id in withdrawn.iter().flatten() {
                metrics.record_end("cancelled", None);
                notifier.notify_instance_of(id);
                notifier.notify_job_of(id);
            }
            let _ = reply.send(withdrawn.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| bulk_rows::withdraw(tx, &ids, now), done).await;
    }

    async fn find_overdue(&self, reply: QueueReply<Vec<(Lease, Overdue)>>) {
        let (now, run) = (self.now(), self.arguments.run);
        let timeout = self.arguments.options.lease_timeout;
        self.change(reply, move |tx: &mut Tx| dispatch::find_overdue(tx, now, run, timeout, OVERDUE_PAGE))
            .await;
    }

    async fn reschedule(&self, id: MessageId, at: Timestamp, reply: QueueReply<bool>) {
        let work_for = BTreeSet::from([(id.instance(), id.class())]);
        let work = move |tx: &mut Tx| schedule::reschedule(tx, id, at);
        self.change_and_notify(reply, work_for, work).await;
    }

    async fn redrive(&self, ids: Vec<MessageId>, reply: QueueReply<usize>) {
        let now = self.now();
        let work_for: BTreeSet<_> = ids.iter().map(|id| (id.instance(), id.class())).collect();
        self.change_and_notify(reply, work_for, move |tx: &mut Tx| dead_letters::redrive(tx, &ids, now))
            .await;
    }

    /// Applies a change and replies with its result.
    async fn change<T, W>(&self, reply: QueueReply<T>, work: W)
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    {
        self.change_and_notify(reply, BTreeSet::new(), work).await;
    }

    /// Applies a change, replies with its result, and notifies these instances of work of the given class.
    async fn change_and_notify<T, W>(
        &self,
        reply: QueueReply<T>,
        work_for: BTreeSet<(InstanceNumber, Class)>,
        work: W,
    ) where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    {
        let notifier = self.arguments.notifier.clone();
        let done = move |outcome: Result<T, StoreError>| {
            let _ = reply.send(outcome.map_err(Error::from));
            work_for.into_iter().for_each(|(instance, class)| notifier.notify(instance, class));
        };
        self.arguments.store.submit(work, done).await;
    }
}
