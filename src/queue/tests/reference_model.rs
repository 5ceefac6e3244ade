//! The model: the expected state of the queue in plain structures. Each operation is applied to both.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::sample::Index;

use crate::queue::accept::{EnqueueContext, EnqueueRefusal};
use crate::queue::tests::model_bulk_rows::{JobSlot, SLOTS};
use crate::queue::{Acceptance, IdempotencyKey, Lease, Submission, accept, dispatch};
use relevo_domain::{
    AmbiguousPolicy, Class, Content, InstanceNumber, MessageId, MessageOptions, Mode, OutboundMessage,
    ProviderMessageId, Status, Timestamp,
};
use relevo_store::TestStore;

/// How long an idempotency key is remembered.
pub const KEY_TTL: Duration = Duration::from_secs(40);
/// Maximum number of open messages of an instance.
pub const CAPACITY: u64 = 12;

/// The random parameters of a submission.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    pub instance: usize,
    pub to: usize,
    pub bulk: bool,
    pub sync: bool,
    pub resend: bool,
    pub large: bool,
    /// An idempotency key and the digest of the request.
    pub key: Option<(u8, u8)>,
    /// Milliseconds until it expires.
    pub ttl: Option<u64>,
    /// Milliseconds until it may be sent.
    pub delay: Option<u64>,
}

/// The place of a message in the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelState {
    Waiting,
    InFlight {
        attempt: u32,
        at: Timestamp,
        run: u64,
        held_until: Option<Timestamp>,
    },
    /// Scheduled or deferred until this time, outside its lane.
    Deferred(Timestamp),
    Settled,
}

/// A message in the model.
#[derive(Debug)]
pub struct ModelMessage {
    pub id: MessageId,
    pub instance: usize,
    pub lane: (usize, Class, usize),
    pub mode: Mode,
    pub expires_at: Option<Timestamp>,
    key: Option<u8>,
    /// Its position in its lane.
    pub lane_order: u64,
    /// Whether it left its lane and returned.
    pub rejoined: bool,
    pub not_before: Timestamp,
    pub state: ModelState,
    /// The expected status in its ledger entry.
    pub status: Status,
    /// Its status changes.
    pub steps: Vec<Status>,
    pub attempts: u32,
    pub failures: u32,
    pub provider_id: Option<ProviderMessageId>,
    /// Number of events about its outcome.
    pub acks: usize,
    /// Whether its sender set a time.
    pub scheduled: bool,
    /// Time of the last step in its ledger entry.
    pub last_step_at: Timestamp,
    /// Whether the dead letter was discarded.
    pub discarded: bool,
    /// Whether retention deleted its ledger entry.
    pub entry_deleted: bool,
}

impl ModelMessage {
    /// Counts an event about its outcome, unless it is a row of a bulk job.
    pub fn count_ack(&mut self) {
        self.acks += usize::from(self.id.item().is_none());
    }

    pub fn is_open(&self) -> bool {
        self.state != ModelState::Settled
    }

    pub fn is_in_flight(&self) -> bool {
        matches!(self.state, ModelState::InFlight { .. })
    }

    pub fn step(&mut self, status: Status, now: Timestamp) {
        if status != self.status {
            // The time of a step never decreases, also when the clock steps back.
            (self.status, self.last_step_at) = (status, self.last_step_at.max(now));
            self.steps.push(status);
        }
    }

    /// Records the beginning of an attempt that ends now.
    pub fn record_attempt(&mut self, attempt: u32, now: Timestamp) {
        self.attempts = attempt;
        if let ModelState::InFlight { at, .. } = self.state {
            self.last_step_at = self.last_step_at.max(at);
        }
        if self.status == Status::Queued {
            self.step(Status::Sending, now);
        }
    }

    pub fn requeue(&mut self, not_before: Timestamp, now: Timestamp) {
        (self.state, self.not_before) = (ModelState::Waiting, not_before);
        self.step(Status::Queued, now);
    }

    pub fn settle(&mut self, status: Status, now: Timestamp) {
        self.state = ModelState::Settled;
        self.step(status, now);
    }
}

/// The queue in the store and its model.
pub struct QueueModel<'a> {
    pub store: &'a TestStore,
    pub now: Timestamp,
    /// The latest time so far; the clock may step back.
    pub latest: Timestamp,
    pub run: u64,
    last_order: u64,
    pub messages: Vec<ModelMessage>,
    /// All granted leases.
    pub leases: Vec<Lease>,
    /// By instance and idempotency key: the message, the digest of the request, and the expiry.
    pub keys: BTreeMap<(usize, u8), (MessageId, u8, Timestamp)>,
    pub purged: [bool; 2],
    pub slots: [JobSlot; SLOTS as usize],
}

pub fn number(instance: usize) -> InstanceNumber {
    let second = InstanceNumber::FIRST.next().unwrap();
    [InstanceNumber::FIRST, second][instance]
}

impl<'a> QueueModel<'a> {
    pub fn new(store: &'a TestStore) -> Self {
        let now = Timestamp(1_763_800_000_000);
        Self {
            store,
            now,
            latest: now,
            run: 1,
            last_order: 0,
            messages: Vec::new(),
            leases: Vec::new(),
            keys: BTreeMap::new(),
            purged: [false; 2],
            slots: Default::default(),
        }
    }

    pub fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }

    pub fn index_of(&self, id: MessageId) -> usize {
        self.messages.iter().position(|known| known.id == id).unwrap()
    }

    pub fn pick(&self, index: Index) -> Option<usize> {
        (!self.messages.is_empty()).then(|| index.index(self.messages.len()))
    }

    pub fn open(&self, instance: usize) -> impl Iterator<Item = &ModelMessage> {
        self.messages.iter().filter(move |known| known.instance == instance && known.is_open())
    }

    pub fn submission(&self, request: &ModelRequest) -> Submission {
        let &ModelRequest { instance, to, bulk, sync, resend, large, key, ttl, delay } = request;
        let body = "x".repeat(if large { 9_000 } else { 10 });
        Submission {
            instance: number(instance),
            message: OutboundMessage {
                to: format!("5730000000{to}").parse().unwrap(),
                content: Content::Text { body, preview_url: false },
                quote: None,
                options: MessageOptions::default(),
            },
            class: if bulk { Class::Bulk } else { Class::Transactional },
            mode: if sync { Mode::Sync } else { Mode::Async },
            idempotency: key.map(|(key, body)| IdempotencyKey { key: [key; 16], body: [body; 16] }),
            expires_at: ttl.map(|millis| self.now + Duration::from_millis(millis)),
            send_at: delay.map(|millis| self.now + Duration::from_millis(millis)),
            on_ambiguous: if resend { AmbiguousPolicy::Resend } else { AmbiguousPolicy::Hold },
            repeatable: false,
            item: None,
        }
    }

    pub fn accept(&mut self, request: ModelRequest) {
        let (instance, key) = (request.instance, request.key);
        if self.purged[instance] {
            return;
        }
        let submission = self.submission(&request);
        let key_expires = self.now + KEY_TTL;
        let context = EnqueueContext {
            now: self.now,
            capacity: CAPACITY,
            idempotency_expires: key_expires,
            random: self.last_order.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        };
        let accepted = self.store.write(|tx| accept::accept(tx, submission.clone(), context)).unwrap();
        let known = key.and_then(|(key, body)| Some((self.keys.get(&(instance, key))?, body)));
        match known {
            Some((&(id, stored, expires), body)) if expires > self.now => {
                let expected = if stored == body {
                    Ok(Acceptance::Duplicate(id))
                } else {
                    Err(EnqueueRefusal::KeyReused)
                };
                assert_eq!(accepted, expected);
                return;
            }
            _ if self.open(instance).count() as u64 >= CAPACITY => {
                assert_eq!(accepted, Err(EnqueueRefusal::Full));
                return;
            }
            _ => {}
        }
        let Ok(Acceptance::New(id)) = accepted else { panic!("{accepted:?}") };
        if let Some((key, body)) = key {
            self.keys.insert((instance, key), (id, body, key_expires));
        }
        self.record_accepted(id, &request, &submission);
    }

    /// Adds an accepted message to the model.
    pub fn record_accepted(&mut self, id: MessageId, request: &ModelRequest, submission: &Submission) {
        let class = submission.class();
        assert!(self.messages.last().is_none_or(|last| last.id < id), "ids do not grow");
        assert_eq!((id.instance(), id.class(), id.item()), (submission.instance, class, submission.item));
        let joined = self.next_order();
        let due = submission.send_at.filter(|&at| at > self.now);
        let status = if due.is_some() { Status::Scheduled } else { Status::Queued };
        self.messages.push(ModelMessage {
            id,
            instance: request.instance,
            lane: (request.instance, class, request.to),
            mode: submission.mode,
            expires_at: submission.expires_at,
            key: request.key.map(|(key, _)| key),
            lane_order: joined,
            rejoined: false,
            not_before: Timestamp(0),
            state: due.map_or(ModelState::Waiting, ModelState::Deferred),
            status,
            steps: due.map(|_| status).into_iter().collect(),
            attempts: 0,
            failures: 0,
            provider_id: None,
            acks: 0,
            scheduled: due.is_some(),
            last_step_at: id.accepted_at(),
            discarded: false,
            entry_deleted: false,
        });
    }

    pub fn free_key(&mut self, message: usize) {
        let known = &self.messages[message];
        if let Some(key) = known.key {
            let (owned_key, id) = ((known.instance, key), known.id);
            if self.keys.get(&owned_key).is_some_and(|&(owner, ..)| owner == id) {
                self.keys.remove(&owned_key);
            }
        }
    }

    pub fn lease(&mut self, instance: usize, max: usize, max_bulk: usize) {
        if self.purged[instance] {
            return;
        }
        self.requeue_due(instance);
        let request = dispatch::LeaseRequest {
            instance: number(instance),
            max,
            max_bulk,
            now: self.now,
            expiry_time: self.now,
            run: self.run,
        };
        let found = self.store.write(|tx| dispatch::lease(tx, request)).unwrap();
        for id in found.expired {
            let message = self.index_of(id);
            let known = &mut self.messages[message];
            assert_eq!(known.state, ModelState::Waiting, "a message expired that was not waiting");
            assert!(known.expires_at.is_some_and(|at| at <= request.now) && known.not_before <= request.now);
            known.settle(Status::Expired, request.now);
            known.count_ack();
            if known.mode == Mode::Sync {
                self.free_key(message);
            }
            self.expect_outcome(message, Status::Expired, None);
        }
        let got = found.batch.leases.len();
        assert!(got <= max);
        let bulk = found.batch.leases.iter().filter(|lease| lease.id.class() == Class::Bulk).count();
        assert!(bulk <= max_bulk);
        let is_bulk_full = bulk == max_bulk && max_bulk < max;
        for lease in found.batch.leases {
            self.check_lease(&lease);
            let message = self.index_of(lease.id);
            let (at, run) = (self.now, self.run);
            self.messages[message].state =
                ModelState::InFlight { attempt: lease.attempt, at, run, held_until: None };
            self.leases.push(lease);
        }
        if got < max && self.now >= self.latest {
            self.check_lease_was_complete(instance, found.batch.next_due, is_bulk_full);
        }
    }

    fn requeue_due(&mut self, instance: usize) {
        let now = self.now;
        let mut due: Vec<(Timestamp, MessageId, usize)> = Vec::new();
        for (index, known) in self.messages.iter().enumerate() {
            if let ModelState::Deferred(at) = known.state
                && known.instance == instance
                && at <= now
            {
                due.push((at, known.id, index));
            }
        }
        due.sort();
        for (.., index) in due {
            let joined = self.next_order();
            let known = &mut self.messages[index];
            known.requeue(Timestamp(0), now);
            (known.lane_order, known.rejoined) = (joined, true);
        }
    }

    /// Checks that a message was leased at the right time and in order.
    fn check_lease(&self, lease: &Lease) {
        let known = &self.messages[self.index_of(lease.id)];
        assert_eq!(known.state, ModelState::Waiting, "{known:?}");
        assert!(known.not_before <= self.now, "leased too early: {known:?}");
        assert!(known.expires_at.is_none_or(|at| at > self.now), "leased after its expiry: {known:?}");
        assert_eq!((lease.attempt, lease.failures), (known.attempts + 1, known.failures));
        for other in self.messages.iter().filter(|other| other.lane == known.lane && other.id != known.id) {
            assert!(!other.is_in_flight(), "two leases in one lane: {known:?} and {other:?}");
            // A message that returned to its lane precedes arrivals that the cursor has not read.
            let may_overtake = known.rejoined && !other.rejoined;
            let overtaken =
                other.state == ModelState::Waiting && other.lane_order < known.lane_order && !may_overtake;
            assert!(!overtaken, "{known:?} overtook {other:?}");
        }
    }

    /// Checks that a request that got fewer leases than its maximum got all that were possible, and that the next due time
    /// is right. `is_bulk_full`: the maximum number of bulk messages was reached.
    fn check_lease_was_complete(&self, instance: usize, next_due: Option<Timestamp>, is_bulk_full: bool) {
        let mut soonest: Option<Timestamp> = None;
        let mut lanes: BTreeMap<_, Vec<&ModelMessage>> = BTreeMap::new();
        for known in self.open(instance) {
            match known.state {
                ModelState::Deferred(due) => soonest = Some(soonest.map_or(due, |soonest| soonest.min(due))),
                _ if is_bulk_full && known.id.class() == Class::Bulk => {}
                _ => lanes.entry(known.lane).or_default().push(known),
            }
        }
        for lane in lanes.values().filter(|lane| !lane.iter().any(|known| known.is_in_flight())) {
            let until = lane.iter().map(|known| known.not_before).max().unwrap();
            assert!(until > self.now, "a free lane was not leased: {lane:?}");
            soonest = Some(soonest.map_or(until, |soonest| soonest.min(until)));
        }
        assert_eq!(next_due, soonest, "next due time");
    }

    /// Advances time and sends everything until every message is settled.
    pub fn drain(&mut self) {
        for _ in 0..100 {
            self.now = self.latest;
            self.advance_time(Duration::from_secs(600));
            self.sweep();
            for instance in 0..2 {
                let before = self.leases.len();
                self.lease(instance, 50, 50);
                for lease in self.leases.split_off(before) {
                    self.mark_lease_sent(&lease);
                }
            }
            self.audit();
            if self.messages.iter().all(|known| !known.is_open()) {
                self.check_noted_outcomes();
                return self.check_events();
            }
        }
        let open: Vec<_> = self.messages.iter().filter(|known| known.is_open()).collect();
        panic!("messages that are never settled: {open:?}");
    }

    /// Runs retention on everything, and checks that only counters are left.
    pub fn delete_everything(&mut self) {
        self.advance_time(Duration::from_secs(3600));
        for instance in 0..2 {
            self.lease(instance, 1, 1);
        }
        self.run_retention_with(self.now, self.now);
        (0..SLOTS).for_each(|slot| self.delete_job(slot));
        self.audit();
        self.check_only_counters_are_left();
        for instance in 0..2 {
            self.purge(instance);
        }
        self.check_only_the_node_is_left();
    }
}
