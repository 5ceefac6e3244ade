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
use relevo_store::Haste;

use super::actor::{Msg, State};
use super::ahead;
use super::ready::Offer;

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
pub(super) struct Hungry {
    pub transactional: bool,
    pub bulk: bool,
}

impl Hungry {
    pub const NOT: Hungry = Hungry { transactional: false, bulk: false };
    pub const FOR_ALL: Hungry = Hungry { transactional: true, bulk: true };

    pub fn get(&mut self, class: Class) {
        match class {
            Class::Transactional => self.transactional = true,
            Class::Bulk => self.bulk = true,
        }
    }
}

/// How many messages an instance has a use for, and how soon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub all: usize,
    /// Of them, at most so many of the bulk class.
    pub bulk: usize,
    pub haste: Haste,
}

/// Where messages are asked for that somebody waits for, one in so many may be a bulk message: so neither class starves
/// the other.
const BULK_SHARE: usize = 5;

/// A lease that waited so long for a worker, because attempts hang, is given back and asked for anew: it must not expire
/// (`queue.lease_timeout`) while its attempt is under way.
const STALE: Duration = Duration::from_secs(5);

impl State {
    /// Asks for work, if there may be some and there is room for it.
    pub(super) fn seek_work(&mut self) {
        self.lease();
        self.await_next();
    }

    fn lease(&mut self) {
        let wanted = match self.leasing {
            Some(_) => self.hungry.transactional,
            None => self.hungry != Hungry::NOT,
        };
        if !self.connected || self.leasing_first || !wanted || self.draining.is_some() {
            return;
        }
        if let Some(until) = self.hold_until {
            let wait = self.arguments.clock.until(until);
            if !wait.is_zero() {
                return self.wake_in(wait);
            }
            self.hold_until = None;
        }
        let Some(room) = self.room().filter(|room| room.all > 0) else { return };
        match room.haste {
            Haste::First => {
                self.leasing_first = true;
                self.hungry.transactional = false;
            }
            Haste::Now | Haste::Soon => {
                self.leasing = Some(room.all);
                self.hungry.bulk = false;
            }
        }
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let clock = self.arguments.clock;
        tokio::spawn(async move {
            let asked = Instant::now();
            let leased = queue.lease_with(room.haste, number, room.all, room.bulk).await;
            let _ = me.cast(Msg::Leased(Offer::new(leased, queue, clock), room, asked.elapsed()));
        });
    }

    /// What there are workers for, and permits, or permits to come within a moment. `None`: what it waits for will
    /// come to the actor as a message.
    fn room(&mut self) -> Option<Room> {
        let extra = self.ahead.extra(self.workers);
        let places = (self.workers + extra).saturating_sub(self.busy);
        let coming = self.ready.bulk() + self.leasing.unwrap_or(0);
        let singles = self.ready.transactional();
        if places <= singles {
            return None;
        }
        // Where the workers turn out to be slow, no more waits for them than where they set the pace.
        let lot = self.limiter.lot().min(self.workers * ahead::MOST);
        let mut in_hand = self.limiter.take(places);
        if in_hand + lot == 0 {
            let wait = self.limiter.next_in();
            if !wait.is_zero() {
                self.permit_in(wait);
                return None;
            }
            in_hand = 1;
        }
        let paced = in_hand < places;
        let by_lot = paced && lot > 0;
        let most = if paced { in_hand + lot } else { places };
        // The second half of a lot is enough until the next lot has come.
        let room = |ready: usize| if by_lot && 2 * ready > lot { 0 } else { most.saturating_sub(ready) };
        let for_bulk = (self.bulk_workers + extra).saturating_sub(self.bulk + coming);
        let bulk = if by_lot { room(singles + coming) } else { room(singles + coming).min(for_bulk) };
        Some(match (self.hungry.transactional, room(singles)) {
            (true, all) => {
                let share =
                    if self.hungry.bulk && self.leasing.is_none() { all.div_ceil(BULK_SHARE) } else { 0 };
                Room { all, bulk: bulk.min(share), haste: Haste::First }
            }
            // Others begin before, and nobody waits: there is time.
            (false, _) if paced && coming > 0 => Room { all: bulk, bulk, haste: Haste::Soon },
            (false, _) => Room { all: bulk, bulk, haste: Haste::Now },
        })
    }

    pub(super) fn leased(&mut self, offer: Offer, room: Room, took: Duration) {
        match room.haste {
            Haste::First => self.leasing_first = false,
            Haste::Now | Haste::Soon => self.leasing = None,
        }
        if room.haste != Haste::Soon {
            self.ahead.leased(took);
        }
        let found = self.make_ready(offer);
        // As many as there was room for suggest more; fewer, and what comes is told by a nudge or is due.
        if found.is_some_and(|found| found >= room.all) {
            match room.haste {
                Haste::First => self.hungry.transactional = true,
                Haste::Now | Haste::Soon => self.hungry.bulk = true,
            }
        }
        self.begin();
        self.finish_drain();
        self.seek_work();
    }

    /// What the queue handed over of its own accord, or nothing.
    pub(super) fn next(&mut self, offer: Offer) {
        self.awaits_next = false;
        let is_answered = self.make_ready(offer).is_some();
        self.begin();
        self.finish_drain();
        // After an error there is a pause.
        if is_answered {
            self.seek_work();
        }
    }

    /// Tells how many leases there were; `None` after an error.
    fn make_ready(&mut self, offer: Offer) -> Option<usize> {
        match offer.take() {
            Ok(leased) => {
                let count = leased.leases.len();
                leased.leases.into_iter().for_each(|lease| self.ready.push(lease));
                if let Some(due) = leased.next_due {
                    self.wake_in(self.arguments.clock.until(due));
                }
                Some(count)
            }
            Err(error) => {
                tracing::warn!(instance = %self.arguments.config.id, %error, "no work could be leased");
                self.wake_in(Duration::from_secs(1));
                None
            }
        }
    }

    /// Waits for the next message that somebody waits for, while it could begin at once or nearly: the commit that takes
    /// it in leases it as well, which spares it the way here and a commit of its own.
    fn await_next(&mut self) {
        let is_free = self.connected && self.draining.is_none() && self.hold_until.is_none();
        let could_begin =
            self.busy < self.workers && self.ready.transactional() == 0 && self.limiter.is_quick();
        let looks = self.hungry.transactional || self.leasing_first;
        if self.awaits_next || looks || !is_free || !could_begin {
            return;
        }
        self.awaits_next = true;
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let (clock, next) = (self.arguments.clock, queue.lease_next(number));
        tokio::spawn(async move {
            let _ = me.cast(Msg::Next(Offer::new(next.await, queue, clock)));
        });
    }

    /// Whatever the queue hands over nevertheless is given back.
    pub(super) fn await_no_next(&self) {
        if self.awaits_next {
            let _ = self.arguments.queue.lease_no_next(self.arguments.number);
        }
    }

    /// Gives free workers what is ready and has its permit.
    pub(super) fn begin(&mut self) {
        if !self.connected || self.draining.is_some() || self.hold_until.is_some() {
            return self.give_back();
        }
        while self.busy < self.workers
            && let Some(class) = self.ready.first(self.bulk < self.bulk_workers)
        {
            // Who is fast has the next permit in hand already when somebody comes who waits.
            let kept = usize::from(class == Class::Bulk && self.limiter.lot() > 0);
            if let Err(wait) = self.limiter.claim(kept) {
                return self.permit_in(wait);
            }
            let Some(lease) = self.ready.next(class) else { return };
            let now = self.arguments.clock.now();
            if now.since(lease.leased_at) > STALE {
                self.limiter.refund();
                self.postpone(lease, now);
            } else {
                self.attempt(lease);
            }
        }
    }

    /// Returns what is ready and will not begin; it goes first when work is sought again.
    pub(super) fn give_back(&mut self) {
        let now = self.arguments.clock.now();
        while let Some(lease) = self.ready.first(true).and_then(|class| self.ready.next(class)) {
            self.postpone(lease, now);
        }
    }

    pub(super) fn postpone(&mut self, lease: Lease, until: Timestamp) {
        // Bulk messages that were not asked for, because there was no room, can be now.
        self.hungry.bulk |= lease.id.class() == Class::Bulk;
        let _ = self.arguments.queue.postpone(lease, until);
    }

    /// One timer serves all that have a moment of their own; the newest lease knows which is the next.
    pub(super) fn wake_in(&mut self, wait: Duration) {
        if let Some(earlier) = self.wake.take() {
            earlier.abort();
        }
        self.wake = Some(self.me.send_after(wait, || Msg::Wake));
    }

    /// Another serves those that wait for a permit; whoever came first waits for the first.
    fn permit_in(&mut self, wait: Duration) {
        if self.permit.is_none() {
            self.permit = Some(self.me.send_after(wait, || Msg::Permit));
        }
    }
}
