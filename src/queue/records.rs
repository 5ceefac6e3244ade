//! What the queue writes down, and how it reads it back.

use serde::{Deserialize, Serialize};

use relevo_domain::{
    AmbiguousPolicy, BuryReason, Class, Failure, InstanceNumber, MessageId, Mode, OutboundMessage,
    ProviderMessageId, Recipient, Status, Timestamp,
};
use relevo_store::{self as store, Error, Key, Tx};

use super::{bulk_rows, keys};

/// A job: everything that sending the message takes. Written once, deleted when the message is settled.
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
    /// WhatsApp recognises it when it is sent again.
    #[serde(rename = "r", default, skip_serializing_if = "std::ops::Not::not")]
    pub repeatable: bool,
    /// Its sender chose its moment: it is no arrival, whatever its id.
    #[serde(rename = "z", default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
    /// So that a refusal can free the key again.
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

/// One attempt under way, or held because its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InFlight {
    pub id: MessageId,
    /// Counts every try of the message from 1.
    pub attempt: u32,
    pub failures: u32,
    pub at: Timestamp,
    /// Its place in its lane: everything that waits there has a higher one.
    pub order: u64,
    /// Whether the job also lies among the waiting of its lane; an arrival does not.
    pub waits: bool,
    /// Until when an unknown outcome holds the lane.
    pub held_until: Option<Timestamp>,
    /// Which run of the process handed it out.
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

/// Where a message stands. Written when it first leaves the plain queue; until then its job says it all.
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
    /// Tries so far, and those of them that count against the policy.
    #[serde(rename = "a")]
    pub attempts: u32,
    #[serde(rename = "f", default)]
    pub failures: u32,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<ProviderMessageId>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub buried: Option<BuryReason>,
    /// When it goes on by itself.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    #[serde(rename = "h")]
    pub history: Vec<LedgerStep>,
    /// Steps that were left out of the middle of the history to keep the row small.
    #[serde(rename = "l", default, skip_serializing_if = "is_zero")]
    pub elided: u32,
}

/// One step of a message's fate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerStep {
    #[serde(rename = "s")]
    pub status: Status,
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// The provider's code, where it gave one.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// What was said about it.
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

/// The longest text of a step, in characters; providers' own words are shorter.
const MAX_STEP_TEXT: usize = 240;

/// A row is kept below this many bytes, so that it always fits one value.
const MAX_LEDGER_ENTRY: usize = 3500;

impl LedgerStep {
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
    /// The row of a message that was only queued so far.
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

    /// Writes down where the message stands: in the ledger, or once it is settled and a row of a bulk job, for the
    /// job to note.
    pub fn persist(&mut self, tx: &mut Tx, id: MessageId) -> Result<(), Error> {
        match id.item() {
            None => self.write(tx, id),
            Some(item) => bulk_rows::persist(tx, item, id, self),
        }
    }

    /// Writes the row, leaving out steps from the middle of a very long history.
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

    /// Moves to `status` if the table of transitions allows it.
    ///
    /// WhatsApp tells time in whole seconds and by its own clock; a step never shows before the one it follows.
    pub fn advance(&mut self, mut step: LedgerStep) -> bool {
        let allowed = self.status.may_become(step.status);
        if allowed {
            step.at = self.history.last().map_or(step.at, |last| step.at.max(last.at));
            self.status = step.status;
            self.history.push(step);
        }
        allowed
    }

    /// Goes back into the queue, wherever it is, and says so in its history: what follows is a step from there.
    pub fn requeue(&mut self, at: Timestamp) {
        if self.status != Status::Queued {
            self.advance(LedgerStep::new(Status::Queued, at));
        }
    }

    /// Notes an attempt that began, then what it ended in.
    pub fn record_attempt(&mut self, flight: &InFlight) {
        self.attempts = flight.attempt;
        self.due = None;
        self.advance(LedgerStep::new(Status::Sending, flight.at));
    }
}

/// The counters of one instance's queue.
///
/// Rewritten with every change of the queue, so it is written by hand, at a fixed size.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct QueueCounters {
    /// Jobs not yet settled.
    pub depth: [u64; 2],
    /// Jobs waiting in lanes; none, and no lane needs to be looked into.
    pub waiting: [u64; 2],
    /// The last arrival that was read, by class.
    pub cursor: [Option<MessageId>; 2],
    /// Orders handed out to waiting jobs.
    pub order: u64,
    /// Leases handed out, for weighing the classes.
    pub turn: u64,
}

pub(super) fn class_index(class: Class) -> usize {
    match class {
        Class::Transactional => 0,
        Class::Bulk => 1,
    }
}

#[expect(clippy::indexing_slicing, reason = "index() is 0 or 1 and the arrays have two places")]
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
        // No message has the id of sixteen zeros.
        let ids = self.cursor.iter().map(|cursor| cursor.map_or([0; 16], |id| *id.as_bytes()));
        ids.for_each(|id| bytes.extend_from_slice(&id));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (numbers, ids) =
            bytes.split_at_checked(6 * 8).ok_or_else(|| Error::Codec("a book is cut short".into()))?;
        let numbers: Vec<u64> =
            numbers.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        let (ids, []) = ids.as_chunks::<16>() else { return Err(Error::Codec("a book is cut short".into())) };
        let [depth_0, depth_1, waiting_0, waiting_1, order, turn] = numbers[..] else {
            return Err(Error::Codec("a book is cut short".into()));
        };
        let [cursor_0, cursor_1] = ids[..] else { return Err(Error::Codec("a book is cut short".into())) };
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

    /// Whether an arrival was already read, and so lies in a lane, in flight, or among the due.
    pub fn has_read_arrival(&self, id: MessageId) -> bool {
        self.cursor[class_index(id.class())].is_some_and(|cursor| id <= cursor)
    }
}

/// Puts a job at the end of its lane; a lane that had nothing waiting and nothing in flight may go on at `due`.
pub(super) fn append_to_lane(
    tx: &mut Tx,
    book: &mut QueueCounters,
    lane: keys::LaneKey,
    id: MessageId,
    due: Timestamp,
) -> Result<(), Error> {
    let blocked = is_lane_busy(tx, book, lane)?;
    book.order += 1;
    *book.waiting(lane.class) += 1;
    tx.put(lane.waiting_at(book.order), keys::waiting_value(id, None))?;
    if !blocked {
        tx.put(lane.wake(due), Vec::new())?;
    }
    Ok(())
}

/// Whether something of the lane is in flight or waiting.
pub(super) fn is_lane_busy(tx: &Tx, book: &mut QueueCounters, lane: keys::LaneKey) -> Result<bool, Error> {
    if tx.get(&lane.in_flight())?.is_some() {
        return Ok(true);
    }
    Ok(*book.waiting(lane.class) > 0 && lane_head(tx, lane)?.is_some())
}

/// A job at the head of its lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneHead {
    pub order: u64,
    pub id: MessageId,
    /// A job that was tried before may have to wait, and its lane with it.
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
