//! The records of the queue: jobs, attempts in flight, ledger entries and counters.

use serde::{Deserialize, Serialize};

use relevo_domain::{
    AmbiguousPolicy, BuryReason, Class, Failure, InstanceNumber, MessageId, Mode, OutboundMessage,
    ProviderMessageId, Recipient, Status, Timestamp,
};
use relevo_store::{self as store, Error, Key, Tx};

use super::keys;

/// A job: everything that is needed to send the message. Written once, deleted when the message is settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    #[serde(rename = "m")]
    pub message: OutboundMessage,
    #[serde(rename = "o")]
    pub mode: Mode,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(rename = "u", default = "hold", skip_serializing_if = "is_hold")]
    pub on_ambiguous: AmbiguousPolicy,
    /// Whether WhatsApp recognises it when it is sent again.
    #[serde(rename = "r", default, skip_serializing_if = "std::ops::Not::not")]
    pub repeatable: bool,
    /// Whether its sender set a time: then it is not an arrival, whatever its id.
    #[serde(rename = "z", default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
    /// The idempotency key, so that a failure can delete its record.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<[u8; 16]>,
}

impl Job {
    pub fn read(tx: &Tx, id: MessageId) -> Result<Option<Self>, Error> {
        let bytes = tx.get(&keys::job(id))?;
        bytes.map(|bytes| store::decode(&bytes)).transpose()
    }

    pub fn write(&self, tx: &mut Tx, key: Key) -> Result<(), Error> {
        tx.put(key, store::encode(self)?)
    }

    pub fn lane(&self, id: MessageId) -> keys::LaneKey {
        keys::LaneKey::new(id, self.message.to.lane())
    }
}

/// One attempt that is under way, or held because its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InFlight {
    pub id: MessageId,
    /// Number of the attempt, from 1, including uncounted ones.
    pub attempt: u32,
    /// Failed attempts before this one that count towards the limit.
    pub failures: u32,
    pub at: Timestamp,
    /// Its position in its lane, lower than that of every waiting job.
    pub order: u64,
    /// Whether the job also has a waiting entry in its lane; an arrival has none.
    pub waits: bool,
    /// End of the hold, if the outcome is unknown.
    pub held_until: Option<Timestamp>,
    /// The run of the process that granted the lease.
    pub run: u64,
}

impl InFlight {
    pub fn read(tx: &Tx, lane: keys::LaneKey) -> Result<Option<Self>, Error> {
        tx.get(&lane.in_flight())?.map(|bytes| store::decode(&bytes)).transpose()
    }

    pub fn write(&self, tx: &mut Tx, lane: keys::LaneKey) -> Result<(), Error> {
        tx.put(lane.in_flight(), store::encode(self)?)
    }
}

/// The status and history of a message. Written when the status first changes; until then the job implies it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LedgerEntry {
    #[serde(rename = "t")]
    pub to: Recipient,
    /// `text`, `image`, …
    #[serde(rename = "k")]
    pub kind: String,
    #[serde(rename = "o")]
    pub mode: Mode,
    #[serde(rename = "s")]
    pub status: Status,
    /// Number of attempts, including uncounted ones.
    #[serde(rename = "a")]
    pub attempts: u32,
    /// Failed attempts that count towards the limit.
    #[serde(rename = "f", default)]
    pub failures: u32,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<ProviderMessageId>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub buried: Option<BuryReason>,
    /// When the node will continue with it.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    #[serde(rename = "h")]
    pub history: Vec<LedgerStep>,
    /// Number of steps removed from the middle of the history to limit its size.
    #[serde(rename = "l", default, skip_serializing_if = "is_zero")]
    pub elided: u32,
}

/// One status change of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerStep {
    /// The new status.
    #[serde(rename = "s")]
    pub status: Status,
    /// When it changed.
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// The provider's error code, if any.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// The error text, if any.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

fn hold() -> AmbiguousPolicy {
    AmbiguousPolicy::Hold
}

fn is_hold(policy: &AmbiguousPolicy) -> bool {
    *policy == AmbiguousPolicy::Hold
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Maximum length of a step's text in characters; providers' texts are usually shorter.
const MAX_STEP_TEXT: usize = 240;

/// Maximum size of a ledger entry in bytes, so that it always fits into one value of the store.
const MAX_LEDGER_ENTRY: usize = 3500;

impl LedgerStep {
    /// A step without an error.
    pub fn new(status: Status, at: Timestamp) -> Self {
        Self { status, at, code: None, text: None }
    }

    pub(super) fn from_failure(status: Status, at: Timestamp, failure: &Failure) -> Self {
        Self { status, at, code: failure.code, text: Some(shorten(&failure.message)) }
    }
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(MAX_STEP_TEXT).collect()
}

impl LedgerEntry {
    /// The entry of a message that is queued and was not attempted.
    pub fn new(job: &Job) -> Self {
        Self {
            to: job.message.to.clone(),
            kind: job.message.content.kind().to_owned(),
            mode: job.mode,
            status: Status::Queued,
            attempts: 0,
            failures: 0,
            provider_id: None,
            failure: None,
            buried: None,
            due: None,
            history: Vec::new(),
            elided: 0,
        }
    }

    pub fn read(tx: &Tx, id: MessageId) -> Result<Option<Self>, Error> {
        tx.get(&keys::ledger(id))?.map(|bytes| store::decode(&bytes)).transpose()
    }

    /// Writes the entry. Removes steps from the middle of a history that is too long for one value.
    pub fn write(&mut self, tx: &mut Tx, id: MessageId) -> Result<(), Error> {
        if let Some(failure) = &mut self.failure {
            failure.message = shorten(&failure.message);
        }
        let mut bytes = store::encode(self)?;
        while bytes.len() > MAX_LEDGER_ENTRY && self.history.len() > 2 {
            self.history.remove(1);
            self.elided += 1;
            bytes = store::encode(self)?;
        }
        tx.put(keys::ledger(id), bytes)
    }

    /// Changes the status if the transition table allows it; returns whether it did.
    ///
    /// WhatsApp reports whole seconds of a different clock. The time of a step is never before that of the previous one.
    pub fn advance(&mut self, mut step: LedgerStep) -> bool {
        let allowed = self.status.may_become(step.status);
        if allowed {
            step.at = self.history.last().map_or(step.at, |last| step.at.max(last.at));
            self.status = step.status;
            self.history.push(step);
        }
        allowed
    }

    /// Changes the status back to queued, so that the next step starts from there.
    pub fn requeue(&mut self, at: Timestamp) {
        if self.status != Status::Queued {
            self.advance(LedgerStep::new(Status::Queued, at));
        }
    }

    /// Records the beginning of an attempt.
    pub fn record_attempt(&mut self, flight: &InFlight) {
        self.attempts = flight.attempt;
        self.due = None;
        self.advance(LedgerStep::new(Status::Sending, flight.at));
    }
}

/// The counters of one instance's queue.
///
/// Every change of the queue rewrites them, so they have a fixed binary encoding.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct QueueCounters {
    /// Unsettled jobs, by class.
    pub depth: [u64; 2],
    /// Jobs waiting in lanes, by class; at 0 no lane needs to be read.
    pub waiting: [u64; 2],
    /// The last arrival that the cursor read, by class.
    pub cursor: [Option<MessageId>; 2],
    /// Last position that was assigned to a job in a lane.
    pub order: u64,
    /// Number of granted leases, for weighting the classes.
    pub turn: u64,
}

pub(super) fn class_index(class: Class) -> usize {
    match class {
        Class::Transactional => 0,
        Class::Bulk => 1,
    }
}

#[expect(clippy::indexing_slicing, reason = "class_index() is 0 or 1, and the arrays have two elements")]
impl QueueCounters {
    pub fn read(tx: &Tx, instance: InstanceNumber) -> Result<Self, Error> {
        let bytes = tx.get(&keys::counters(instance))?;
        bytes.map_or(Ok(Self::default()), |bytes| Self::decode(&bytes))
    }

    pub fn write(&self, tx: &mut Tx, instance: InstanceNumber) -> Result<(), Error> {
        tx.put(keys::counters(instance), self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = [&self.depth[..], &self.waiting[..], &[self.order, self.turn]].concat();
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_be_bytes).collect();
        // No message has an id of sixteen zeros.
        let ids = self.cursor.iter().map(|cursor| cursor.map_or([0; 16], |id| *id.as_bytes()));
        ids.for_each(|id| bytes.extend_from_slice(&id));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let truncated = || Error::Codec("the record of a queue's counters is truncated".into());
        let (numbers, ids) = bytes.split_at_checked(6 * 8).ok_or_else(truncated)?;
        let numbers: Vec<u64> =
            numbers.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        let (ids, []) = ids.as_chunks::<16>() else { return Err(truncated()) };
        let [depth_0, depth_1, waiting_0, waiting_1, order, turn] = numbers[..] else {
            return Err(truncated());
        };
        let [cursor_0, cursor_1] = ids[..] else { return Err(truncated()) };
        let cursor = |id: [u8; 16]| (id != [0; 16]).then(|| MessageId::from_bytes(id));
        Ok(Self {
            depth: [depth_0, depth_1],
            waiting: [waiting_0, waiting_1],
            cursor: [cursor(cursor_0), cursor(cursor_1)],
            order,
            turn,
        })
    }

    pub fn depth(&mut self, class: Class) -> &mut u64 {
        &mut self.depth[class_index(class)]
    }

    pub fn waiting(&mut self, class: Class) -> &mut u64 {
        &mut self.waiting[class_index(class)]
    }

    pub fn cursor(&mut self, class: Class) -> &mut Option<MessageId> {
        &mut self.cursor[class_index(class)]
    }

    /// Whether the cursor has passed an arrival, which is then in a lane, in flight, or due later.
    pub fn has_read_arrival(&self, id: MessageId) -> bool {
        self.cursor[class_index(id.class())].is_some_and(|cursor| id <= cursor)
    }
}

/// Appends a job to its lane. A lane that was empty gets a wake-up at `due`.
pub(super) fn append_to_lane(
    tx: &mut Tx,
    counters: &mut QueueCounters,
    lane: keys::LaneKey,
    id: MessageId,
    due: Timestamp,
) -> Result<(), Error> {
    let is_busy = is_lane_busy(tx, counters, lane)?;
    counters.order += 1;
    *counters.waiting(lane.class) += 1;
    tx.put(lane.waiting_at(counters.order), keys::waiting_value(id, None))?;
    if !is_busy {
        tx.put(lane.wake(due), keys::set_at_value(due))?;
    }
    Ok(())
}

/// Whether a job of the lane is in flight or waiting.
pub(super) fn is_lane_busy(
    tx: &Tx,
    counters: &mut QueueCounters,
    lane: keys::LaneKey,
) -> Result<bool, Error> {
    if tx.get(&lane.in_flight())?.is_some() {
        return Ok(true);
    }
    Ok(*counters.waiting(lane.class) > 0 && lane_head(tx, lane)?.is_some())
}

/// The job at the head of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneHead {
    pub order: u64,
    pub id: MessageId,
    /// Before this moment no attempt may begin, because an earlier one failed; the whole lane waits.
    pub not_before: Option<Timestamp>,
}

/// The first job waiting in a lane.
pub(super) fn lane_head(tx: &Tx, lane: keys::LaneKey) -> Result<Option<LaneHead>, Error> {
    let first = tx.first(&lane.waiting(), &lane.waiting().after_prefix())?;
    Ok(first.and_then(|(key, value)| {
        let (id, not_before) = keys::parse_waiting(&value)?;
        Some(LaneHead { order: keys::trailing_order(&key)?, id, not_before })
    }))
}
