//! The model: what the queue should know, in plain structures, moved along with the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::sample::Index;

use crate::domain::{
    AmbiguousPolicy, BuryReason, Class, Content, Failure, InstanceNumber, MessageId, Mode, OutboundMessage,
    ProviderMessageId, Receipt, Status, Timestamp, Verdict,
};
use crate::queue::accept::{Refused, Terms};
use crate::queue::upkeep::Upkeep;
use crate::queue::{
    Accepted, IdempotencyKey, Lease, Outcome, ReceiptReport, Recorded, Submission, accept, dispatch,
    receipts, settle, upkeep,
};
use crate::store::Scratch;

/// What the tests of the storage functions run under.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(90);
const HOLD: Duration = Duration::from_secs(120);
const KEY_TTL: Duration = Duration::from_secs(40);
const CAPACITY: u64 = 12;

/// A submission in the making.
#[derive(Debug, Clone)]
pub struct Request {
    pub instance: usize,
    pub to: usize,
    pub bulk: bool,
    pub sync: bool,
    pub resend: bool,
    pub large: bool,
    /// An idempotency key and the request's body.
    pub key: Option<(u8, u8)>,
    /// Milliseconds until it expires.
    pub ttl: Option<u64>,
}

/// Where a message stands in the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Stand {
    Waiting,
    Flying { attempt: u32, at: Timestamp, run: u64, held_until: Option<Timestamp> },
    Deferred(Timestamp),
    Over,
}

/// A message as the model knows it.
#[derive(Debug)]
pub struct Known {
    pub id: MessageId,
    pub instance: usize,
    pub lane: (usize, Class, usize),
    mode: Mode,
    expires_at: Option<Timestamp>,
    key: Option<u8>,
    /// Its place among those of its lane.
    joined: u64,
    /// It left its lane and came back.
    rejoined: bool,
    pub not_before: Timestamp,
    pub stand: Stand,
    /// What its ledger row says.
    pub status: Status,
    pub attempts: u32,
    pub failures: u32,
    pub provider_id: Option<ProviderMessageId>,
    /// How often its end was announced.
    pub acks: usize,
    /// Retention took its row.
    pub forgotten: bool,
}

impl Known {
    pub fn is_open(&self) -> bool {
        self.stand != Stand::Over
    }

    fn is_flying(&self) -> bool {
        matches!(self.stand, Stand::Flying { .. })
    }

    fn end(&mut self, status: Status) {
        self.stand = Stand::Over;
        self.status = status;
    }
}

pub struct World<'a> {
    pub scratch: &'a Scratch,
    pub now: Timestamp,
    /// The latest moment there was; the clock may step back.
    pub high: Timestamp,
    run: u64,
    stamps: u64,
    pub messages: Vec<Known>,
    /// Every lease ever handed out.
    leases: Vec<Lease>,
    /// By instance and key: whose it is, for which body, until when.
    pub keys: BTreeMap<(usize, u8), (MessageId, u8, Timestamp)>,
    pub purged: [bool; 2],
}

pub fn number(instance: usize) -> InstanceNumber {
    let second = InstanceNumber::FIRST.next().unwrap();
    [InstanceNumber::FIRST, second][instance]
}

fn provider_id(message: usize, other: bool) -> ProviderMessageId {
    format!("wamid.{}{message}", if other { "other." } else { "" }).parse().unwrap()
}

impl<'a> World<'a> {
    pub fn new(scratch: &'a Scratch) -> Self {
        let now = Timestamp(1_763_800_000_000);
        Self {
            scratch,
            now,
            high: now,
            run: 1,
            stamps: 0,
            messages: Vec::new(),
            leases: Vec::new(),
            keys: BTreeMap::new(),
            purged: [false; 2],
        }
    }

    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    fn place(&self, id: MessageId) -> usize {
        self.messages.iter().position(|known| known.id == id).unwrap()
    }

    fn picked(&self, index: Index) -> Option<usize> {
        (!self.messages.is_empty()).then(|| index.index(self.messages.len()))
    }

    pub fn open(&self, instance: usize) -> impl Iterator<Item = &Known> {
        self.messages.iter().filter(move |known| known.instance == instance && known.is_open())
    }

    pub fn accept(&mut self, request: Request) {
        let Request { instance, to, bulk, sync, resend, large, key, ttl } = request;
        if self.purged[instance] {
            return;
        }
        let class = if bulk { Class::Bulk } else { Class::Transactional };
        let mode = if sync { Mode::Sync } else { Mode::Async };
        let expires_at = ttl.map(|millis| self.now + Duration::from_millis(millis));
        let body = "x".repeat(if large { 9_000 } else { 10 });
        let submission = Submission {
            instance: number(instance),
            message: OutboundMessage {
                to: format!("5730000000{to}").parse().unwrap(),
                content: Content::Text { body, preview_url: false },
                quote: None,
            },
            class,
            mode,
            idempotency: key.map(|(key, body)| IdempotencyKey { key: [key; 16], body: [body; 16] }),
            expires_at,
            send_at: None,
            on_ambiguous: if resend { AmbiguousPolicy::Resend } else { AmbiguousPolicy::Hold },
        };
        let key_expires = self.now + KEY_TTL;
        let terms = Terms {
            now: self.now,
            capacity: CAPACITY,
            idempotency_expires: key_expires,
            random: self.stamps.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        };
        let accepted = self.scratch.write(|tx| accept::accept(tx, submission, terms)).unwrap();
        let known = key.and_then(|(key, body)| Some((self.keys.get(&(instance, key))?, body)));
        match known {
            Some((&(id, stored, expires), body)) if expires > self.now => {
                let expected =
                    if stored == body { Ok(Accepted::Duplicate(id)) } else { Err(Refused::KeyReused) };
                assert_eq!(accepted, expected);
                return;
            }
            _ if self.open(instance).count() as u64 >= CAPACITY => {
                assert_eq!(accepted, Err(Refused::Full));
                return;
            }
            _ => {}
        }
        let Ok(Accepted::New(id)) = accepted else { panic!("{accepted:?}") };
        assert!(self.messages.last().is_none_or(|last| last.id < id), "ids only grow");
        assert_eq!((id.instance(), id.class()), (number(instance), class));
        if let Some((key, body)) = key {
            self.keys.insert((instance, key), (id, body, key_expires));
        }
        let joined = self.stamp();
        self.messages.push(Known {
            id,
            instance,
            lane: (instance, class, to),
            mode,
            expires_at,
            key: key.map(|(key, _)| key),
            joined,
            rejoined: false,
            not_before: Timestamp(0),
            stand: Stand::Waiting,
            status: Status::Queued,
            attempts: 0,
            failures: 0,
            provider_id: None,
            acks: 0,
            forgotten: false,
        });
    }

    fn free_key(&mut self, message: usize) {
        let known = &self.messages[message];
        if let Some(key) = known.key {
            let (place, id) = ((known.instance, key), known.id);
            if self.keys.get(&place).is_some_and(|&(owner, ..)| owner == id) {
                self.keys.remove(&place);
            }
        }
    }

    pub fn lease(&mut self, instance: usize, max: usize) {
        if self.purged[instance] {
            return;
        }
        self.bring_back_due(instance);
        let request = dispatch::Request { instance: number(instance), max, now: self.now, run: self.run };
        let found = self.scratch.write(|tx| dispatch::lease(tx, request)).unwrap();
        for id in found.expired {
            let message = self.place(id);
            let known = &mut self.messages[message];
            assert_eq!(known.stand, Stand::Waiting, "only what waits expires");
            assert!(known.expires_at.is_some_and(|at| at <= request.now) && known.not_before <= request.now);
            known.end(Status::Expired);
            known.acks += 1;
            if known.mode == Mode::Sync {
                self.free_key(message);
            }
        }
        let got = found.leased.leases.len();
        assert!(got <= max);
        for lease in found.leased.leases {
            self.check_turn(&lease);
            let message = self.place(lease.id);
            let (at, run) = (self.now, self.run);
            self.messages[message].stand =
                Stand::Flying { attempt: lease.attempt, at, run, held_until: None };
            self.leases.push(lease);
        }
        if got < max && self.now >= self.high {
            self.check_nothing_was_left(instance, found.leased.next_due);
        }
    }

    fn bring_back_due(&mut self, instance: usize) {
        let now = self.now;
        let mut due: Vec<(Timestamp, MessageId, usize)> = Vec::new();
        for (place, known) in self.messages.iter().enumerate() {
            if let Stand::Deferred(at) = known.stand
                && known.instance == instance
                && at <= now
            {
                due.push((at, known.id, place));
            }
        }
        due.sort();
        for (.., place) in due {
            let joined = self.stamp();
            let known = &mut self.messages[place];
            (known.stand, known.status, known.not_before) = (Stand::Waiting, Status::Queued, Timestamp(0));
            (known.joined, known.rejoined) = (joined, true);
        }
    }

    /// A message was handed out: was it its turn?
    fn check_turn(&self, lease: &Lease) {
        let known = &self.messages[self.place(lease.id)];
        assert_eq!(known.stand, Stand::Waiting, "{known:?}");
        assert!(known.not_before <= self.now, "handed out before its time: {known:?}");
        assert!(known.expires_at.is_none_or(|at| at > self.now), "handed out too late: {known:?}");
        assert_eq!((lease.attempt, lease.failures), (known.attempts + 1, known.failures));
        for other in self.messages.iter().filter(|other| other.lane == known.lane && other.id != known.id) {
            assert!(!other.is_flying(), "two live leases in one lane: {known:?} and {other:?}");
            // What came back from a deferral stands before what was not looked at yet.
            let excused = known.rejoined && !other.rejoined;
            let overtaken = other.stand == Stand::Waiting && other.joined < known.joined && !excused;
            assert!(!overtaken, "{known:?} overtook {other:?}");
        }
    }

    /// An instance got less than it asked for: was that all, and is the next moment right?
    fn check_nothing_was_left(&self, instance: usize, next_due: Option<Timestamp>) {
        let mut soonest: Option<Timestamp> = None;
        let mut lanes: BTreeMap<_, Vec<&Known>> = BTreeMap::new();
        for known in self.open(instance) {
            match known.stand {
                Stand::Deferred(due) => soonest = Some(soonest.map_or(due, |soonest| soonest.min(due))),
                _ => lanes.entry(known.lane).or_default().push(known),
            }
        }
        for lane in lanes.values().filter(|lane| !lane.iter().any(|known| known.is_flying())) {
            let until = lane.iter().map(|known| known.not_before).max().unwrap();
            assert!(until > self.now, "nothing of a lane that may go was handed out: {lane:?}");
            soonest = Some(soonest.map_or(until, |soonest| soonest.min(until)));
        }
        assert_eq!(next_due, soonest, "when asking again will find more");
    }

    /// The message of a lease, if the lease is still its live one.
    fn live(&self, lease: &Lease) -> Option<usize> {
        let message = self.place(lease.id);
        match self.messages[message].stand {
            Stand::Flying { attempt, at, .. } if (attempt, at) == (lease.attempt, lease.leased_at) => {
                Some(message)
            }
            _ => None,
        }
    }

    fn picked_lease(&self, index: Index) -> Option<Lease> {
        // The last ones more often: they are the live ones.
        let from = self.leases.len().saturating_sub(6);
        let recent = &self.leases[from..];
        (!recent.is_empty()).then(|| recent[index.index(recent.len())].clone())
    }

    pub fn sent(&mut self, lease: Index) {
        if let Some(lease) = self.picked_lease(lease) {
            self.sent_lease(&lease);
        }
    }

    fn sent_lease(&mut self, lease: &Lease) {
        let id = provider_id(self.place(lease.id), false);
        let outcome = self.scratch.write(|tx| settle::sent(tx, lease, &id, self.now)).unwrap();
        let Some(message) = self.live(lease) else {
            assert_eq!(outcome, None, "a lease that is over moved something");
            return;
        };
        assert_eq!(outcome, Some(Outcome::Sent(id.clone())));
        let known = &mut self.messages[message];
        known.attempts = lease.attempt;
        known.provider_id.get_or_insert(id);
        known.acks += 1;
        known.end(Status::Sent);
    }

    pub fn postpone(&mut self, lease: Index, delay: Duration) {
        let Some(lease) = self.picked_lease(lease) else { return };
        let until = self.now + delay;
        self.scratch.write(|tx| settle::postpone(tx, &lease, until, self.now)).unwrap();
        if let Some(message) = self.live(&lease) {
            let known = &mut self.messages[message];
            (known.stand, known.status, known.not_before) = (Stand::Waiting, Status::Queued, until);
        }
    }

    pub fn judge(&mut self, lease: Index, verdict: Verdict) {
        if let Some(lease) = self.picked_lease(lease) {
            self.judge_lease(&lease, verdict);
        }
    }

    fn judge_lease(&mut self, lease: &Lease, verdict: Verdict) {
        let now = self.now;
        let failure = Failure::transient("no").with_code(7);
        let outcome = self.scratch.write(|tx| settle::judged(tx, lease, verdict, &failure, now)).unwrap();
        let Some(message) = self.live(lease) else {
            assert_eq!(outcome, None, "a lease that is over moved something");
            return;
        };
        let known = &mut self.messages[message];
        known.attempts = lease.attempt;
        let expected = match verdict {
            Verdict::Retry { after, counted } => {
                known.failures += u32::from(counted);
                (known.stand, known.status, known.not_before) = (Stand::Waiting, Status::Queued, now + after);
                None
            }
            Verdict::Defer { after } => {
                (known.stand, known.status) = (Stand::Deferred(now + after), Status::Deferred);
                None
            }
            Verdict::Hold { wait } => {
                let Stand::Flying { held_until, .. } = &mut known.stand else { unreachable!() };
                *held_until = Some(now + wait);
                known.status = Status::Ambiguous;
                Some(Outcome::Unknown)
            }
            Verdict::Bury(reason) => {
                known.end(Status::DeadLetter);
                known.acks += 1;
                let unknown = reason == BuryReason::Ambiguous;
                Some(if unknown { Outcome::Unknown } else { Outcome::Failed(failure) })
            }
            Verdict::Fail => {
                known.end(Status::Failed);
                known.acks += 1;
                self.free_key(message);
                Some(Outcome::Failed(failure))
            }
        };
        assert_eq!(outcome, expected);
    }

    pub fn report(&mut self, message: Index, receipt: Receipt, with_our_id: bool, other_id: bool) {
        let Some(message) = self.picked(message) else { return };
        if self.purged[self.messages[message].instance] {
            return;
        }
        let known = &mut self.messages[message];
        let named = provider_id(message, other_id);
        let report = ReceiptReport {
            instance: number(known.instance),
            id: with_our_id.then_some(known.id),
            provider_id: named.clone(),
            receipt,
            at: self.now,
            failure: None,
        };
        let (recorded, outcome) = self.scratch.write(|tx| receipts::record(tx, &report, self.now)).unwrap();
        let found = with_our_id || known.provider_id.as_ref() == Some(&named);
        if !found || known.forgotten {
            assert_eq!((recorded, outcome), (Recorded::Unknown, None));
            return;
        }
        let status = Status::from(receipt);
        if known.is_open() {
            if let Stand::Flying { attempt, .. } = known.stand {
                known.attempts = attempt;
            }
            known.end(status);
            known.acks += 1;
            known.provider_id.get_or_insert(named);
            assert_eq!(recorded, Recorded::Moved(known.id));
            assert_eq!(matches!(outcome, Some(Outcome::Failed(_))), receipt == Receipt::Failed);
            assert!(outcome.is_some());
            if receipt == Receipt::Failed {
                self.free_key(message);
            }
        } else if known.status.may_become(status) {
            assert_eq!((recorded, outcome), (Recorded::Moved(known.id), None));
            let corrects = matches!(known.status, Status::DeadLetter | Status::Failed);
            known.acks += usize::from(corrects || receipt == Receipt::Failed);
            known.status = status;
            known.provider_id.get_or_insert(named);
        } else {
            assert_eq!((recorded, outcome), (Recorded::Unchanged(known.id), None));
        }
    }

    pub fn withdraw(&mut self, message: Index) {
        let Some(message) = self.picked(message) else { return };
        let id = self.messages[message].id;
        let withdrawn = self.scratch.write(|tx| accept::withdraw(tx, id, self.now)).unwrap();
        let known = &mut self.messages[message];
        let may = matches!(known.stand, Stand::Waiting | Stand::Deferred(_));
        assert_eq!(withdrawn, may, "{known:?}");
        if withdrawn {
            known.end(Status::Cancelled);
            self.free_key(message);
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.high = self.high.max(self.now);
    }

    pub fn step_back(&mut self, time: Duration) {
        self.now = self.now - time;
    }

    pub fn restart(&mut self) {
        self.run += 1;
    }

    /// What `retry` does every second.
    pub fn sweep(&mut self) {
        let (now, run) = (self.now, self.run);
        let found = self.scratch.write(|tx| dispatch::overdue(tx, now, run, LEASE_TIMEOUT, 200)).unwrap();
        let named: BTreeSet<_> = found.iter().map(|(lease, held)| (lease.id, *held)).collect();
        let mut expected = BTreeSet::new();
        for known in &self.messages {
            match known.stand {
                Stand::Flying { held_until: Some(until), .. } if until <= now => {
                    expected.insert((known.id, true));
                }
                Stand::Flying { held_until: None, run: of, at, .. }
                    if of != run || at + LEASE_TIMEOUT <= now =>
                {
                    expected.insert((known.id, false));
                }
                _ => {}
            }
        }
        assert_eq!(named, expected, "what nobody will settle");
        for (lease, held) in found {
            let resend = lease.on_ambiguous == AmbiguousPolicy::Resend && lease.mode == Mode::Async;
            let verdict = match (held, resend) {
                (false, _) => Verdict::Hold { wait: HOLD },
                (true, true) => Verdict::Retry { after: Duration::ZERO, counted: true },
                (true, false) => Verdict::Bury(BuryReason::Ambiguous),
            };
            self.judge_lease(&lease, verdict);
        }
    }

    pub fn upkeep(&mut self, keep: Duration) {
        self.upkeep_with(self.now - keep, Timestamp(0));
    }

    fn upkeep_with(&mut self, ledger_before: Timestamp, events_before: Timestamp) {
        let now = self.now;
        let mut from = None;
        loop {
            let page = Upkeep { now, ledger_before, events_before, from };
            from = self.scratch.write(|tx| upkeep::page(tx, &page)).unwrap();
            if from.is_none() {
                break;
            }
        }
        for known in &mut self.messages {
            if !known.is_open() && known.id.accepted_at() < ledger_before {
                (known.forgotten, known.provider_id) = (true, None);
            }
        }
        self.keys.retain(|_, &mut (.., expires)| expires >= now);
    }

    pub fn purge(&mut self, instance: usize) {
        while self.scratch.write(|tx| upkeep::purge(tx, number(instance))).unwrap() {}
        self.purged[instance] = true;
        for known in self.messages.iter_mut().filter(|known| known.instance == instance) {
            (known.stand, known.provider_id) = (Stand::Over, None);
        }
        self.keys.retain(|&(owner, _), _| owner != instance);
    }

    /// Time passes, everything is sent: every message comes to an end.
    pub fn drain(&mut self) {
        for _ in 0..100 {
            self.now = self.high;
            self.pass(Duration::from_secs(600));
            self.sweep();
            for instance in 0..2 {
                let before = self.leases.len();
                self.lease(instance, 50);
                for lease in self.leases[before..].to_vec() {
                    self.sent_lease(&lease);
                }
            }
            self.audit();
            if self.messages.iter().all(|known| !known.is_open()) {
                return self.check_announcements();
            }
        }
        let open: Vec<_> = self.messages.iter().filter(|known| known.is_open()).collect();
        panic!("messages that never end: {open:?}");
    }

    /// Retention takes everything; the queue is as it was at first.
    pub fn end(&mut self) {
        self.pass(Duration::from_secs(3600));
        for instance in 0..2 {
            self.lease(instance, 1);
        }
        self.upkeep_with(self.now, self.now);
        self.audit();
        self.check_only_counters_are_left();
        for instance in 0..2 {
            self.purge(instance);
        }
        self.check_only_the_node_is_left();
    }
}
