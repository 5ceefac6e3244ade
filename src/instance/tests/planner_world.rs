//! The world around the send planner.
//!
//! The world accepts messages, commits lease requests in any order, delivers results, nudges and timers late, ends attempts
//! with every outcome, and changes the link. It checks every action of the planner, and at the end that no message was left
//! behind.

use std::collections::HashMap;
use std::time::Duration;

use super::planner_queue::ModelQueue;
use crate::instance::limiter::Limiter;
use crate::instance::planner::{Action, Capacity, Link, MAX_READY_AGE, Now, SendPlanner, Workers};
use crate::instance::prefetch;
use crate::queue::{Lease, LeaseBatch};
use relevo_clock::Random;
use relevo_domain::{Class, Failure, FailureKind, FailureScope, MessageId, RateLimit, Timestamp};
use relevo_store::Priority;

const START: Timestamp = Timestamp(1_763_800_000_000);
pub const RECIPIENTS: u8 = 4;

/// Settings of one history.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub workers: Workers,
    pub per_second: f64,
    pub burst: u32,
    pub jitter: f64,
    /// The client reports by itself when it is connected.
    pub keeps_connection: bool,
    /// Interval and burst of messages to one recipient.
    pub pair: Option<(Duration, u32)>,
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    Sent,
    Failed(FailureKind, FailureScope),
}

/// One thing that happens around the planner.
#[derive(Debug, Clone)]
pub enum Op {
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
pub enum End {
    /// The instance is connected, and every message must be sent.
    SendAll,
    /// The actor drains.
    Drain,
    /// The actor ends at once.
    ActorEnds,
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

/// The planner and everything around it.
pub struct World {
    planner: SendPlanner,
    settings: Settings,
    elapsed: Duration,
    queue: ModelQueue,
    requests: Vec<Request>,
    has_next_waiter: bool,
    mail: Vec<Mail>,
    wake_at: Option<Duration>,
    /// The earliest due time that the planner was told since the wake timer fired last.
    known_due: Option<Duration>,
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
    /// The planner waits for a probe.
    is_verifying: bool,
    is_draining: bool,
    is_drained: bool,
    begun: u32,
    begun_to: HashMap<u8, u32>,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let rate = RateLimit { per_second: settings.per_second, burst: settings.burst.try_into().unwrap() };
        let pair = settings.pair.map(|(interval, burst)| (interval, burst.try_into().unwrap()));
        Self {
            planner: SendPlanner::new(
                settings.workers,
                Limiter::new(rate, pair, settings.jitter, Random::seeded(1)),
                settings.keeps_connection,
            ),
            settings,
            elapsed: Duration::ZERO,
            queue: ModelQueue::default(),
            requests: Vec::new(),
            has_next_waiter: false,
            mail: Vec::new(),
            wake_at: None,
            known_due: None,
            permit_at: None,
            attempts: Vec::new(),
            ready: Vec::new(),
            in_flight: Vec::new(),
            leasing_urgent: false,
            leasing_bulk: false,
            link: Link::Connecting,
            hold_until: START,
            is_verifying: false,
            is_draining: false,
            is_drained: false,
            begun: 0,
            begun_to: HashMap::new(),
        }
    }

    fn wall(&self) -> Timestamp {
        START + self.elapsed
    }

    fn now(&self) -> Now {
        Now { wall: self.wall(), elapsed: self.elapsed }
    }

    pub fn apply(&mut self, op: Op) {
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
        let id = self.queue.accept(class, to, self.wall());
        if class == Class::Transactional && self.has_next_waiter {
            self.has_next_waiter = false;
            let batch = self.queue.lease(1, 0, self.wall());
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
                let batch = self.queue.lease(capacity.total, capacity.bulk, self.wall());
                self.mail.push(Mail::Leased(Some(batch), capacity));
            }
            Request::Settle(id, due) => {
                self.queue.settle(id, due);
                self.nudge(id.class());
            }
        }
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
                self.learn_due(batch.as_ref().and_then(|batch| batch.next_due));
                self.planner.on_leased(batch, capacity, took, now);
            }
            Mail::Next(batch) => {
                self.ready.extend(batch.leases.iter().map(|lease| lease.id));
                self.learn_due(batch.next_due);
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
                    Some((FailureKind::Transient { .. }, FailureScope::Number))
                        if !self.settings.keeps_connection && self.link == Link::Ready =>
                    {
                        self.link = Link::Connecting;
                    }
                    Some((FailureKind::Throttled { retry_after }, FailureScope::Number)) => {
                        self.hold_until = now.wall + retry_after;
                    }
                    _ => {}
                }
                self.planner.on_attempt_ended(id.class(), failure, took, now);
            }
            Mail::Nudge(class) => self.planner.on_nudge(class, now),
            Mail::Wake => {
                self.known_due = None;
                self.planner.on_wake(now);
            }
            Mail::Permit => self.planner.on_permit(now),
        }
    }

    fn learn_due(&mut self, due: Option<Timestamp>) {
        let due = due.map(|due| self.elapsed + due.since(self.wall()));
        self.known_due = [self.known_due, due].into_iter().flatten().min();
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
                Action::Verify(..) => {
                    assert_eq!(self.link, Link::Connecting, "verifies a connection and goes on sending");
                    self.is_verifying = true;
                }
                Action::ReportHeld(_, until) => assert!(until > self.wall()),
                Action::ReportResumed => assert!(self.hold_until <= self.wall(), "resumes too early"),
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
        let to = self.queue.recipient(id);
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
        let is_waking = self.mail.iter().any(|mail| matches!(mail, Mail::Wake));
        if let Some(due) = self.known_due.filter(|_| !is_waking) {
            assert!(self.wake_at.is_some_and(|at| at <= due), "wakes at {:?}, due at {due:?}", self.wake_at);
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
        } else if std::mem::take(&mut self.is_verifying) {
            Op::Connect
        } else {
            return false;
        };
        self.apply(op);
        true
    }

    pub fn finish(&mut self, end: End) {
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
                    self.queue.assert_all_ended();
                }
            }
        }
    }
}
