//! How many messages to request from the queue, with which priority, and when to ask for the next one.

use relevo_domain::Class;
use relevo_store::Priority;

use super::{Action, Drain, Link, Now, SendPlanner};
use crate::instance::prefetch;

/// Lease requests that are under way: at most one that includes transactional messages, and one for bulk messages alone.
/// The request for the next message is separate, because it can be under way beside both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetch {
    Idle,
    Urgent,
    /// With the number of requested messages.
    Bulk(usize),
    /// With the number of requested bulk messages.
    UrgentAndBulk(usize),
}

impl Fetch {
    fn is_urgent(self) -> bool {
        matches!(self, Fetch::Urgent | Fetch::UrgentAndBulk(_))
    }

    /// Size of the bulk request.
    pub fn bulk(self) -> Option<usize> {
        match self {
            Fetch::Bulk(count) | Fetch::UrgentAndBulk(count) => Some(count),
            Fetch::Idle | Fetch::Urgent => None,
        }
    }

    fn from_parts(is_urgent: bool, bulk: Option<usize>) -> Self {
        match (is_urgent, bulk) {
            (false, None) => Fetch::Idle,
            (true, None) => Fetch::Urgent,
            (false, Some(count)) => Fetch::Bulk(count),
            (true, Some(count)) => Fetch::UrgentAndBulk(count),
        }
    }

    /// Adds a request that starts.
    pub fn with_request(self, request: Capacity) -> Self {
        match request.priority {
            Priority::Urgent => Self::from_parts(true, self.bulk()),
            Priority::Normal | Priority::Background => {
                Self::from_parts(self.is_urgent(), Some(request.total))
            }
        }
    }

    /// Removes a request that has returned.
    pub fn without_request(self, request: Capacity) -> Self {
        match request.priority {
            Priority::Urgent => Self::from_parts(false, self.bulk()),
            Priority::Normal | Priority::Background => Self::from_parts(self.is_urgent(), None),
        }
    }
}

/// Classes that may have queued messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Demand {
    pub transactional: bool,
    pub bulk: bool,
}

impl Demand {
    pub const NONE: Demand = Demand { transactional: false, bulk: false };
    pub const ALL: Demand = Demand { transactional: true, bulk: true };

    pub fn add(&mut self, class: Class) {
        match class {
            Class::Transactional => self.transactional = true,
            Class::Bulk => self.bulk = true,
        }
    }
}

/// How many messages an instance can use, and how soon.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub total: usize,
    /// Maximum number of bulk messages among them.
    pub bulk: usize,
    pub priority: Priority,
}

/// In a request that includes transactional messages, one of this many may be a bulk message, so that neither class
/// starves the other.
const BULK_SHARE: usize = 5;

impl SendPlanner {
    /// Requests messages, if there may be some and there is capacity.
    pub(super) fn request_work(&mut self, now: Now) {
        self.lease(now);
        self.await_next();
    }

    fn lease(&mut self, now: Now) {
        let is_wanted = match self.fetch {
            Fetch::Idle => self.demand != Demand::NONE,
            Fetch::Bulk(_) => self.demand.transactional,
            Fetch::Urgent | Fetch::UrgentAndBulk(_) => false,
        };
        if !is_wanted || self.link != Link::Ready || self.drain != Drain::NotRequested {
            return;
        }
        if let Some(until) = self.hold_until {
            let wait = until.saturating_sub(now.elapsed);
            if !wait.is_zero() {
                return self.wake_after(wait, now);
            }
            self.end_hold();
        }
        let Some(request) = self.capacity(now).filter(|capacity| capacity.total > 0) else { return };
        self.fetch = self.fetch.with_request(request);
        match request.priority {
            Priority::Urgent => self.demand.transactional = false,
            Priority::Normal | Priority::Background => self.demand.bulk = false,
        }
        self.actions.push_back(Action::Lease(request));
    }

    /// Number of messages for which there are workers, and permits now or soon. `None`: the end of an attempt or the permit
    /// timer will ask again.
    fn capacity(&mut self, now: Now) -> Option<Capacity> {
        let extra = self.prefetch.extra(self.workers.total);
        let slots = (self.workers.total + extra).saturating_sub(self.in_flight);
        let bulk_ready = self.ready.bulk_len() + self.fetch.bulk().unwrap_or(0);
        let transactional_ready = self.ready.transactional_len();
        if slots <= transactional_ready {
            return None;
        }
        // A batch is not larger than the largest prefetch, in case the workers are slow.
        let batch = self.limiter.batch_size().min(self.workers.total * prefetch::MAX_PER_WORKER);
        let mut permits = self.limiter.reserve(slots, now.elapsed);
        if permits + batch == 0 {
            let wait = self.limiter.next_permit_in(now.elapsed);
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
        let bulk_slots = (self.workers.bulk + extra).saturating_sub(self.bulk_in_flight + bulk_ready);
        let free_bulk = free(transactional_ready + bulk_ready);
        let bulk = if in_batches { free_bulk } else { free_bulk.min(bulk_slots) };
        Some(if self.demand.transactional {
            let total = free(transactional_ready);
            let may_have_bulk = self.demand.bulk && self.fetch.bulk().is_none();
            let share = if may_have_bulk { total.div_ceil(BULK_SHARE) } else { 0 };
            Capacity { total, bulk: bulk.min(share), priority: Priority::Urgent }
        } else if rate_limited && bulk_ready > 0 {
            // Other bulk messages begin first, so this request may wait for a later commit.
            Capacity { total: bulk, bulk, priority: Priority::Background }
        } else {
            Capacity { total: bulk, bulk, priority: Priority::Normal }
        })
    }

    /// Asks the queue for the next transactional message while it could begin almost at once. The commit that accepts the
    /// message leases it too, which saves a nudge and a second commit.
    fn await_next(&mut self) {
        let is_free =
            self.link == Link::Ready && self.drain == Drain::NotRequested && self.hold_until.is_none();
        let could_begin = self.in_flight < self.workers.total
            && self.ready.transactional_len() == 0
            && self.limiter.is_quick();
        let requests_others = self.demand.transactional || self.fetch.is_urgent();
        if self.awaiting_next || requests_others || !is_free || !could_begin {
            return;
        }
        self.awaiting_next = true;
        self.actions.push_back(Action::AwaitNext);
    }
}
