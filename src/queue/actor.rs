//! The one writer of the queue.
//!
//! It turns each message into one change of the store and submits it; changes are applied in the order in which
//! the messages came, share commits, and are answered when they are durable. It never waits for the disk itself.

mod intake;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort};

use relevo_clock::Clock;
use relevo_domain::{
    Class, Failure, InstanceNumber, MessageId, ProviderMessageId, Status, Timestamp, Verdict,
};
use relevo_metrics::Metrics;
use relevo_store::{Error as StoreError, Haste, Store, Tx};

use super::nudges::Nudges;
use super::upkeep::{self, Upkeep};
use super::{
    Accepted, Error, ItemOutcome, Lease, Leased, Options, Outcome, ReceiptReport, Recorded, Submission,
    accept, dead, dispatch, items, later, ledger, receipts, settle,
};

/// What somebody else has to say in the same commit.
pub type Together = Box<dyn FnOnce(&mut Tx) -> Result<(), StoreError> + Send>;

type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// What the queue can be asked. Every answer is given after the change is durable.
pub enum Msg {
    /// From the HTTP front end and bulk jobs: take a message in.
    Enqueue(Box<Submission>, Reply<Accepted>),
    /// From bulk jobs: take rows in, all or none, and run this in the same commit.
    EnqueueItems(Vec<Submission>, Together, Reply<Vec<MessageId>>),
    /// From bulk jobs: these outcomes are noted; run this in the same commit.
    NoteOutcomes(Vec<ItemOutcome>, Together, Reply<()>),
    /// From bulk jobs: take these back, as far as they were not tried yet; answers which they were.
    WithdrawItems(Vec<MessageId>, Reply<Vec<MessageId>>),
    /// From bulk jobs: a job is deleted; forget a page of what it left. `true` when there is more.
    ForgetJob(u16, Reply<bool>),
    /// From the HTTP front end: take a message in and answer when its one attempt is over. It must not begin later
    /// than this. The first reply gives the id, so that a caller who stops waiting can withdraw it.
    SendNow(Box<Submission>, Duration, Reply<Accepted>, RpcReplyPort<Outcome>),
    /// From an instance: work for so many free workers, of them so many that may take bulk messages, so soon.
    Lease { instance: InstanceNumber, max: usize, max_bulk: usize, haste: Haste, reply: Reply<Leased> },
    /// From an instance: the next message that somebody waits for, leased by the commit that takes it in. Nothing, when
    /// it asks once more or wants none.
    LeaseNext(InstanceNumber, Reply<Leased>),
    /// From an instance: it wants no next message any more.
    LeaseNoNext(InstanceNumber),
    /// From an instance: WhatsApp took it.
    Sent(Box<Lease>, ProviderMessageId),
    /// From an instance: the attempt did not begin; try again at this time.
    Postpone(Box<Lease>, Timestamp),
    /// From `retry`, which alone decides: what becomes of a failed attempt.
    Judged(Box<Lease>, Verdict, Failure),
    /// From `inbound`: what WhatsApp reports. Answered in order.
    Reports(Vec<ReceiptReport>, Reply<Vec<Recorded>>),
    /// From the HTTP front end: another moment for a scheduled message; `false` when it is not scheduled.
    Reschedule(MessageId, Timestamp, Reply<bool>),
    /// From the HTTP front end: dead letters go back into their lanes; answers how many there were.
    Redrive(Vec<MessageId>, Reply<usize>),
    /// From the HTTP front end: dead letters that nobody wants any more.
    Discard(Vec<MessageId>, Reply<usize>),
    /// From the HTTP front end: take a message back if it was not tried yet.
    Withdraw(MessageId, Reply<bool>),
    /// From `retry`: leases that nobody will settle; `true` with those whose unknown outcome was held long enough.
    Overdue(Reply<Vec<(Lease, bool)>>),
    /// From `retry`, now and then: forget a page of what is too old, from here on; answers where the next begins.
    Upkeep(Option<MessageId>, Reply<Option<MessageId>>),
    /// From instances: an instance is gone for good; forget a page of what it left. `true` when there is more.
    Purge(InstanceNumber, Reply<bool>),
    /// From the actor itself: a synchronous message is durable and somebody waits for it.
    Awaited(Accepted, RpcReplyPort<Outcome>),
    /// From the actor itself: a message came to an end that a caller may wait for.
    Ended(MessageId, Outcome),
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
    pub nudges: Nudges,
    pub metrics: Metrics,
}

/// What the actor remembers: who waits for the end of which message, and which instances for their next one.
pub struct State {
    arguments: Arguments,
    waiting: HashMap<MessageId, Vec<RpcReplyPort<Outcome>>>,
    next: HashMap<InstanceNumber, Reply<Leased>>,
}

impl Actor for QueueActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        Ok(State { arguments, waiting: HashMap::new(), next: HashMap::new() })
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
                let note = move |tx: &mut Tx| items::note(tx, &noted).and_then(|()| with(tx));
                let done = move |noted: Result<(), StoreError>| drop(reply.send(noted.map_err(Error::from)));
                state.arguments.store.submit_with(Haste::Soon, note, done).await;
            }
            Msg::WithdrawItems(ids, reply) => state.withdraw_items(ids, reply).await,
            Msg::ForgetJob(job, reply) => {
                state.change(reply, move |tx: &mut Tx| items::give_up(tx, job)).await;
            }
            Msg::SendNow(submission, wait, accepted, outcome) => {
                state.send_now(me, *submission, wait, accepted, outcome).await;
            }
            Msg::Lease { instance, max, max_bulk, haste, reply } => {
                let (now, run) = (state.now(), state.arguments.run);
                let request = dispatch::Request { instance, max, max_bulk, now, run };
                state.lease(me, request, haste, reply).await;
            }
            Msg::LeaseNext(instance, reply) => state.wait_for_next(instance, Some(reply)),
            Msg::LeaseNoNext(instance) => state.wait_for_next(instance, None),
            Msg::Sent(lease, provider_id) => {
                let sent = move |tx: &mut Tx, lease: &Lease, now| settle::sent(tx, lease, &provider_id, now);
                state.settle(me, *lease, Some("sent"), sent).await;
            }
            Msg::Postpone(lease, until) => {
                let postpone = move |tx: &mut Tx, lease: &Lease, now| {
                    settle::postpone(tx, lease, until, now).map(|()| None)
                };
                state.settle(me, *lease, None, postpone).await;
            }
            Msg::Judged(lease, verdict, failure) => {
                let fate = match verdict {
                    Verdict::Bury(_) => Some("dead_letter"),
                    Verdict::Fail => Some("failed"),
                    Verdict::Retry { .. } | Verdict::Defer { .. } | Verdict::Hold { .. } => None,
                };
                let judged =
                    move |tx: &mut Tx, lease: &Lease, now| settle::judged(tx, lease, verdict, &failure, now);
                state.settle(me, *lease, fate, judged).await;
            }
            Msg::Reports(reports, reply) => state.reports(me, reports, reply).await,
            Msg::Reschedule(id, at, reply) => {
                let reschedule = move |tx: &mut Tx| later::reschedule(tx, id, at);
                state
                    .change_and_nudge(reply, BTreeSet::from([(id.instance(), id.class())]), reschedule)
                    .await;
            }
            Msg::Redrive(ids, reply) => state.redrive(ids, reply).await,
            Msg::Discard(ids, reply) => {
                state.change(reply, move |tx: &mut Tx| dead::discard(tx, &ids)).await;
            }
            Msg::Withdraw(id, reply) => state.withdraw(me, id, reply).await,
            Msg::Overdue(reply) => state.overdue(reply).await,
            Msg::Upkeep(from, reply) => {
                state.forget_gone();
                state.upkeep(from, reply).await;
            }
            Msg::Purge(instance, reply) => state.purge(instance, reply).await,
            Msg::Awaited(accepted, outcome) => state.awaited(accepted, outcome),
            Msg::Ended(id, outcome) => state.ended(id, &outcome),
        }
        Ok(())
    }
}

/// The most overdue leases that are judged at once.
const OVERDUE_PAGE: usize = 200;

/// How soon a message's way through the queue is to be durable.
fn haste_of(class: Class) -> Haste {
    match class {
        Class::Transactional => Haste::First,
        Class::Bulk => Haste::Soon,
    }
}

/// What hands leases over, on the writer's thread.
struct Hand {
    me: ActorRef<Msg>,
    reply: Reply<Leased>,
    now: Timestamp,
    metrics: Metrics,
    nudges: Nudges,
}

impl Hand {
    fn over(self, found: Result<dispatch::Found, StoreError>) {
        let leased = found.map(|found| {
            for id in found.expired {
                self.metrics.ended("expired", None);
                self.nudges.nudge_job(id);
                let _ = self.me.cast(Msg::Ended(id, Outcome::Cancelled));
            }
            found.leased
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

    fn awaited(&mut self, accepted: Accepted, waiter: RpcReplyPort<Outcome>) {
        let ended = match accepted {
            Accepted::New(_) => None,
            // An end that cannot be read is not known.
            Accepted::Duplicate(id) => {
                ledger::outcome(&self.arguments.store, id).unwrap_or(Some(Outcome::Unknown))
            }
        };
        match ended {
            Some(outcome) => drop(waiter.send(outcome)),
            None => self.waiting.entry(accepted.id()).or_default().push(waiter),
        }
    }

    /// Forgets those who stopped waiting.
    fn forget_gone(&mut self) {
        self.waiting.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
    }

    fn ended(&mut self, id: MessageId, outcome: &Outcome) {
        for waiter in self.waiting.remove(&id).unwrap_or_default() {
            let _ = waiter.send(outcome.clone());
        }
    }

    async fn lease(&self, me: ActorRef<Msg>, request: dispatch::Request, haste: Haste, reply: Reply<Leased>) {
        let hand = self.hand(me, reply, request.now);
        let work = move |tx: &mut Tx| dispatch::lease(tx, request);
        self.arguments.store.submit_with(haste, work, move |found| hand.over(found)).await;
    }

    fn hand(&self, me: ActorRef<Msg>, reply: Reply<Leased>, now: Timestamp) -> Hand {
        let (metrics, nudges) = (self.arguments.metrics.clone(), self.arguments.nudges.clone());
        Hand { me, reply, now, metrics, nudges }
    }

    /// Whoever waited for the same instance's next message is told that there is none for him.
    fn wait_for_next(&mut self, instance: InstanceNumber, reply: Option<Reply<Leased>>) {
        let before = match reply {
            Some(reply) => self.next.insert(instance, reply),
            None => self.next.remove(&instance),
        };
        if let Some(before) = before {
            let _ = before.send(Ok(Leased::default()));
        }
    }

    /// Ends an attempt: the lane goes on, and whoever waits for the message is told.
    /// `fate` is what a change that ends the message makes of it.
    async fn settle<W>(&self, me: ActorRef<Msg>, lease: Lease, fate: Option<&'static str>, work: W)
    where
        W: FnOnce(&mut Tx, &Lease, Timestamp) -> Result<Option<Outcome>, StoreError> + Send + 'static,
    {
        let (now, id, nudges) = (self.now(), lease.id, self.arguments.nudges.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |outcome: Result<Option<Outcome>, StoreError>| {
            match outcome {
                Ok(Some(outcome)) => {
                    if let Some(fate) = fate {
                        let took = matches!(outcome, Outcome::Sent(_)).then(|| now.since(id.accepted_at()));
                        metrics.ended(fate, took);
                    }
                    let _ = me.cast(Msg::Ended(id, outcome));
                }
                Ok(None) => {}
                // The lease stays and expires; `retry` judges it then.
                Err(error) => tracing::error!(message_id = %id, %error, "an attempt could not be settled"),
            }
            nudges.nudge_for(id);
            nudges.nudge_job(id);
        };
        let work = move |tx: &mut Tx| work(tx, &lease, now);
        self.arguments.store.submit_with(haste_of(id.class()), work, done).await;
    }

    async fn reports(&self, me: ActorRef<Msg>, reports: Vec<ReceiptReport>, reply: Reply<Vec<Recorded>>) {
        let (now, nudges) = (self.now(), self.arguments.nudges.clone());
        let metrics = self.arguments.metrics.clone();
        let kinds: Vec<_> = reports.iter().map(|report| Status::from(report.receipt).as_str()).collect();
        let work = move |tx: &mut Tx| {
            let mut results = Vec::with_capacity(reports.len());
            for report in &reports {
                results.push(receipts::record(tx, report, now)?);
            }
            Ok(results)
        };
        let done = move |results: Result<Vec<(Recorded, Option<Outcome>)>, StoreError>| {
            let recorded = results.map(|results| {
                let tell = |((recorded, outcome), kind): ((Recorded, Option<Outcome>), &'static str)| {
                    metrics.receipt(kind, matches!(recorded, Recorded::Moved(_)));
                    if let Recorded::Moved(id) = recorded {
                        nudges.nudge_job(id);
                    }
                    if let (Recorded::Moved(id), Some(outcome)) = (recorded, outcome) {
                        let _ = me.cast(Msg::Ended(id, outcome));
                        nudges.nudge_for(id);
                    }
                    recorded
                };
                results.into_iter().zip(kinds).map(tell).collect()
            });
            let _ = reply.send(recorded.map_err(Error::from));
        };
        self.arguments.store.submit(work, done).await;
    }

    async fn withdraw(&self, me: ActorRef<Msg>, id: MessageId, reply: Reply<bool>) {
        let (now, nudges) = (self.now(), self.arguments.nudges.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |withdrawn: Result<bool, StoreError>| {
            if matches!(withdrawn, Ok(true)) {
                metrics.ended("cancelled", None);
                let _ = me.cast(Msg::Ended(id, Outcome::Cancelled));
                nudges.nudge_for(id);
                nudges.nudge_job(id);
            }
            let _ = reply.send(withdrawn.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| accept::withdraw(tx, id, now), done).await;
    }

    async fn withdraw_items(&self, ids: Vec<MessageId>, reply: Reply<Vec<MessageId>>) {
        let (now, nudges) = (self.now(), self.arguments.nudges.clone());
        let metrics = self.arguments.metrics.clone();
        let done = move |withdrawn: Result<Vec<MessageId>, StoreError>| {
            for &id in withdrawn.iter().flatten() {
                metrics.ended("cancelled", None);
                nudges.nudge_for(id);
                nudges.nudge_job(id);
            }
            let _ = reply.send(withdrawn.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| items::withdraw(tx, &ids, now), done).await;
    }

    async fn purge(&self, instance: InstanceNumber, reply: Reply<bool>) {
        let (now, nudges) = (self.now(), self.arguments.nudges.clone());
        let done = move |more: Result<bool, StoreError>| {
            // Rows of bulk jobs may have come to an end.
            nudges.nudge_jobs();
            let _ = reply.send(more.map_err(Error::from));
        };
        self.arguments.store.submit(move |tx: &mut Tx| upkeep::purge(tx, instance, now), done).await;
    }

    async fn overdue(&self, reply: Reply<Vec<(Lease, bool)>>) {
        let (now, run) = (self.now(), self.arguments.run);
        let timeout = self.arguments.options.lease_timeout;
        self.change(reply, move |tx: &mut Tx| dispatch::overdue(tx, now, run, timeout, OVERDUE_PAGE)).await;
    }

    async fn upkeep(&self, from: Option<MessageId>, reply: Reply<Option<MessageId>>) {
        let (now, options) = (self.now(), &self.arguments.options);
        let upkeep = Upkeep {
            now,
            ledger_before: now - options.ledger_retention,
            events_before: now - options.event_retention,
            event_log_size: options.event_log_size,
            from,
        };
        self.change(reply, move |tx: &mut Tx| upkeep::page(tx, &upkeep)).await;
    }

    async fn redrive(&self, ids: Vec<MessageId>, reply: Reply<usize>) {
        let now = self.now();
        let work_for: BTreeSet<_> = ids.iter().map(|id| (id.instance(), id.class())).collect();
        self.change_and_nudge(reply, work_for, move |tx: &mut Tx| dead::redrive(tx, &ids, now)).await;
    }

    /// Applies a change and answers what it returns.
    async fn change<T, W>(&self, reply: Reply<T>, work: W)
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    {
        self.change_and_nudge(reply, BTreeSet::new(), work).await;
    }

    /// Applies a change that gives these instances work, each of such a class.
    async fn change_and_nudge<T, W>(
        &self,
        reply: Reply<T>,
        work_for: BTreeSet<(InstanceNumber, Class)>,
        work: W,
    ) where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    {
        let nudges = self.arguments.nudges.clone();
        let done = move |outcome: Result<T, StoreError>| {
            let _ = reply.send(outcome.map_err(Error::from));
            work_for.into_iter().for_each(|(instance, class)| nudges.nudge(instance, class));
        };
        self.arguments.store.submit(work, done).await;
    }
}
