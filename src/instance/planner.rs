//! Decides how many messages to lease, with which priority, and when each attempt begins, for one instance.
//!
//! The planner is pure. The actor feeds it with events and the time, and executes the actions in their order. Every lease
//! that the planner receives becomes exactly one [`Action::Begin`] or [`Action::Return`].
//!
//! A lease request costs one commit, however many messages it returns. Where the rate limit determines the throughput,
//! messages are therefore leased in batches before their permits exist, and begin one by one as permits come. A
//! transactional message goes before the bulk messages of the batch that have not begun, and does not wait until the
//! batch is used up.
//!
//! An instance that could begin at once asks the queue for the next transactional message: the commit that accepts that
//! message leases it too.

mod fetch;

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use crate::queue::{Lease, LeaseBatch};
use relevo_domain::{Backoff, Class, Failure, FailureKind, FailureScope, Recipient, Timestamp};
use relevo_store::Priority;

use super::limiter::Limiter;
use super::prefetch::Prefetch;
use super::ready_queue::ReadyQueue;
use fetch::{Demand, Fetch};

pub(super) use fetch::Capacity;

/// The time of an event, on the two clocks that decisions use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Wall time: due times and the age of leases.
    pub wall: Timestamp,
    /// Monotonic time since the start of the actor: rate limits and holds.
    pub elapsed: Duration,
}

/// State of the link to WhatsApp, as far as sending is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Not connected (yet); the client connects by itself.
    Connecting,
    /// Messages can be sent.
    Ready,
    /// WhatsApp rejected the instance, or pairing ended. The supervisor has the report and is about to stop the actor.
    Stopped,
}

/// Progress of a drain. A drained planner begins and leases nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    NotRequested,
    Draining,
    Drained,
}

/// What the actor does next.
#[derive(Debug)]
pub(super) enum Action {
    /// Request leases from the queue; [`SendPlanner::on_leased`] gets the result.
    Lease(Capacity),
    /// Ask the queue for the next transactional message; [`SendPlanner::on_next_lease`] gets it.
    AwaitNext,
    /// Withdraw the request for the next message. The queue completes it with an empty batch.
    CancelAwaitNext,
    /// Begin the attempt; [`SendPlanner::on_attempt_ended`] gets its end.
    Begin(Lease),
    /// Return the lease to the queue; its message may be leased again at this time.
    Return(Lease, Timestamp),
    /// Restart the wake timer; [`SendPlanner::on_wake`] follows. One timer is enough: it never moves to a later time, and
    /// after it the results of new lease requests contain the later due times.
    WakeAfter(Duration),
    /// Start the permit timer, which is not running; [`SendPlanner::on_permit`] follows.
    PermitAfter(Duration),
    /// Another server than WhatsApp answered an attempt, with this failure: probe WhatsApp after this delay. The planner
    /// goes on with [`SendPlanner::on_connected`].
    Verify(Failure, Duration),
    /// WhatsApp throttles the number: nothing is sent until this time.
    ReportHeld(Failure, Timestamp),
    /// A reported hold has ended.
    ReportResumed,
    /// WhatsApp rejects the account: report it to the supervisor.
    ReportRejected(Failure),
    /// Nothing is in flight, and every lease was returned: answer the drain.
    DrainDone,
}

/// Maximum age of a lease when its attempt begins. An older lease, which waited behind hanging attempts, is returned and
/// requested again, because a lease must not expire (`queue.lease_timeout`) during its attempt.
pub(super) const MAX_READY_AGE: Duration = Duration::from_secs(5);

/// Maximum time for which one answer of WhatsApp holds all messages of the instance.
const MAX_HOLD: Duration = Duration::from_secs(3600);

/// Up to here the hold doubles while WhatsApp goes on throttling.
const MAX_GROWN_HOLD: Duration = Duration::from_secs(60);

/// A hold that is at least this long shows in the state of the instance.
const REPORTED_HOLD: Duration = Duration::from_secs(5);

/// The delay before WhatsApp is probed, if the previous probes succeeded and the attempts after them did not. The first
/// probe has none.
const VERIFY_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), 2, Duration::from_secs(60));

/// Delay before leasing is tried again after a failed request.
const LEASE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Limits on concurrent attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workers {
    pub total: usize,
    /// Maximum number of concurrent attempts for bulk messages.
    pub bulk: usize,
}

/// Plans leases and attempts of one instance.
pub(super) struct SendPlanner {
    workers: Workers,
    limiter: Limiter,
    prefetch: Prefetch,
    /// Leases whose attempts have not begun.
    ready: ReadyQueue,
    /// Attempts in flight.
    in_flight: usize,
    /// Attempts in flight for bulk messages; counted in `in_flight` too.
    bulk_in_flight: usize,
    link: Link,
    fetch: Fetch,
    /// The queue will lease the next transactional message to this instance.
    awaiting_next: bool,
    demand: Demand,
    /// WhatsApp throttled the number; nothing is sent before this time since the start of the actor.
    hold_until: Option<Duration>,
    /// The state of the instance shows the hold.
    hold_reported: bool,
    /// Holds since the last message that was sent. The attempts of one hold count once.
    holds: u32,
    /// Probes after answers of other servers, since the last message that was sent.
    verifications: u32,
    /// The client keeps no connection, so a probe tells whether WhatsApp can be reached.
    verifies: bool,
    /// When the wake timer fires, in time since the start of the actor; `None`: it does not run.
    wake_at: Option<Duration>,
    permit_timer_runs: bool,
    drain: Drain,
    actions: VecDeque<Action>,
}

impl SendPlanner {
    /// `keeps_connection`: the client reports by itself when it is connected; otherwise a successful probe tells.
    pub fn new(workers: Workers, limiter: Limiter, keeps_connection: bool) -> Self {
        Self {
            workers,
            limiter,
            prefetch: Prefetch::default(),
            ready: ReadyQueue::default(),
            in_flight: 0,
            bulk_in_flight: 0,
            link: Link::Connecting,
            fetch: Fetch::Idle,
            awaiting_next: false,
            demand: Demand::ALL,
            hold_until: None,
            hold_reported: false,
            holds: 0,
            verifications: 0,
            verifies: !keeps_connection,
            wake_at: None,
            permit_timer_runs: false,
            drain: Drain::NotRequested,
            actions: VecDeque::new(),
        }
    }

    /// The state of the link.
    pub fn link(&self) -> Link {
        self.link
    }

    /// The next action to execute.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// There may be messages of this class.
    pub fn on_nudge(&mut self, class: Class, now: Now) {
        self.demand.add(class);
        self.request_work(now);
    }

    /// The wake timer fired: messages may be due, or a hold has ended. A timer that was restarted may have fired before.
    pub fn on_wake(&mut self, now: Now) {
        let rest = self.wake_at.take().map_or(Duration::ZERO, |at| at.saturating_sub(now.elapsed));
        if !rest.is_zero() {
            self.wake_after(rest, now);
        }
        self.demand = Demand::ALL;
        self.request_work(now);
    }

    /// The permit timer fired.
    pub fn on_permit(&mut self, now: Now) {
        self.permit_timer_runs = false;
        self.start_ready(now);
        self.request_work(now);
    }

    /// The client is connected. Returns `false`, and changes nothing, if the instance is stopped or drained.
    pub fn on_connected(&mut self, now: Now) -> bool {
        if self.link == Link::Stopped || self.drain != Drain::NotRequested {
            return false;
        }
        self.link = Link::Ready;
        self.demand = Demand::ALL;
        self.request_work(now);
        true
    }

    /// The client is not connected any more. Messages that have not begun wait in the queue instead of failing one after
    /// another.
    pub fn on_disconnected(&mut self, now: Now) {
        if self.link == Link::Ready {
            self.link = Link::Connecting;
        }
        self.return_ready(now);
    }

    /// WhatsApp rejected the instance, or pairing ended: nothing is leased or begun any more.
    pub fn on_stopped(&mut self, now: Now) {
        self.link = Link::Stopped;
        self.return_ready(now);
    }

    /// Leases nothing more, returns every ready lease, and answers when nothing is in flight.
    pub fn on_drain(&mut self, now: Now) {
        self.drain = Drain::Draining;
        self.return_ready(now);
        self.cancel_await_next();
        self.finish_drain();
    }

    /// The actor ends: returns every lease that has not begun, also those of actions that were not executed.
    pub fn on_end(&mut self, now: Now) {
        for action in mem::take(&mut self.actions) {
            match action {
                Action::Begin(lease) => self.actions.push_back(Action::Return(lease, now.wall)),
                Action::Return(..) => self.actions.push_back(action),
                _ => {}
            }
        }
        self.return_ready(now);
        self.cancel_await_next();
    }

    /// A lease request has returned after `took`. `None`: it failed.
    pub fn on_leased(&mut self, batch: Option<LeaseBatch>, request: Capacity, took: Duration, now: Now) {
        self.fetch = self.fetch.without_request(request);
        if request.priority != Priority::Background {
            self.prefetch.record_lease_time(took);
        }
        let count = self.add_leases(batch, now);
        // A full result suggests that there are more. After fewer, a nudge or the wake timer announces later messages.
        if count.is_some_and(|count| count >= request.total) {
            match request.priority {
                Priority::Urgent => self.demand.transactional = true,
                Priority::Normal | Priority::Background => self.demand.bulk = true,
            }
        }
        self.start_ready(now);
        self.finish_drain();
        self.request_work(now);
    }

    /// The request for the next message is complete. `None`: it failed. The batch is empty after a cancellation.
    pub fn on_next_lease(&mut self, batch: Option<LeaseBatch>, now: Now) {
        self.awaiting_next = false;
        let succeeded = self.add_leases(batch, now).is_some();
        self.start_ready(now);
        self.finish_drain();
        // After an error the wake timer asks again.
        if succeeded {
            self.request_work(now);
        }
    }

    /// An attempt has ended after `took`. Some failures stop the instance or hold its messages.
    pub fn on_attempt_ended(&mut self, class: Class, failure: Option<Failure>, took: Duration, now: Now) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if class == Class::Bulk {
            self.bulk_in_flight = self.bulk_in_flight.saturating_sub(1);
        }
        self.prefetch.record_send_time(took);
        match failure {
            None => (self.holds, self.verifications) = (0, 0),
            Some(failure) => self.on_failure(failure, now),
        }
        self.start_ready(now);
        self.finish_drain();
        self.request_work(now);
    }

    /// Applies what a failure means for the other messages of the instance.
    fn on_failure(&mut self, failure: Failure, now: Now) {
        match (failure.kind, failure.scope) {
            (FailureKind::LoggedOut | FailureKind::AccountBlocked, _) => {
                self.on_stopped(now);
                self.actions.push_back(Action::ReportRejected(failure));
            }
            (FailureKind::Throttled { retry_after }, FailureScope::Number) => {
                self.hold(failure, retry_after, now);
            }
            (FailureKind::Transient { .. }, FailureScope::Number)
                if self.verifies && self.link == Link::Ready =>
            {
                self.on_disconnected(now);
                self.verifications = self.verifications.saturating_add(1);
                let delay = match self.verifications {
                    1 => Duration::ZERO,
                    repeated => VERIFY_BACKOFF.full_delay(repeated - 1),
                };
                self.actions.push_back(Action::Verify(failure, delay));
            }
            _ => {}
        }
    }

    /// Sends nothing for the time that WhatsApp asked for, and longer if it throttled before.
    fn hold(&mut self, failure: Failure, retry_after: Duration, now: Now) {
        if self.hold_until.is_none() {
            self.holds = self.holds.saturating_add(1);
        }
        let grown = Backoff::new(retry_after, 2, MAX_GROWN_HOLD).full_delay(self.holds);
        let wait = retry_after.max(grown).min(MAX_HOLD);
        let until = now.elapsed + wait;
        if self.hold_until.is_some_and(|current| current >= until) {
            return;
        }
        self.hold_until = Some(until);
        self.wake_after(wait, now);
        if wait >= REPORTED_HOLD {
            self.hold_reported = true;
            self.actions.push_back(Action::ReportHeld(failure, now.wall + wait));
        }
    }

    fn end_hold(&mut self) {
        self.hold_until = None;
        if mem::take(&mut self.hold_reported) {
            self.actions.push_back(Action::ReportResumed);
        }
    }

    /// Adds granted leases to the ready queue and returns their number; `None` after an error.
    fn add_leases(&mut self, batch: Option<LeaseBatch>, now: Now) -> Option<usize> {
        let Some(batch) = batch else {
            self.wake_after(LEASE_RETRY_DELAY, now);
            return None;
        };
        let count = batch.leases.len();
        batch.leases.into_iter().for_each(|lease| self.ready.push(lease));
        if let Some(due) = batch.next_due {
            self.wake_after(due.since(now.wall), now);
        }
        Some(count)
    }

    /// Begins ready attempts while there are free workers and permits.
    fn start_ready(&mut self, now: Now) {
        if self.link != Link::Ready || self.drain != Drain::NotRequested || self.hold_until.is_some() {
            return self.return_ready(now);
        }
        while self.in_flight < self.workers.total
            && let Some(class) = self.ready.next_class(self.bulk_in_flight < self.workers.bulk)
        {
            // With batches one permit stays reserved, so that a transactional message can begin at once.
            let reserve = usize::from(class == Class::Bulk && self.limiter.batch_size() > 0);
            if let Err(wait) = self.limiter.acquire(reserve, now.elapsed) {
                return self.schedule_permit(wait);
            }
            let Some(lease) = self.ready.pop(class) else { return };
            if now.wall.since(lease.leased_at) > MAX_READY_AGE {
                self.limiter.refund();
                self.return_lease(lease, now.wall);
            } else {
                self.begin(lease, now);
            }
        }
    }

    /// Begins the attempt of a lease that has a permit, unless its recipient has none.
    fn begin(&mut self, lease: Lease, now: Now) {
        if has_pair_limit(&lease.message.to)
            && let Err(wait) = self.limiter.check_recipient(lease.message.to.lane(), now.elapsed)
        {
            self.limiter.refund();
            return self.return_lease(lease, now.wall + wait);
        }
        self.in_flight += 1;
        self.bulk_in_flight += usize::from(lease.id.class() == Class::Bulk);
        self.actions.push_back(Action::Begin(lease));
    }

    /// Returns all ready leases to the queue. They go first in the next lease request.
    fn return_ready(&mut self, now: Now) {
        while let Some(lease) = self.ready.next_class(true).and_then(|class| self.ready.pop(class)) {
            self.return_lease(lease, now.wall);
        }
    }

    fn return_lease(&mut self, lease: Lease, until: Timestamp) {
        // Bulk messages that were not requested for lack of capacity may have capacity now.
        self.demand.bulk |= lease.id.class() == Class::Bulk;
        self.actions.push_back(Action::Return(lease, until));
    }

    /// Withdraws the request for the next message. A lease that was granted meanwhile is returned.
    fn cancel_await_next(&mut self) {
        if self.awaiting_next {
            self.actions.push_back(Action::CancelAwaitNext);
        }
    }

    /// Restarts the wake timer, unless it fires earlier anyway: a request for one class does not know when messages of the
    /// other are due.
    fn wake_after(&mut self, wait: Duration, now: Now) {
        let at = now.elapsed + wait;
        if self.wake_at.is_none_or(|planned| at < planned) {
            self.wake_at = Some(at);
            self.actions.push_back(Action::WakeAfter(wait));
        }
    }

    fn schedule_permit(&mut self, wait: Duration) {
        if !self.permit_timer_runs {
            self.permit_timer_runs = true;
            self.actions.push_back(Action::PermitAfter(wait));
        }
    }

    fn finish_drain(&mut self) {
        if self.drain == Drain::Draining
            && self.in_flight == 0
            && self.fetch == Fetch::Idle
            && !self.awaiting_next
        {
            self.drain = Drain::Drained;
            if self.link == Link::Ready {
                self.link = Link::Connecting;
            }
            self.actions.push_back(Action::DrainDone);
        }
    }
}

/// Whether Meta limits messages to this recipient. Groups and channels have other limits.
fn has_pair_limit(recipient: &Recipient) -> bool {
    matches!(recipient, Recipient::Phone(_) | Recipient::User(_))
}
