//! Decides how many messages to lease, with which priority, and when their attempts begin.
//!
//! A lease request costs one commit, however many messages it returns. Where the rate limit determines the throughput,
//! messages are therefore leased in batches before their permits exist, and begin one by one as permits come. A
//! transactional message goes before the bulk messages of the batch that have not begun, and does not wait until the
//! batch is used up.
//!
//! An instance that could begin at once asks the queue for the next transactional message: the commit that accepts that
//! message leases it too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::ActorRef;
use tokio::sync::{Semaphore, watch};

use crate::queue::Lease;
use relevo_domain::{Class, Timestamp};
use relevo_store::Priority;

use super::actor::{Msg, State};
use super::prefetch;
use super::ready_queue::LeaseGrant;

/// Forwards the nudges of one class to the actor. The mailbox holds at most one nudge per class.
pub(super) async fn forward_nudges(mut nudges: watch::Receiver<()>, class: Class, actor: ActorRef<Msg>) {
    let permits = Arc::new(Semaphore::new(1));
    while let Ok(permit) = permits.clone().acquire_owned().await
        && nudges.changed().await.is_ok()
        && actor.cast(Msg::Nudged(class, permit)).is_ok()
    {}
}

/// Classes that may have queued messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    pub transactional: bool,
    pub bulk: bool,
}

impl Demand {
    /// No class may have messages.
    pub const NONE: Demand = Demand { transactional: false, bulk: false };
    /// Every class may have messages.
    pub const ALL: Demand = Demand { transactional: true, bulk: true };

    /// Records that a class may have messages.
    pub fn add(&mut self, class: Class) {
        match class {
            Class::Transactional => self.transactional = true,
            Class::Bulk => self.bulk = true,
        }
    }
}

/// How many messages an instance can use, and how soon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub total: usize,
    /// Maximum number of bulk messages among them.
    pub bulk: usize,
    pub priority: Priority,
}

/// In a request that includes transactional messages, one of this many may be a bulk message, so that neither class
/// starves the other.
const BULK_SHARE: usize = 5;

/// Maximum age of a lease when its attempt begins. An older lease, which waited behind hanging attempts, is returned and
/// requested again, because a lease must not expire (`queue.lease_timeout`) during its attempt.
const MAX_READY_AGE: Duration = Duration::from_secs(5);

impl State {
    /// Requests messages, if there may be some and there is capacity.
    pub(super) fn request_work(&mut self) {
        self.lease();
        self.await_next();
    }

    fn lease(&mut self) {
        let wanted = match self.leasing_bulk {
            Some(_) => self.demand.transactional,
            None => self.demand != Demand::NONE,
        };
        if !self.connected || self.leasing_urgent || !wanted || self.draining.is_some() {
            return;
        }
        if let Some(until) = self.hold_until {
            let wait = self.arguments.clock.until(until);
            if !wait.is_zero() {
                return self.schedule_wakeup(wait);
            }
            self.hold_until = None;
        }
        let Some(capacity) = self.capacity().filter(|capacity| capacity.total > 0) else { return };
        match capacity.priority {
            Priority::Urgent => {
                self.leasing_urgent = true;
                self.demand.transactional = false;
            }
            Priority::Normal | Priority::Background => {
                self.leasing_bulk = Some(capacity.total);
                self.demand.bulk = false;
            }
        }
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let clock = self.arguments.clock;
        tokio::spawn(async move {
            let started = Instant::now();
            let Capacity { total, bulk, priority } = capacity;
            let result = queue.lease_with_priority(priority, number, total, bulk).await;
            let _ = me.cast(Msg::Leased(LeaseGrant::new(result, queue, clock), capacity, started.elapsed()));
        });
    }

    /// Number of messages for which there are workers, and permits now or soon. `None`: a later message to the actor
    /// (an attempt that ends, or the permit timer) will ask again.
    fn capacity(&mut self) -> Option<Capacity> {
        let extra = self.prefetch.extra(self.workers);
        let slots = (self.workers + extra).saturating_sub(self.in_flight);
        let bulk_ready = self.ready_queue.bulk_len() + self.leasing_bulk.unwrap_or(0);
        let transactional_ready = self.ready_queue.transactional_len();
        if slots <= transactional_ready {
            return None;
        }
        // A batch is not larger than the largest prefetch, in case the workers are slow.
        let batch = self.limiter.batch_size().min(self.workers * prefetch::MAX_PER_WORKER);
        let mut permits = self.limiter.reserve(slots);
        if permits + batch == 0 {
            let wait = self.limiter.next_permit_in();
            if !wait.is_zero() {
                self.schedule_permit(wait);
                return None;
            }
            permits = 1;
        }
        let rate_limited = permits < slots;
        let in_batches = rate_limited && batch > 0;
        let limit = if rate_limited { permits + batch } else { slots };
        // The next batch is requested when half of the batch has begun.
        let free =
            |ready: usize| if in_batches && 2 * ready > batch { 0 } else { limit.saturating_sub(ready) };
        let bulk_slots = (self.bulk_workers + extra).saturating_sub(self.bulk_in_flight + bulk_ready);
        let free_bulk = free(transactional_ready + bulk_ready);
        let bulk = if in_batches { free_bulk } else { free_bulk.min(bulk_slots) };
        Some(match (self.demand.transactional, free(transactional_ready)) {
            (true, total) => {
                let share = if self.demand.bulk && self.leasing_bulk.is_none() {
                    total.div_ceil(BULK_SHARE)
                } else {
                    0
                };
                Capacity { total, bulk: bulk.min(share), priority: Priority::Urgent }
            }
            // Other bulk messages begin first, so this request may wait for a later commit.
            (false, _) if rate_limited && bulk_ready > 0 => {
                Capacity { total: bulk, bulk, priority: Priority::Background }
            }
            (false, _) => Capacity { total: bulk, bulk, priority: Priority::Normal },
        })
    }

    /// Applies the result of a lease request.
    pub(super) fn on_leased(&mut self, grant: LeaseGrant, capacity: Capacity, took: Duration) {
        match capacity.priority {
            Priority::Urgent => self.leasing_urgent = false,
            Priority::Normal | Priority::Background => self.leasing_bulk = None,
        }
        if capacity.priority != Priority::Background {
            self.prefetch.record_lease_time(took);
        }
        let count = self.queue_leases(grant);
        // A full result suggests that there are more. After fewer, a nudge or the wake timer announces later messages.
        if count.is_some_and(|count| count >= capacity.total) {
            match capacity.priority {
                Priority::Urgent => self.demand.transactional = true,
                Priority::Normal | Priority::Background => self.demand.bulk = true,
            }
        }
        self.start_ready_attempts();
        self.finish_drain();
        self.request_work();
    }

    /// Applies the lease of the next transactional message. The grant is empty after a cancellation.
    pub(super) fn on_next_lease(&mut self, grant: LeaseGrant) {
        self.awaiting_next = false;
        let succeeded = self.queue_leases(grant).is_some();
        self.start_ready_attempts();
        self.finish_drain();
        // After an error the wake timer asks again.
        if succeeded {
            self.request_work();
        }
    }

    /// Adds granted leases to the ready queue and returns their number; `None` after an error.
    fn queue_leases(&mut self, grant: LeaseGrant) -> Option<usize> {
        match grant.into_result() {
            Ok(batch) => {
                let count = batch.leases.len();
                batch.leases.into_iter().for_each(|lease| self.ready_queue.push(lease));
                if let Some(due) = batch.next_due {
                    self.schedule_wakeup(self.arguments.clock.until(due));
                }
                Some(count)
            }
            Err(error) => {
                tracing::warn!(instance = %self.arguments.config.id, %error, "lease request failed; retrying in one second");
                self.schedule_wakeup(Duration::from_secs(1));
                None
            }
        }
    }

    /// Asks the queue for the next transactional message while it could begin almost at once. The commit that accepts
    /// the message leases it too, which saves a nudge and a second commit.
    fn await_next(&mut self) {
        let is_free = self.connected && self.draining.is_none() && self.hold_until.is_none();
        let could_begin = self.in_flight < self.workers
            && self.ready_queue.transactional_len() == 0
            && self.limiter.is_quick();
        let requests_others = self.demand.transactional || self.leasing_urgent;
        if self.awaiting_next || requests_others || !is_free || !could_begin {
            return;
        }
        self.awaiting_next = true;
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let (clock, next) = (self.arguments.clock, queue.lease_next(number));
        tokio::spawn(async move {
            let _ = me.cast(Msg::NextLease(LeaseGrant::new(next.await, queue, clock)));
        });
    }

    /// Withdraws the request for the next message. A lease that was granted meanwhile is returned.
    pub(super) fn cancel_await_next(&self) {
        if self.awaiting_next {
            let _ = self.arguments.queue.cancel_lease_next(self.arguments.number);
        }
    }

    /// Begins ready attempts while there are free workers and permits.
    pub(super) fn start_ready_attempts(&mut self) {
        if !self.connected || self.draining.is_some() || self.hold_until.is_some() {
            return self.return_leases();
        }
        while self.in_flight < self.workers
            && let Some(class) = self.ready_queue.next_class(self.bulk_in_flight < self.bulk_workers)
        {
            // With batches one permit stays reserved, so that a transactional message can begin at once.
            let kept = usize::from(class == Class::Bulk && self.limiter.batch_size() > 0);
            if let Err(wait) = self.limiter.acquire(kept) {
                return self.schedule_permit(wait);
            }
            let Some(lease) = self.ready_queue.pop(class) else { return };
            let now = self.arguments.clock.now();
            if now.since(lease.leased_at) > MAX_READY_AGE {
                self.limiter.refund();
                self.postpone(lease, now);
            } else {
                self.start_attempt(lease);
            }
        }
    }

    /// Returns all ready leases to the queue. They go first in the next lease request.
    pub(super) fn return_leases(&mut self) {
        let now = self.arguments.clock.now();
        while let Some(lease) =
            self.ready_queue.next_class(true).and_then(|class| self.ready_queue.pop(class))
        {
            self.postpone(lease, now);
        }
    }

    /// Returns a lease to the queue; its message may be leased again at `until`.
    pub(super) fn postpone(&mut self, lease: Lease, until: Timestamp) {
        // Bulk messages that were not requested for lack of capacity may have capacity now.
        self.demand.bulk |= lease.id.class() == Class::Bulk;
        let _ = self.arguments.queue.postpone(lease, until);
    }

    /// Restarts the wake timer. One timer is enough: the newest lease result contains the next due time.
    pub(super) fn schedule_wakeup(&mut self, wait: Duration) {
        if let Some(earlier) = self.wake_timer.take() {
            earlier.abort();
        }
        self.wake_timer = Some(self.me.send_after(wait, || Msg::Wake));
    }

    /// Starts the permit timer, unless it runs already.
    fn schedule_permit(&mut self, wait: Duration) {
        if self.permit_timer.is_none() {
            self.permit_timer = Some(self.me.send_after(wait, || Msg::PermitReady));
        }
    }
}
