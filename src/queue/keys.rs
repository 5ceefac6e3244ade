//! The keys of all records of the queue.

use sha2::{Digest, Sha256};

use relevo_domain::{BulkItem, Class, InstanceNumber, LaneId, MessageId, ProviderMessageId, Timestamp};
use relevo_store::{Key, Space};

/// The identity of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneKey {
    pub instance: InstanceNumber,
    pub class: Class,
    pub lane: LaneId,
}

fn class_byte(class: Class) -> u8 {
    match class {
        Class::Transactional => 0,
        Class::Bulk => 1,
    }
}

fn class_prefix(space: Space, instance: InstanceNumber, class: Class) -> Key {
    Key::new(space).u32(instance.get()).u8(class_byte(class))
}

/// The job of a message.
pub(super) fn job(id: MessageId) -> Key {
    class_prefix(Space::Job, id.instance(), id.class()).bytes(id.as_bytes())
}

/// All jobs of an instance and class.
pub(super) fn jobs(instance: InstanceNumber, class: Class) -> Key {
    class_prefix(Space::Job, instance, class)
}

/// The ledger entry of a message.
pub(super) fn ledger(id: MessageId) -> Key {
    Key::new(Space::Ledger).bytes(id.as_bytes())
}

/// All dead letters of an instance.
pub(super) fn dead_letters(instance: InstanceNumber) -> Key {
    Key::new(Space::DeadLetter).u32(instance.get())
}

/// All waiting entries of an instance and class.
pub(super) fn waiting_jobs(instance: InstanceNumber, class: Class) -> Key {
    class_prefix(Space::Lane, instance, class)
}

/// The content of a dead letter.
pub(super) fn dead_letter(id: MessageId) -> Key {
    Key::new(Space::DeadLetter).u32(id.instance().get()).bytes(id.as_bytes())
}

impl LaneKey {
    /// The lane of a message.
    pub fn new(id: MessageId, lane: LaneId) -> Self {
        Self { instance: id.instance(), class: id.class(), lane }
    }

    /// All waiting entries of the lane.
    pub fn waiting(self) -> Key {
        class_prefix(Space::Lane, self.instance, self.class).u64(self.lane.0)
    }

    /// One waiting entry.
    pub fn waiting_at(self, order: u64) -> Key {
        self.waiting().u64(order)
    }

    /// A wake-up of the lane.
    pub fn wake(self, due: Timestamp) -> Key {
        wakes_until(self.instance, self.class, due).u64(self.lane.0)
    }

    /// The attempt in flight of the lane.
    pub fn in_flight(self) -> Key {
        class_prefix(Space::InFlight, self.instance, self.class).u64(self.lane.0)
    }
}

/// All wake-ups of an instance and class.
pub(super) fn wakes(instance: InstanceNumber, class: Class) -> Key {
    class_prefix(Space::Wake, instance, class)
}

/// The first wake-up at `due` or later.
pub(super) fn wakes_until(instance: InstanceNumber, class: Class, due: Timestamp) -> Key {
    wakes(instance, class).u64(due.millis())
}

/// The due time and lane of a wake-up's key.
pub(super) fn parse_wake(key: &[u8]) -> Option<(Timestamp, LaneId)> {
    let due = u64::from_be_bytes(*key.get(6..)?.first_chunk::<8>()?);
    let lane = u64::from_be_bytes(*key.get(14..)?.first_chunk::<8>()?);
    Some((Timestamp(due), LaneId(lane)))
}

/// The lane of a wake-up's key.
pub(super) fn lane_of_wake(key: &[u8]) -> Option<LaneKey> {
    let instance = InstanceNumber::from_be_bytes(*key.get(1..)?.first_chunk::<4>()?)?;
    let class = Class::ALL.into_iter().find(|class| key.get(5) == Some(&class_byte(*class)))?;
    let (_, lane) = parse_wake(key)?;
    Some(LaneKey { instance, class, lane })
}

/// The value of a wake-up: when it was written. See `due_times.rs`.
pub(super) fn set_at_value(now: Timestamp) -> Vec<u8> {
    now.millis().to_be_bytes().to_vec()
}

/// Parses the result of [`set_at_value`]; `None` for records of earlier binaries, which wrote nothing.
pub(super) fn parse_set_at(value: &[u8]) -> Option<Timestamp> {
    value.first_chunk::<8>().map(|bytes| Timestamp(u64::from_be_bytes(*bytes)))
}

/// All attempts in flight of the node, or of one instance.
pub(super) fn all_in_flight(instance: Option<InstanceNumber>) -> Key {
    let all = Key::new(Space::InFlight);
    instance.map_or(all.clone(), |instance| all.u32(instance.get()))
}

/// All due entries of an instance.
pub(super) fn all_due(instance: InstanceNumber) -> Key {
    Key::new(Space::Due).u32(instance.get())
}

/// A due entry: a message outside its lane until this time.
pub(super) fn due(id: MessageId, at: Timestamp) -> Key {
    all_due(id.instance()).u64(at.millis()).bytes(id.as_bytes())
}

/// The first due entry after `now`.
pub(super) fn due_after(instance: InstanceNumber, now: Timestamp) -> Key {
    all_due(instance).u64(now.millis() + 1)
}

/// The time and message of a due entry's key.
pub(super) fn parse_due(key: &[u8]) -> Option<(Timestamp, MessageId)> {
    let at = u64::from_be_bytes(*key.get(5..)?.first_chunk::<8>()?);
    let id = *key.get(13..)?.first_chunk::<16>()?;
    Some((Timestamp(at), MessageId::from_bytes(id)))
}

/// The index by WhatsApp's id. The id is hashed, because it is long and only looked up as a whole.
pub(super) fn provider_id(instance: InstanceNumber, id: &ProviderMessageId) -> Key {
    let digest: [u8; 32] = Sha256::digest(id.as_str()).into();
    let short = digest.first_chunk::<12>().copied().unwrap_or_default();
    Key::new(Space::ProviderId).u32(instance.get()).bytes(&short)
}

/// The counters of an instance's queue.
pub(super) fn counters(instance: InstanceNumber) -> Key {
    Key::new(Space::QueueCounters).u32(instance.get())
}

/// The record of an idempotency key.
pub(super) fn idempotency(instance: InstanceNumber, key: &[u8; 16]) -> Key {
    Key::new(Space::Idempotency).u32(instance.get()).bytes(key)
}

/// The expiry entry of an idempotency key, sorted by time.
pub(super) fn idempotency_expiry(at: Timestamp, instance: InstanceNumber, key: &[u8; 16]) -> Key {
    Key::new(Space::IdempotencyExpiry).u64(at.millis()).u32(instance.get()).bytes(key)
}

/// The slot of a bulk job, with its first message id. The outcomes of its rows follow it, in row order.
pub(super) fn job_slot(job: u16) -> Key {
    Key::new(Space::ItemOutcome).bytes(&job.to_be_bytes())
}

/// Whether a key is that of a slot, not of an outcome.
pub(super) fn is_job_slot(key: &[u8]) -> bool {
    key.len() == job_slot(0).as_slice().len()
}

/// The outcome of a row.
pub(super) fn outcome(item: BulkItem) -> Key {
    job_slot(item.job).u32(item.row)
}

/// The high-water mark of message ids.
pub(super) fn last_id() -> Key {
    Key::new(Space::NodeCounters).u8(b'i')
}

/// The time that the node recorded last.
pub(super) fn recorded_time() -> Key {
    Key::new(Space::NodeCounters).u8(b't')
}

/// The message id at the end of a job's or ledger entry's key.
pub(super) fn trailing_id(key: &[u8]) -> Option<MessageId> {
    key.last_chunk::<16>().map(|bytes| MessageId::from_bytes(*bytes))
}

/// The value of a waiting entry: the message id and, after a failed attempt, when the next one may begin.
pub(super) fn waiting_value(id: MessageId, not_before: Option<Timestamp>) -> Vec<u8> {
    let mut value = id.as_bytes().to_vec();
    if let Some(moment) = not_before {
        value.extend_from_slice(&moment.millis().to_be_bytes());
    }
    value
}

/// Parses the result of [`waiting_value`].
pub(super) fn parse_waiting(value: &[u8]) -> Option<(MessageId, Option<Timestamp>)> {
    let not_before = value.get(16..).and_then(|bytes| bytes.first_chunk::<8>());
    Some((message_id(value)?, not_before.map(|bytes| Timestamp(u64::from_be_bytes(*bytes)))))
}

/// The position in the lane of a waiting entry's key.
pub(super) fn trailing_order(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The message id at the start of a value.
pub(super) fn message_id(value: &[u8]) -> Option<MessageId> {
    value.first_chunk::<16>().map(|bytes| MessageId::from_bytes(*bytes))
}
