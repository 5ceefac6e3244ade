//! The one writer of the queue.
//!
//! It turns each message into one change of the store and submits it; changes are applied in the order in which
//! the messages came, share commits, and are answered when they are durable. It never waits for the disk itself.

mod enqueue;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};

use relevo_clock::Clock;
use relevo_domain::{
    Class, Failure, InstanceNumber, MessageId, ProviderMessageId, RetryDecision, Status, Timestamp,
};
use relevo_metrics::Metrics;
use relevo_store::{Error as StoreError, Priority, Store, Tx};

use super::notifier::WorkNotifier;
use super::retention::{self, RetentionPage};
use super::{
    Acceptance, Error, ItemOutcome, Lease, LeaseBatch, Options, ReceiptReport, ReceiptResult, SendOutcome,
    Submission, accept, bulk_rows, dead_letters, dispatch, ledger, receipts, schedule, settle,
};

/// What somebody else has to say in the same commit.
pub type CommitHook = Box<dyn FnOnce(&mut Tx) -> Result<(), StoreError> + Send>;

type QueueReply<T> = RpcReplyPort<Result<T, Error>>;

/// What the queue can be asked. Every answer is given after the change is durable.
pub enum Msg {
    /// From the HTTP front end and bulk jobs: take a message in.
    Enqueue(Box<Submission>, QueueReply<Acceptance>),
    /// From bulk jobs: take rows in, all or none, and run this in the same commit.
    EnqueueItems(Vec<Submission>, CommitHook, QueueReply<Vec<MessageId>>),
    /// From bulk jobs: these outcomes are noted; run this in the same commit.
    NoteOutcomes(Vec<ItemOutcome>, CommitHook, QueueReply<()>),
    /// From bulk jobs: take these back, as far as they were not tried yet; answers which they were.
    WithdrawItems(Vec<MessageId>, QueueReply<Vec<MessageId>>),
    /// From bulk jobs: a job is deleted; forget a page of what it left. `true` when there is more.
    DeleteJob(u16, QueueReply<bool>),
    /// From the HTTP front end: take a message in and answer when its one attempt is over. It must not begin later
    /// than this. The first reply gives the id, so that a caller who stops waiting can withdraw it.
    SendNow(Box<Submission>, Duration, QueueReply<Acceptance>, RpcReplyPort<SendOutcome>),
    /// From an instance: work for so many free workers, of them so many that may take bulk messages, so soon.
    Lease {
        instance: InstanceNumber,
        max: usize,
        max_bulk: usize,
        haste: Priority,
        reply: QueueReply<LeaseBatch>,
    },
    /// From an instance: the next message that somebody waits for, leased by the commit that takes it in. Nothing, when
    /// it asks once more or wants none.
    LeaseNext(InstanceNumber, QueueReply<LeaseBatch>),
    /// From an instance: it wants no next message any more.
    CancelLeaseNext(InstanceNumber),
    /// From an instance: WhatsApp took it.
    Sent(Box<Lease>, ProviderMessageId),
    /// From an instance: the attempt did not begin; try again at this time.
    Postpone(Box<Lease>, Timestamp),
    /// From `retry`, which alone decides: what becomes of a failed attempt.
    ApplyDecision(Box<Lease>, RetryDecision, Failure),
    /// From `inbound`: what WhatsApp reports. Answered in order.
    RecordReceipts(Vec<ReceiptReport>, QueueReply<Vec<ReceiptResult>>),
    /// From the HTTP front end: another moment for a scheduled message; `false` when it is not scheduled.
    Reschedule(MessageId, Timestamp, QueueReply<bool>),
    /// From the HTTP front end: dead letters go back into their lanes; answers how many there were.
    Redrive(Vec<MessageId>, QueueReply<usize>),
    /// From the HTTP front end: dead letters that nobody wants any more.
    Discard(Vec<MessageId>, QueueReply<usize>),
    /// From the HTTP front end: take a message back if it was not tried yet.
    Withdraw(MessageId, QueueReply<bool>),
    /// From `retry`: leases that nobody will settle; `true` with those whose unknown outcome was held long enough.
    FindOverdue(QueueReply<Vec<(Lease, bool)>>),
    /// From `retry`, now and then: forget a page of what is too old, from here on; answers where the next begins.
    RunRetention(Option<MessageId>, QueueReply<Option<MessageId>>),
    /// From instances: an instance is gone for good; forget a page of what it left. `true` when there is more.
    Purge(InstanceNumber, QueueReply<bool>),
    /// From the actor itself: a synchronous message is durable and somebody waits for it.
    AddWaiter(Acceptance, RpcReplyPort<SendOutcome>),
    /// From the actor itself: a message came to an end that a caller may wait for.
    MessageEnded(MessageId, SendOutcome),
}

/// The queue's actor. A child of the retry supervisor.
pub struct QueueActor;

/// What the actor is made of.
#[derive(Clone)]
pub struct Arguments {
    pub store: Store,
    pub clock: Clock,
    pub options: Options,
    /// This run of the process: leases of any other are judged at once.
    pub run: u64,
    pub notifier: WorkNotifier,
    pub metrics: Metrics,
}

/// What the actor remembers: who waits for the end of which message, and which instances for their next one.
pub struct State {
    arguments: Arguments,
    waiters: HashMap<MessageId, Vec<RpcReplyPort<SendOutcome>>>,
    next_waiters: HashMap<InstanceNumber, QueueReply<LeaseBatch>>,
}

impl Actor for QueueActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        Ok(State { arguments, waiters: HashMap::new(), next_waiters: HashMap::new() })
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Enqueue(submission, reply) => state.enqueue(me, *submission, reply).await,
            Msg::EnqueueItems(submissions, with, reply) => {
                state.enqueue_items(submissions, with, reply).await;
            }
            Msg::NoteOutcomes(noted, with, reply) => {
                let note = move |tx: &mut Tx| bulk_rows::delete_noted(tx, &noted).and_then(|()| with(tx));
                let done = move |noted: Result<(), StoreError>| drop(reply.send(noted.map_err(Error::from)));
                state.arguments.store.submit_with_priority(Priority::Background, note, done).await;
            }
            Msg::WithdrawItems(ids, reply) => state.withdraw_items(ids, reply).await,
            Msg::DeleteJob(job, reply) => {
                state.change(reply, move |tx: &mut Tx| bulk_rows::delete_slot(tx, job)).await;
            }
            Msg::SendNow(submission, wait, accepted, outcome) => {
                state.send_now(me, *submission, wait, accepted, outcome).await;
            }
            Msg::Lease { instance, max, max_bulk, haste, reply } => {
                let (now, run) = (state.now(), state.arguments.run);
                let request = dispatch::LeaseRequest { instance, max, max_bulk, now, run };
                state.lease(me, request, haste, reply).await;
            }
            Msg::LeaseNext(instance, reply) => state.set_next_waiter(instance, Some(reply)),
            Msg::CancelLeaseNext(instance) => state.set_next_waiter(instance, None),
            Msg::Sent(lease, provider_id) => {
                let sent =
                    move |tx: &mut Tx, lease: &Lease, now| settle::record_sent(tx, lease, &provider_id, now);
                state.settle(me, *lease, Some("sent"), sent).await;
            }
            Msg::Postpone(lease, until) => {
                let postpone = move |tx: &mut Tx, lease: &Lease, now| {
                    settle::postpone(tx, lease, until, now).map(|()| None)
                };
                state.settle(me, *lease, None, postpone).await;
            }
            Msg::ApplyDecision(lease, verdict, failure) => {
                let fate = match verdict {
                    RetryDecision::Bury(_) => Some("dead_letter"),
                    RetryDecision::Fail => Some("failed"),
                    RetryDecision::Retry { .. }
                    | RetryDecision::Defer { .. }
                    | RetryDecision::Hold { .. } => None,
                };
                let judged = move |tx: &mut Tx, lease: &Lease, now| {
                    settle::apply_decision(tx, lease, verdict, &failure, now)
                };
                state.settle(me, *lease, fate, judged).await;
            }
            Msg::RecordReceipts(reports, reply) => state.record_receipts(me, reports, reply).await,
            Msg::Reschedule(id, at, reply) => {
                let reschedule = move |tx: &mut Tx| schedule::reschedule(tx, id, at);
                state
                    .change_and_notify(reply, BTreeSet::from([(id.instance(), id.class())]), reschedule)
                    .await;
            }
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
        }
        Ok(())
    }
}

/// The most overdue leases that are judged at once.
const OVERDUE_PAGE: usize = 200;

/// How soon a message's way through the queue is to be durable.
fn priority_of(class: Class) -> Priority {
    match class {
        Class::Transactional => Priority::Urgent,
        Class::Bulk => Priority::Background,
    }
}

/// What hands leases over, on the writer's thread.
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
        if let Err(MessagingErr::SendErr(Ok(unwanted))) = self.reply.send(leased.map_err(Error::from)) {
            // Whoever asked is gone. Nothing began, so nothing is ambiguous: all of it may go again at once.
            for lease in unwanted.leases {
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
        let ended = match accepted {
            Acceptance::New(_) => None,
            // An end that cannot be read is not known.
            Acceptance::Duplicate(id) => {
                ledger::outcome(&self.arguments.store, id).unwrap_or(Some(SendOutcome::Unknown))
            }
        };
        match ended {
            Some(outcome) => drop(waiter.send(outcome)),
            None => self.waiters.entry(accepted.id()).or_default().push(waiter),
        }
    }

    /// Forgets those who stopped waiting.
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
        haste: Priority,
        reply: QueueReply<LeaseBatch>,
    ) {
        let hand = self.lease_reply(me, reply, request.now);
        let work = move |tx: &mut Tx| dispatch::lease(tx, request);
        self.arguments.store.submit_with_priority(haste, work, move |found| hand.send(found)).await;
    }

    fn lease_reply(&self, me: ActorRef<Msg>, reply: QueueReply<LeaseBatch>, now: Timestamp) -> LeaseReply {
        let (metrics, nudges) = (self.arguments.metrics.clone(), self.arguments.notifier.clone());
        LeaseReply { me, reply, now, metrics, notifier: nudges }
    }

    /// Whoever waited for the same instance's next message is told that there is none for him.
    fn set_next_waiter(&mut self, instance: InstanceNumber, reply: Option<QueueReply<LeaseBatch>>) {
        let before = match reply {
            Some(reply) => self.next_waiters.insert(instance, reply),
            None => self.next_waiters.remove(&instance),
        };
        if let Some(before) = before {
            let _ = before.send(Ok(LeaseBatch::default()));
        }
    }

    /// Ends an attempt: the lane goes on, and whoever waits for the message is told.
    /// `fate` is what a change that ends the message makes of it.
    async fn settle<W>(&self, me: ActorRef<Msg>, lease: Lease, fate: Option<&'static str>, work: W)
    where
        W: FnOnce(&mut Tx, &Lease, Timestamp) -> Result<Option<SendOutcome>, StoreError> + Send + 'static,
    {
        let (now, id, nudges) = (self.now(), lease.id, self.arguments.notifier.clone());
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
                // The lease stays and expires; `retry` judges it then.
                Err(error) => tracing::error!(message_id = %id, %error, "an attempt could not be settled"),
            }
            nudges.notify_instance_of(id);
            nudges.notify_job_of(id);
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
        let (now, nudges) = (self.now(), self.arguments.notifier.clone());
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
            let recorded = results.map(|results| {
                let tell =
                    |((recorded, outcome), kind): ((ReceiptResult, Option<SendOutcome>), &'static str)| {
                        metrics.record_receipt(kind, matches!(recorded, ReceiptResult::Advanced(_)));
                        if let ReceiptResult::Advanced(id) = recorded {
                            nudges.notify_job_of(id);
                        }
                        if let (ReceiptResult::Advanced(id), Some(outcome)) = (recorded, outcome) {
                            let _ = me.cast(Msg::MessageEnded(id, outcome));
                            nudges.notify_instance_of(id);
                        }
                        recorded
                    };
                results.into_iter().zip(kinds).map(tell).collect()
            });
            let _ = reply.send(recorded.map_err(Error::from));
        };
        self.arguments.store.submit(work, done).await;
    }

    async fn withdraw(&self, me: ActorRef<Msg>, id: MessageId, reply: QueueReply<bool>) {
        let (now, nudges) = (self.now(), self.arguments.notifier.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |withdrawn: Result<bool, StoreError>| {
            if matches!(withdrawn, Ok(true)) {
                metrics.record_end("cancelled", None);
                let _ = me.cast(Msg::MessageEnded(id, SendOutcome::Cancelled));
                nudges.notify_instance_of(id);
                nudges.notify_job_of(id);
            }
            let _ = reply.send(withdrawn.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| accept::withdraw(tx, id, now), done).await;
    }

    async fn withdraw_items(&self, ids: Vec<MessageId>, reply: QueueReply<Vec<MessageId>>) {
        let (now, nudges) = (self.now(), self.arguments.notifier.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |withdrawn: Result<Vec<MessageId>, StoreError>| {
            for &id in withdrawn.iter().flatten() {
                metrics.record_end("cancelled", None);
                nudges.notify_instance_of(id);
                nudges.notify_job_of(id);
            }
            let _ = reply.send(withdrawn.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| bulk_rows::withdraw(tx, &ids, now), done).await;
    }

    async fn purge(&self, instance: InstanceNumber, reply: QueueReply<bool>) {
        let (now, nudges) = (self.now(), self.arguments.notifier.clone());
        let done = move |more: Result<bool, StoreError>| {
            // Rows of bulk jobs may have come to an end.
            nudges.notify_jobs();
            let _ = reply.send(more.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| retention::purge(tx, instance, now), done).await;
    }

    async fn find_overdue(&self, reply: QueueReply<Vec<(Lease, bool)>>) {
        let (now, run) = (self.now(), self.arguments.run);
        let timeout = self.arguments.options.lease_timeout;
        self.change(reply, move |tx: &mut Tx| dispatch::find_overdue(tx, now, run, timeout, OVERDUE_PAGE))
            .await;
    }

    async fn run_retention(&self, from: Option<MessageId>, reply: QueueReply<Option<MessageId>>) {
        let (now, options) = (self.now(), &self.arguments.options);
        let upkeep = RetentionPage {
            now,
            ledger_before: now - options.ledger_retention,
            events_before: now - options.event_retention,
            event_log_size: options.event_log_size,
            from,
        };
        self.change(reply, move |tx: &mut Tx| retention::delete_page(tx, &upkeep)).await;
    }

    async fn redrive(&self, ids: Vec<MessageId>, reply: QueueReply<usize>) {
        let now = self.now();
        let work_for: BTreeSet<_> = ids.iter().map(|id| (id.instance(), id.class())).collect();
        self.change_and_notify(reply, work_for, move |tx: &mut Tx| dead_letters::redrive(tx, &ids, now))
            .await;
    }

    /// Applies a change and answers what it returns.
    async fn change<T, W>(&self, reply: QueueReply<T>, work: W)
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    {
        self.change_and_notify(reply, BTreeSet::new(), work).await;
    }

    /// Applies a change that gives these instances work, each of such a class.
    async fn change_and_notify<T, W>(
        &self,
        reply: QueueReply<T>,
        work_for: BTreeSet<(InstanceNumber, Class)>,
        work: W,
    ) where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    {
        let nudges = self.arguments.notifier.clone();
        let done = move |outcome: Result<T, StoreError>| {
            let _ = reply.send(outcome.map_err(Error::from));
            work_for.into_iter().for_each(|(instance, class)| nudges.notify(instance, class));
        };
        self.arguments.store.submit(work, done).await;
    }
}
