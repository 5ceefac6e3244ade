//! How an instance comes by work, and when what it has begins.
//!
//! A lease costs a commit, whatever it brings. Where the limiter sets the pace, messages are therefore leased by the
//! lot, before their permits are there, and begin one by one when these come; a message that somebody waits for goes
//! before those of the lot that have not begun, and waits for no lot to be used up.
//!
//! An instance that could begin at once waits at the queue for what somebody sends next, and has it with the commit that
//! takes it in.

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

/// Tells the actor of nudges. There is place for one in its mailbox, so that a thousand of them take no more.
pub(super) async fn forward_nudges(mut nudges: watch::Receiver<()>, class: Class, actor: ActorRef<Msg>) {
    let places = Arc::new(Semaphore::new(1));
    while let Ok(place) = places.clone().acquire_owned().await
        && nudges.changed().await.is_ok()
        && actor.cast(Msg::Nudged(class, place)).is_ok()
    {}
}

/// Of which classes there may be something to find.
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

/// How many messages an instance has a use for, and how soon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub total: usize,
    /// Of them, at most so many of the bulk class.
    pub bulk: usize,
    pub priority: Priority,
}

/// Where messages are asked for that somebody waits for, one in so many may be a bulk message: so neither class starves
/// the other.
const BULK_SHARE: usize = 5;

/// A lease that waited so long for a worker, because attempts hang, is given back and asked for anew: it must not expire
/// (`queue.lease_timeout`) while its attempt is under way.
const MAX_READY_AGE: Duration = Duration::from_secs(5);

impl State {
    /// Asks for work, if there may be some and there is room for it.
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
        let Some(room) = self.capacity().filter(|room| room.total > 0) else { return };
        match room.priority {
            Priority::Urgent => {
                self.leasing_urgent = true;
                self.demand.transactional = false;
            }
            Priority::Normal | Priority::Background => {
                self.leasing_bulk = Some(room.total);
                self.demand.bulk = false;
            }
        }
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let clock = self.arguments.clock;
        tokio::spawn(async move {
            let asked = Instant::now();
            let leased = queue.lease_with_priority(room.priority, number, room.total, room.bulk).await;
            let _ = me.cast(Msg::Leased(LeaseGrant::new(leased, queue, clock), room, asked.elapsed()));
        });
    }

    /// What there are workers for, and permits, or permits to come within a moment. `None`: what it waits for will
    /// come to the actor as a message.
    fn capacity(&mut self) -> Option<Capacity> {
        let extra = self.prefetch.extra(self.workers);
        let places = (self.workers + extra).saturating_sub(self.in_flight);
        let coming = self.ready_queue.bulk_len() + self.leasing_bulk.unwrap_or(0);
        let singles = self.ready_queue.transactional_len();
        if places <= singles {
            return None;
        }
        // Where the workers turn out to be slow, no more waits for them than where they set the pace.
        let lot = self.limiter.batch_size().min(self.workers * prefetch::MAX_PER_WORKER);
        let mut in_hand = self.limiter.reserve(places);
        if in_hand + lot == 0 {
            let wait = self.limiter.next_permit_in();
            if !wait.is_zero() {
                self.schedule_permit(wait);
                return None;
            }
            in_hand = 1;
        }
        let paced = in_hand < places;
        let by_lot = paced && lot > 0;
        let most = if paced { in_hand + lot } else { places };
        // The second half of a lot is enough until the next lot has come.
        let room = |ready: usize| if by_lot && 2 * ready > lot { 0 } else { most.saturating_sub(ready) };
        let for_bulk = (self.bulk_workers + extra).saturating_sub(self.bulk_in_flight + coming);
        let bulk = if by_lot { room(singles + coming) } else { room(singles + coming).min(for_bulk) };
        Some(match (self.demand.transactional, room(singles)) {
            (true, all) => {
                let share = if self.demand.bulk && self.leasing_bulk.is_none() {
                    all.div_ceil(BULK_SHARE)
                } else {
                    0
                };
                Capacity { total: all, bulk: bulk.min(share), priority: Priority::Urgent }
            }
            // Others begin before, and nobody waits: there is time.
            (false, _) if paced && coming > 0 => {
                Capacity { total: bulk, bulk, priority: Priority::Background }
            }
            (false, _) => Capacity { total: bulk, bulk, priority: Priority::Normal },
        })
    }

    pub(super) fn on_leased(&mut self, offer: LeaseGrant, room: Capacity, took: Duration) {
        match room.priority {
            Priority::Urgent => self.leasing_urgent = false,
            Priority::Normal | Priority::Background => self.leasing_bulk = None,
        }
        if room.priority != Priority::Background {
            self.prefetch.record_lease_time(took);
        }
        let found = self.queue_leases(offer);
        // As many as there was room for suggest more; fewer, and what comes is told by a nudge or is due.
        if found.is_some_and(|found| found >= room.total) {
            match room.priority {
                Priority::Urgent => self.demand.transactional = true,
                Priority::Normal | Priority::Background => self.demand.bulk = true,
            }
        }
        self.start_ready_attempts();
        self.finish_drain();
        self.request_work();
    }

    /// What the queue handed over of its own accord, or nothing.
    pub(super) fn on_next_lease(&mut self, offer: LeaseGrant) {
        self.awaiting_next = false;
        let is_answered = self.queue_leases(offer).is_some();
        self.start_ready_attempts();
        self.finish_drain();
        // After an error there is a pause.
        if is_answered {
            self.request_work();
        }
    }

    /// Tells how many leases there were; `None` after an error.
    fn queue_leases(&mut self, offer: LeaseGrant) -> Option<usize> {
        match offer.into_result() {
            Ok(leased) => {
                let count = leased.leases.len();
                leased.leases.into_iter().for_each(|lease| self.ready_queue.push(lease));
                if let Some(due) = leased.next_due {
                    self.schedule_wakeup(self.arguments.clock.until(due));
                }
                Some(count)
            }
            Err(error) => {
                tracing::warn!(instance = %self.arguments.config.id, %error, "no work could be leased");
                self.schedule_wakeup(Duration::from_secs(1));
                None
            }
        }
    }

    /// Waits for the next message that somebody waits for, while it could begin at once or nearly: the commit that takes
    /// it in leases it as well, which spares it the way here and a commit of its own.
    fn await_next(&mut self) {
        let is_free = self.connected && self.draining.is_none() && self.hold_until.is_none();
        let could_begin = self.in_flight < self.workers
            && self.ready_queue.transactional_len() == 0
            && self.limiter.is_quick();
        let looks = self.demand.transactional || self.leasing_urgent;
        if self.awaiting_next || looks || !is_free || !could_begin {
            return;
        }
        self.awaiting_next = true;
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let (clock, next) = (self.arguments.clock, queue.lease_next(number));
        tokio::spawn(async move {
            let _ = me.cast(Msg::NextLease(LeaseGrant::new(next.await, queue, clock)));
        });
    }

    /// Whatever the queue hands over nevertheless is given back.
    pub(super) fn cancel_await_next(&self) {
        if self.awaiting_next {
            let _ = self.arguments.queue.cancel_lease_next(self.arguments.number);
        }
    }

    /// Gives free workers what is ready and has its permit.
    pub(super) fn start_ready_attempts(&mut self) {
        if !self.connected || self.draining.is_some() || self.hold_until.is_some() {
            return self.return_leases();
        }
        while self.in_flight < self.workers
            && let Some(class) = self.ready_queue.next_class(self.bulk_in_flight < self.bulk_workers)
        {
            // Who is fast has the next permit in hand already when somebody comes who waits.
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

    /// Returns what is ready and will not begin; it goes first when work is sought again.
    pub(super) fn return_leases(&mut self) {
        let now = self.arguments.clock.now();
        while let Some(lease) =
            self.ready_queue.next_class(true).and_then(|class| self.ready_queue.pop(class))
        {
            self.postpone(lease, now);
        }
    }

    pub(super) fn postpone(&mut self, lease: Lease, until: Timestamp) {
        // Bulk messages that were not asked for, because there was no room, can be now.
        self.demand.bulk |= lease.id.class() == Class::Bulk;
        let _ = self.arguments.queue.postpone(lease, until);
    }

    /// One timer serves all that have a moment of their own; the newest lease knows which is the next.
    pub(super) fn schedule_wakeup(&mut self, wait: Duration) {
        if let Some(earlier) = self.wake_timer.take() {
            earlier.abort();
        }
        self.wake_timer = Some(self.me.send_after(wait, || Msg::Wake));
    }

    /// Another serves those that wait for a permit; whoever came first waits for the first.
    fn schedule_permit(&mut self, wait: Duration) {
        if self.permit_timer.is_none() {
            self.permit_timer = Some(self.me.send_after(wait, || Msg::PermitReady));
        }
    }
}
