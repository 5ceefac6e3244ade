//! The model: what the queue should know, in plain structures, moved along with the real one.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::sample::Index;

use crate::queue::accept::{Refused, Terms};
use crate::queue::tests::items::{SLOTS, Slot};
use crate::queue::{Accepted, IdempotencyKey, Lease, Submission, accept, dispatch};
use relevo_domain::{
    AmbiguousPolicy, Class, Content, InstanceNumber, Manner, MessageId, Mode, OutboundMessage,
    ProviderMessageId, Status, Timestamp,
};
use relevo_store::Scratch;

pub const KEY_TTL: Duration = Duration::from_secs(40);
pub const CAPACITY: u64 = 12;

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
    /// Milliseconds until it may be sent.
    pub later: Option<u64>,
}

/// Where a message stands in the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Stand {
    Waiting,
    Flying {
        attempt: u32,
        at: Timestamp,
        run: u64,
        held_until: Option<Timestamp>,
    },
    /// Outside its lane, because its sender or WhatsApp said so.
    Deferred(Timestamp),
    Over,
}

/// A message as the model knows it.
#[derive(Debug)]
pub struct Known {
    pub id: MessageId,
    pub instance: usize,
    pub lane: (usize, Class, usize),
    pub mode: Mode,
    pub expires_at: Option<Timestamp>,
    key: Option<u8>,
    /// Its place among those of its lane.
    pub joined: u64,
    /// It left its lane and came back.
    pub rejoined: bool,
    pub not_before: Timestamp,
    pub stand: Stand,
    /// What its ledger row says, and how it came there.
    pub status: Status,
    pub steps: Vec<Status>,
    pub attempts: u32,
    pub failures: u32,
    pub provider_id: Option<ProviderMessageId>,
    /// How often its end was announced.
    pub acks: usize,
    /// Its sender chose its moment.
    pub scheduled: bool,
    /// When its row took its last step.
    pub changed: Timestamp,
    /// A dead letter that nobody wants.
    pub discarded: bool,
    /// Retention took its row.
    pub forgotten: bool,
}

impl Known {
    /// Its end was announced, if it is no row of a bulk job.
    pub fn announced(&mut self) {
        self.acks += usize::from(self.id.item().is_none());
    }

    pub fn is_open(&self) -> bool {
        self.stand != Stand::Over
    }

    pub fn is_flying(&self) -> bool {
        matches!(self.stand, Stand::Flying { .. })
    }

    pub fn step(&mut self, status: Status, now: Timestamp) {
        if status != self.status {
            // A clock that stepped back takes no step back in time.
            (self.status, self.changed) = (status, self.changed.max(now));
            self.steps.push(status);
        }
    }

    /// An attempt is over that was not held before.
    pub fn attempted(&mut self, attempt: u32, now: Timestamp) {
        self.attempts = attempt;
        if let Stand::Flying { at, .. } = self.stand {
            self.changed = self.changed.max(at);
        }
        if self.status == Status::Queued {
            self.step(Status::Sending, now);
        }
    }

    pub fn waits(&mut self, not_before: Timestamp, now: Timestamp) {
        (self.stand, self.not_before) = (Stand::Waiting, not_before);
        self.step(Status::Queued, now);
    }

    pub fn end(&mut self, status: Status, now: Timestamp) {
        self.stand = Stand::Over;
        self.step(status, now);
    }
}

pub struct World<'a> {
    pub scratch: &'a Scratch,
    pub now: Timestamp,
    /// The latest moment there was; the clock may step back.
    pub high: Timestamp,
    pub run: u64,
    stamps: u64,
    pub messages: Vec<Known>,
    /// Every lease ever handed out.
    pub leases: Vec<Lease>,
    /// By instance and key: whose it is, for which body, until when.
    pub keys: BTreeMap<(usize, u8), (MessageId, u8, Timestamp)>,
    pub purged: [bool; 2],
    pub slots: [Slot; SLOTS as usize],
}

pub fn number(instance: usize) -> InstanceNumber {
    let second = InstanceNumber::FIRST.next().unwrap();
    [InstanceNumber::FIRST, second][instance]
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
            slots: Default::default(),
        }
    }

    pub fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    pub fn place(&self, id: MessageId) -> usize {
        self.messages.iter().position(|known| known.id == id).unwrap()
    }

    pub fn picked(&self, index: Index) -> Option<usize> {
        (!self.messages.is_empty()).then(|| index.index(self.messages.len()))
    }

    pub fn open(&self, instance: usize) -> impl Iterator<Item = &Known> {
        self.messages.iter().filter(move |known| known.instance == instance && known.is_open())
    }

    pub fn submission(&self, request: &Request) -> Submission {
        let &Request { instance, to, bulk, sync, resend, large, key, ttl, later } = request;
        let body = "x".repeat(if large { 9_000 } else { 10 });
        Submission {
            instance: number(instance),
            message: OutboundMessage {
                to: format!("5730000000{to}").parse().unwrap(),
                content: Content::Text { body, preview_url: false },
                quote: None,
                manner: Manner::default(),
            },
            class: if bulk { Class::Bulk } else { Class::Transactional },
            mode: if sync { Mode::Sync } else { Mode::Async },
            idempotency: key.map(|(key, body)| IdempotencyKey { key: [key; 16], body: [body; 16] }),
            expires_at: ttl.map(|millis| self.now + Duration::from_millis(millis)),
            send_at: later.map(|millis| self.now + Duration::from_millis(millis)),
            on_ambiguous: if resend { AmbiguousPolicy::Resend } else { AmbiguousPolicy::Hold },
            repeatable: false,
            item: None,
        }
    }

    pub fn accept(&mut self, request: Request) {
        let (instance, key) = (request.instance, request.key);
        if self.purged[instance] {
            return;
        }
        let submission = self.submission(&request);
        let key_expires = self.now + KEY_TTL;
        let terms = Terms {
            now: self.now,
            capacity: CAPACITY,
            idempotency_expires: key_expires,
            random: self.stamps.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        };
        let accepted = self.scratch.write(|tx| accept::accept(tx, submission.clone(), terms)).unwrap();
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
        if let Some((key, body)) = key {
            self.keys.insert((instance, key), (id, body, key_expires));
        }
        self.came(id, &request, &submission);
    }

    /// A message was taken in.
    pub fn came(&mut self, id: MessageId, request: &Request, submission: &Submission) {
        let class = submission.class();
        assert!(self.messages.last().is_none_or(|last| last.id < id), "ids only grow");
        assert_eq!((id.instance(), id.class(), id.item()), (submission.instance, class, submission.item));
        let joined = self.stamp();
        let due = submission.send_at.filter(|&at| at > self.now);
        let status = if due.is_some() { Status::Scheduled } else { Status::Queued };
        self.messages.push(Known {
            id,
            instance: request.instance,
            lane: (request.instance, class, request.to),
            mode: submission.mode,
            expires_at: submission.expires_at,
            key: request.key.map(|(key, _)| key),
            joined,
            rejoined: false,
            not_before: Timestamp(0),
            stand: due.map_or(Stand::Waiting, Stand::Deferred),
            status,
            steps: due.map(|_| status).into_iter().collect(),
            attempts: 0,
            failures: 0,
            provider_id: None,
            acks: 0,
            scheduled: due.is_some(),
            changed: id.accepted_at(),
            discarded: false,
            forgotten: false,
        });
    }

    pub fn free_key(&mut self, message: usize) {
        let known = &self.messages[message];
        if let Some(key) = known.key {
            let (place, id) = ((known.instance, key), known.id);
            if self.keys.get(&place).is_some_and(|&(owner, ..)| owner == id) {
                self.keys.remove(&place);
            }
        }
    }

    pub fn lease(&mut self, instance: usize, max: usize, max_bulk: usize) {
        if self.purged[instance] {
            return;
        }
        self.bring_back_due(instance);
        let request =
            dispatch::Request { instance: number(instance), max, max_bulk, now: self.now, run: self.run };
        let found = self.scratch.write(|tx| dispatch::lease(tx, request)).unwrap();
        for id in found.expired {
            let message = self.place(id);
            let known = &mut self.messages[message];
            assert_eq!(known.stand, Stand::Waiting, "only what waits expires");
            assert!(known.expires_at.is_some_and(|at| at <= request.now) && known.not_before <= request.now);
            known.end(Status::Expired, request.now);
            known.announced();
            if known.mode == Mode::Sync {
                self.free_key(message);
            }
            self.told(message, Status::Expired, None);
        }
        let got = found.leased.leases.len();
        assert!(got <= max);
        let bulk = found.leased.leases.iter().filter(|lease| lease.id.class() == Class::Bulk).count();
        assert!(bulk <= max_bulk);
        let no_room = bulk == max_bulk && max_bulk < max;
        for lease in found.leased.leases {
            self.check_turn(&lease);
            let message = self.place(lease.id);
            let (at, run) = (self.now, self.run);
            self.messages[message].stand =
                Stand::Flying { attempt: lease.attempt, at, run, held_until: None };
            self.leases.push(lease);
        }
        if got < max && self.now >= self.high {
            self.check_nothing_was_left(instance, found.leased.next_due, no_room);
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
            known.waits(Timestamp(0), now);
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
    /// `no_room`: bulk messages were not asked for any more.
    fn check_nothing_was_left(&self, instance: usize, next_due: Option<Timestamp>, no_room: bool) {
        let mut soonest: Option<Timestamp> = None;
        let mut lanes: BTreeMap<_, Vec<&Known>> = BTreeMap::new();
        for known in self.open(instance) {
            match known.stand {
                Stand::Deferred(due) => soonest = Some(soonest.map_or(due, |soonest| soonest.min(due))),
                _ if no_room && known.id.class() == Class::Bulk => {}
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

    /// Time passes, everything is sent: every message comes to an end.
    pub fn drain(&mut self) {
        for _ in 0..100 {
            self.now = self.high;
            self.pass(Duration::from_secs(600));
            self.sweep();
            for instance in 0..2 {
                let before = self.leases.len();
                self.lease(instance, 50, 50);
                for lease in self.leases.split_off(before) {
                    self.sent_lease(&lease);
                }
            }
            self.audit();
            if self.messages.iter().all(|known| !known.is_open()) {
                self.check_beliefs();
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
            self.lease(instance, 1, 1);
        }
        self.upkeep_with(self.now, self.now);
        (0..SLOTS).for_each(|slot| self.forget_job(slot));
        self.audit();
        self.check_only_counters_are_left();
        for instance in 0..2 {
            self.purge(instance);
        }
        self.check_only_the_node_is_left();
    }
}
