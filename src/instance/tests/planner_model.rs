//! The send planner against a model of the queue and of WhatsApp, over random histories.
//!
//! The model plays everything around the planner: it accepts messages, commits lease requests in any order, delivers
//! results, nudges and timers late, ends attempts with every outcome, and changes the link. It checks every action, and at
//! the end that no message was left behind.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::instance::limiter::Limiter;
use crate::instance::planner::{Action, Capacity, Link, MAX_READY_AGE, Now, SendPlanner, Workers};
use crate::instance::prefetch;
use crate::instance::tests::planner::lease;
use crate::queue::{Lease, LeaseBatch};
use relevo_domain::{
    Class, Failure, FailureKind, FailureScope, InstanceNumber, MessageId, RateLimit, Timestamp,
};
use relevo_store::Priority;

const START: Timestamp = Timestamp(1_763_800_000_000);
const RECIPIENTS: u8 = 4;

/// Settings of one history.
#[derive(Debug, Clone, Copy)]
struct Settings {
    workers: Workers,
    per_second: f64,
    burst: u32,
    jitter: f64,
    /// Interval and burst of messages to one recipient.
    pair: Option<(Duration, u32)>,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Sent,
    Failed(FailureKind, FailureScope),
}

/// One thing that happens around the planner.
#[derive(Debug, Clone)]
enum Op {
    Accept {
        bulk: bool,
        to: u8,
    },
    /// The queue commits one of the requests that it has received.
    Commit(usize),
    /// A lease request fails.
    FailLease,
    /// The actor receives one of the messages, nudges and expired timers that wait for it.
    Deliver {
        which: usize,
        took: u64,
    },
    EndAttempt(usize, Outcome),
    Advance(u64),
    Connect,
    Disconnect,
    Stop,
    Drain,
}

/// How a history ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The instance is connected, and every message must be sent.
    SendAll,
    /// The actor drains.
    Drain,
    /// The actor ends at once.
    ActorEnds,
}

fn settings() -> impl Strategy<Value = Settings> {
    let rate = prop_oneof![
        Just((0.5, 1, 0.0)),
        Just((0.5, 3, 0.5)),
        Just((20.0, 2, 0.0)),
        Just((200.0, 1, 0.0)),
        Just((2_000.0, 50, 0.0)),
    ];
    let pair = prop::option::weighted(0.4, Just((Duration::from_secs(6), 2)));
    (1..5usize, 1..5usize, rate, pair).prop_map(|(total, bulk, (per_second, burst, jitter), pair)| Settings {
        workers: Workers { total, bulk: bulk.min(total) },
        per_second,
        burst,
        jitter,
        pair,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let second = Duration::from_secs(1);
    let throttled = FailureKind::Throttled { retry_after: 3 * second };
    let failed = |kind, scope| Just(Outcome::Failed(kind, scope));
    prop_oneof![
        12 => Just(Outcome::Sent),
        2 => failed(FailureKind::Transient { max_attempts: None }, FailureScope::Message),
        1 => failed(FailureKind::Deferred { retry_after: 20 * second }, FailureScope::Message),
        1 => failed(FailureKind::Permanent, FailureScope::Message),
        1 => failed(FailureKind::Ambiguous, FailureScope::Message),
        1 => failed(throttled, FailureScope::Recipient),
        2 => failed(throttled, FailureScope::Number),
        1 => prop_oneof![
            5 => Just(Outcome::Sent),
            1 => failed(FailureKind::LoggedOut, FailureScope::Number),
            1 => failed(FailureKind::AccountBlocked, FailureScope::Number),
        ],
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let millis = prop_oneof![4 => Just(1), 4 => Just(5), 2 => Just(500), 1 => Just(3_000), 1 => Just(6_000)];
    let took = prop_oneof![Just(100), Just(5_000), Just(300_000)];
    prop_oneof![
        12 => (any::<bool>(), 0..RECIPIENTS).prop_map(|(bulk, to)| Op::Accept { bulk, to }),
        16 => any::<usize>().prop_map(Op::Commit),
        2 => Just(Op::FailLease),
        30 => (any::<usize>(), took).prop_map(|(which, took)| Op::Deliver { which, took }),
        12 => (any::<usize>(), outcome()).prop_map(|(attempt, outcome)| Op::EndAttempt(attempt, outcome)),
        8 => millis.prop_map(Op::Advance),
        3 => Just(Op::Connect),
        1 => Just(Op::Disconnect),
        1 => prop_oneof![9 => Just(Op::Disconnect), 1 => Just(Op::Stop), 2 => Just(Op::Drain)],
    ]
}

/// A message that waits in the queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    id: MessageId,
    /// It was leased before and waits for this time.
    due: Option<Timestamp>,
}

/// A request that the queue has received and not committed.
#[derive(Debug)]
enum Request {
    Lease(Capacity),
    /// Ends a lease; the message waits again, if there is a due time.
    Settle(MessageId, Option<Timestamp>),
}

/// What waits for the actor.
#[derive(Debug)]
enum Mail {
    Leased(Option<LeaseBatch>, Capacity),
    Next(LeaseBatch),
    Ended(MessageId, Option<Failure>),
    Nudge(Class),
    Wake,
    Permit,
}

struct World {
    planner: SendPlanner,
    settings: Settings,
    elapsed: Duration,
    /// Recipient of every accepted message.
    accepted: HashMap<MessageId, u8>,
    waiting: Vec<Waiting>,
    /// Lanes with a live lease: each has one at most.
    busy: HashSet<(Class, u8)>,
    turn: u64,
    requests: Vec<Request>,
    has_next_waiter: bool,
    mail: Vec<Mail>,
    wake_at: Option<Duration>,
    permit_at: Option<Duration>,
    attempts: Vec<MessageId>,
    /// Leases that the planner has received and neither begun nor returned, in their order.
    ready: Vec<MessageId>,
    /// Attempts whose end the planner has not received.
    in_flight: Vec<MessageId>,
    leasing_urgent: bool,
    leasing_bulk: bool,
    link: Link,
    hold_until: Timestamp,
    is_draining: bool,
    is_drained: bool,
    begun: u32,
    begun_to: HashMap<u8, u32>,
    ended: HashSet<MessageId>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let rate = RateLimit { per_second: settings.per_second, burst: settings.burst.try_into().unwrap() };
        let pair = settings.pair.map(|(interval, burst)| (interval, burst.try_into().unwrap()));
        Self {
            planner: SendPlanner::new(settings.workers, Limiter::new(rate, pair, settings.jitter, || 0.5)),
            settings,
            elapsed: Duration::ZERO,
            accepted: HashMap::new(),
            waiting: Vec::new(),
            busy: HashSet::new(),
            turn: 0,
            requests: Vec::new(),
            has_next_waiter: false,
            mail: Vec::new(),
            wake_at: None,
            permit_at: None,
            attempts: Vec::new(),
            ready: Vec::new(),
            in_flight: Vec::new(),
            leasing_urgent: false,
            leasing_bulk: false,
            link: Link::Connecting,
            hold_until: START,
            is_draining: false,
            is_drained: false,
            begun: 0,
            begun_to: HashMap::new(),
            ended: HashSet::new(),
        }
    }

    fn wall(&self) -> Timestamp {
        START + self.elapsed
    }

    fn now(&self) -> Now {
        Now { wall: self.wall(), elapsed: self.elapsed }
    }

    fn lane(&self, id: MessageId) -> (Class, u8) {
        (id.class(), self.accepted[&id])
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Accept { bulk, to } => self.accept(if bulk { Class::Bulk } else { Class::Transactional }, to),
            Op::Commit(which) if !self.requests.is_empty() => {
                let request = self.requests.remove(which % self.requests.len());
                self.commit(request);
            }
            Op::FailLease => {
                let leases = |request: &Request| matches!(request, Request::Lease(_));
                if let Some(place) = self.requests.iter().position(leases)
                    && let Request::Lease(capacity) = self.requests.remove(place)
                {
                    self.mail.push(Mail::Leased(None, capacity));
                }
            }
            Op::Deliver { which, took } => self.deliver(which, Duration::from_micros(took)),
            Op::EndAttempt(attempt, outcome) if !self.attempts.is_empty() => {
                let id = self.attempts.remove(attempt % self.attempts.len());
                self.end_attempt(id, outcome);
            }
            Op::Commit(_) | Op::EndAttempt(..) => {}
            Op::Advance(millis) => self.elapsed += Duration::from_millis(millis),
            Op::Connect => self.connect(),
            Op::Disconnect if self.link != Link::Stopped => {
                self.link = Link::Connecting;
                self.planner.on_disconnected(self.now());
            }
            Op::Disconnect => {}
            Op::Stop => {
                self.link = Link::Stopped;
                self.planner.on_stopped(self.now());
            }
            Op::Drain => self.drain(),
        }
        self.execute_actions();
        self.check();
    }

    fn connect(&mut self) {
        let is_possible = self.link != Link::Stopped && !self.is_draining;
        assert_eq!(self.planner.on_connected(self.now()), is_possible);
        if is_possible {
            self.link = Link::Ready;
        }
    }

    fn drain(&mut self) {
        (self.is_draining, self.is_drained) = (true, false);
        self.planner.on_drain(self.now());
    }

    fn accept(&mut self, class: Class, to: u8) {
        let number = u64::try_from(self.accepted.len()).unwrap();
        let id = MessageId::new(self.wall(), 0, InstanceNumber::FIRST, class, number);
        self.accepted.insert(id, to);
        self.waiting.push(Waiting { id, due: None });
        if class == Class::Transactional && self.has_next_waiter {
            self.has_next_waiter = false;
            let batch = self.lease(1, 0);
            let is_leased = batch.leases.iter().any(|lease| lease.id == id);
            self.mail.push(Mail::Next(batch));
            if is_leased {
                return;
            }
        }
        self.nudge(class);
    }

    /// Nudges of a class that were not received are one nudge.
    fn nudge(&mut self, class: Class) {
        if !self.mail.iter().any(|mail| matches!(mail, Mail::Nudge(other) if *other == class)) {
            self.mail.push(Mail::Nudge(class));
        }
    }

    fn commit(&mut self, request: Request) {
        match request {
            Request::Lease(capacity) => {
                let batch = self.lease(capacity.total, capacity.bulk);
                self.mail.push(Mail::Leased(Some(batch), capacity));
            }
            Request::Settle(id, due) => {
                assert!(self.busy.remove(&self.lane(id)), "{id} is not leased");
                match due {
                    // A returned message is the first of its lane.
                    Some(due) => self.waiting.insert(0, Waiting { id, due: Some(due) }),
                    None => assert!(self.ended.insert(id), "{id} ended twice"),
                }
                self.nudge(id.class());
            }
        }
    }

    /// Leases messages as `queue::dispatch` does: transactional before bulk, except every fifth.
    fn lease(&mut self, max: usize, max_bulk: usize) -> LeaseBatch {
        let mut batch = LeaseBatch::default();
        let mut bulk_left = max_bulk;
        while batch.leases.len() < max {
            let mut order = Class::ALL;
            if self.turn % 5 == 4 {
                order.reverse();
            }
            let found = order.into_iter().find_map(|class| {
                if class == Class::Bulk && bulk_left == 0 { None } else { self.first_of(class) }
            });
            let Some(place) = found else { break };
            let id = self.waiting.remove(place).id;
            bulk_left -= usize::from(id.class() == Class::Bulk);
            self.busy.insert(self.lane(id));
            self.turn += 1;
            batch.leases.push(lease(id, self.accepted[&id], self.wall()));
        }
        let skips_bulk = bulk_left == 0 && max_bulk < max;
        let waits = self.waiting.iter().filter(|waiting| {
            let is_free = !self.busy.contains(&self.lane(waiting.id));
            is_free && !(waiting.id.class() == Class::Bulk && skips_bulk)
        });
        batch.next_due = waits.filter_map(|waiting| waiting.due).min();
        batch
    }

    fn first_of(&self, class: Class) -> Option<usize> {
        let mut lanes = HashSet::new();
        self.waiting.iter().position(|waiting| {
            let lane = self.lane(waiting.id);
            let is_head = lanes.insert(lane);
            let is_due = waiting.due.is_none_or(|due| due <= self.wall());
            waiting.id.class() == class && is_head && is_due && !self.busy.contains(&lane)
        })
    }

    fn end_attempt(&mut self, id: MessageId, outcome: Outcome) {
        let (due, failure) = match outcome {
            Outcome::Sent => (None, None),
            Outcome::Failed(kind, scope) => {
                let retries = !matches!(kind, FailureKind::Permanent | FailureKind::Ambiguous);
                let due = retries.then(|| self.wall() + Duration::from_secs(2));
                (due, Some(Failure::new(kind, scope, "scripted")))
            }
        };
        self.requests.push(Request::Settle(id, due));
        self.mail.push(Mail::Ended(id, failure));
    }

    fn deliver(&mut self, which: usize, took: Duration) {
        self.expire_timers();
        if self.mail.is_empty() {
            return;
        }
        let now = self.now();
        match self.mail.remove(which % self.mail.len()) {
            Mail::Leased(batch, capacity) => {
                match capacity.priority {
                    Priority::Urgent => self.leasing_urgent = false,
                    Priority::Normal | Priority::Background => self.leasing_bulk = false,
                }
                self.ready.extend(batch.iter().flat_map(|batch| &batch.leases).map(|lease| lease.id));
                self.planner.on_leased(batch, capacity, took, now);
            }
            Mail::Next(batch) => {
                self.ready.extend(batch.leases.iter().map(|lease| lease.id));
                self.planner.on_next_lease(Some(batch), now);
            }
            Mail::Ended(id, failure) => {
                // A repeated message can be in flight again before the end of its first attempt is received.
                let place = self.in_flight.iter().position(|other| *other == id).unwrap();
                self.in_flight.remove(place);
                match failure.as_ref().map(|failure| (failure.kind, failure.scope)) {
                    Some((FailureKind::LoggedOut | FailureKind::AccountBlocked, _)) => {
                        self.link = Link::Stopped
                    }
                    Some((FailureKind::Throttled { retry_after }, FailureScope::Number)) => {
                        self.hold_until = now.wall + retry_after;
                    }
                    _ => {}
                }
                self.planner.on_attempt_ended(id.class(), failure, took, now);
            }
            Mail::Nudge(class) => self.planner.on_nudge(class, now),
            Mail::Wake => self.planner.on_wake(now),
            Mail::Permit => self.planner.on_permit(now),
        }
    }

    fn expire_timers(&mut self) {
        if self.wake_at.is_some_and(|at| at <= self.elapsed) {
            self.wake_at = None;
            self.mail.push(Mail::Wake);
        }
        if self.permit_at.is_some_and(|at| at <= self.elapsed) {
            self.permit_at = None;
            self.mail.push(Mail::Permit);
        }
    }

    fn is_awaiting_next(&self) -> bool {
        self.has_next_waiter || self.mail.iter().any(|mail| matches!(mail, Mail::Next(_)))
    }

    fn may_send(&self) -> bool {
        self.link == Link::Ready && !self.is_draining && self.hold_until <= self.wall()
    }

    fn execute_actions(&mut self) {
        while let Some(action) = self.planner.next_action() {
            match action {
                Action::Lease(capacity) => self.check_lease(capacity),
                Action::AwaitNext => {
                    assert!(self.may_send(), "asks for the next message while it may not send");
                    assert!(!self.is_awaiting_next(), "asks twice for the next message");
                    self.has_next_waiter = true;
                }
                Action::CancelAwaitNext => {
                    if self.has_next_waiter {
                        self.has_next_waiter = false;
                        self.mail.push(Mail::Next(LeaseBatch::default()));
                    }
                }
                Action::Begin(lease) => self.check_begin(&lease),
                Action::Return(lease, until) => {
                    assert!(until >= self.wall());
                    self.remove_ready(lease.id);
                    self.requests.push(Request::Settle(lease.id, Some(until)));
                }
                Action::WakeAfter(wait) => self.wake_at = Some(self.elapsed + wait),
                Action::PermitAfter(wait) => {
                    let is_waiting = self.mail.iter().any(|mail| matches!(mail, Mail::Permit));
                    assert!(self.permit_at.is_none() && !is_waiting, "starts the permit timer twice");
                    self.permit_at = Some(self.elapsed + wait);
                }
                Action::ReportRejected(_) => assert_eq!(self.link, Link::Stopped),
                Action::DrainDone => {
                    assert!(self.is_draining && !self.is_drained && self.is_idle(), "drained too early");
                    self.is_drained = true;
                }
            }
        }
    }

    fn check_lease(&mut self, capacity: Capacity) {
        assert!(self.may_send(), "leases while it may not send");
        assert!(capacity.total > 0 && capacity.bulk <= capacity.total, "{capacity:?}");
        let is_urgent = capacity.priority == Priority::Urgent;
        let under_way = if is_urgent { &mut self.leasing_urgent } else { &mut self.leasing_bulk };
        assert!(!*under_way, "two requests of one kind");
        *under_way = true;
        // A full prefetch and a full batch.
        let limit = self.settings.workers.total * (1 + 2 * prefetch::MAX_PER_WORKER);
        let ready = self.ready.iter().filter(|id| is_urgent || id.class() == Class::Bulk).count();
        assert!(capacity.total <= limit && (is_urgent || capacity.total + ready <= limit), "{capacity:?}");
        self.requests.push(Request::Lease(capacity));
    }

    fn check_begin(&mut self, lease: &Lease) {
        let (id, class) = (lease.id, lease.id.class());
        assert!(self.may_send(), "begins while it may not send");
        assert!(self.wall().since(lease.leased_at) <= MAX_READY_AGE, "begins an old lease");
        let first = self.ready.iter().find(|ready| ready.class() == class);
        assert_eq!(first, Some(&id), "begins out of order, or twice");
        if class == Class::Bulk {
            let has_transactional = self.ready.iter().any(|ready| ready.class() == Class::Transactional);
            assert!(!has_transactional, "begins a bulk message before a transactional one");
        }
        self.remove_ready(id);
        self.in_flight.push(id);
        self.attempts.push(id);
        let bulk = self.in_flight.iter().filter(|id| id.class() == Class::Bulk).count();
        let Workers { total, bulk: max_bulk } = self.settings.workers;
        assert!(self.in_flight.len() <= total && bulk <= max_bulk, "too many attempts");
        self.begun += 1;
        let limit = f64::from(self.settings.burst) + self.elapsed.as_secs_f64() * self.settings.per_second;
        assert!(f64::from(self.begun) <= limit + 1e-6, "{} begun, limit {limit}", self.begun);
        let to = self.accepted[&id];
        let begun_to = self.begun_to.entry(to).or_default();
        *begun_to += 1;
        if let Some((interval, burst)) = self.settings.pair {
            let limit = f64::from(burst) + self.elapsed.as_secs_f64() / interval.as_secs_f64();
            assert!(f64::from(*begun_to) <= limit + 1e-6, "{begun_to} begun to {to}, limit {limit}");
        }
    }

    fn remove_ready(&mut self, id: MessageId) {
        let place = self.ready.iter().position(|ready| *ready == id);
        self.ready.remove(place.unwrap_or_else(|| panic!("{id} was begun or returned before")));
    }

    /// Nothing is under way that a drain waits for.
    fn is_idle(&self) -> bool {
        let is_leasing = self.leasing_urgent || self.leasing_bulk || self.is_awaiting_next();
        self.in_flight.is_empty() && self.ready.is_empty() && !is_leasing
    }

    /// What holds after every step.
    fn check(&self) {
        if !self.may_send() {
            assert!(self.ready.is_empty(), "keeps leases while it may not send");
        }
        assert!(!self.is_draining || self.is_drained == self.is_idle(), "drain has not ended");
    }

    /// Lets everything that is under way succeed. Returns `false` when nothing is left to happen but a timer.
    fn settle(&mut self) -> bool {
        self.expire_timers();
        let op = if !self.requests.is_empty() {
            Op::Commit(0)
        } else if !self.mail.is_empty() {
            Op::Deliver { which: 0, took: 100 }
        } else if !self.attempts.is_empty() {
            Op::EndAttempt(0, Outcome::Sent)
        } else {
            return false;
        };
        self.apply(op);
        true
    }

    fn finish(&mut self, end: End) {
        match end {
            End::ActorEnds => {
                self.planner.on_end(self.now());
                self.execute_actions();
                assert!(self.ready.is_empty() && !self.has_next_waiter, "leases are lost");
            }
            End::Drain => {
                self.apply(Op::Drain);
                while self.settle() {}
                assert!(self.is_drained);
            }
            End::SendAll if self.is_draining || self.link == Link::Stopped => {
                while self.settle() {}
                assert!(self.is_drained || !self.is_draining);
            }
            End::SendAll => {
                self.apply(Op::Connect);
                for _ in 0..10_000 {
                    while self.settle() {}
                    let Some(next) = [self.wake_at, self.permit_at].into_iter().flatten().min() else {
                        break;
                    };
                    self.elapsed = self.elapsed.max(next);
                }
                // The end of an attempt, received only now, can have stopped the instance.
                if self.link == Link::Ready {
                    assert_eq!(self.ended.len(), self.accepted.len(), "left behind: {:?}", self.waiting);
                }
            }
        }
    }
}

#[test]
fn random_histories_keep_the_planner_within_its_limits() {
    let config = ProptestConfig {
        // Each run tests the same histories; PROPTEST_CASES asks for more of them.
        rng_seed: RngSeed::Fixed(0x7265_6c65_766f),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let end = prop_oneof![4 => Just(End::SendAll), 1 => Just(End::Drain), 1 => Just(End::ActorEnds)];
    let histories = (settings(), prop::collection::vec(op(), 1..250), end);
    let outcome = TestRunner::new(config).run(&histories, |(settings, history, end)| {
        let mut world = World::new(settings);
        world.apply(Op::Connect);
        for op in history {
            world.apply(op);
        }
        world.finish(end);
        Ok(())
    });
    outcome.unwrap();
}
