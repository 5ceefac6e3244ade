//! Outbound messages: their ids, class, mode and options.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Content, InstanceNumber, Recipient, Timestamp, ValidationError};

/// One message to one recipient, parsed and validated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboundMessage {
    /// The recipient.
    pub to: Recipient,
    /// What it says.
    pub content: Content,
    /// The message that this one quotes.
    #[serde(default)]
    pub quote: Option<ProviderMessageId>,
    /// How it is sent.
    #[serde(default, rename = "manner", skip_serializing_if = "MessageOptions::is_default")]
    pub options: MessageOptions,
}

/// How a message is sent. Only linked devices support these options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MessageOptions {
    /// How long the recipient sees the typing indicator before the message.
    #[serde(default)]
    pub typing: Duration,
    /// The people that a text mentions.
    #[serde(default)]
    pub mentions: Vec<Recipient>,
}

impl MessageOptions {
    /// Whether no option is set, so that every provider supports the message.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The node's id of a message, assigned when the message is accepted.
///
/// A version 8 UUID (RFC 9562 §5.8) that sorts by acceptance and contains the key of the message's record, so that a
/// lookup by id needs no index: 48 bits of milliseconds, 12 bits of a counter within the millisecond, 24 bits of
/// instance number, 4 bits of class, 34 random bits. For a row of a bulk job the last 34 bits are the job and the row,
/// so that a receipt finds its row without an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(Uuid);

/// The urgency of a message. The classes of an instance are weighted so that neither starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A single message that its sender waits for.
    Transactional,
    /// One of many messages.
    Bulk,
}

/// Whether a caller waits for the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The caller waits: there is one attempt, and the caller handles its failure.
    Sync,
    /// No caller waits: the node retries, and a message that cannot be sent becomes a dead letter.
    Async,
}

impl Mode {
    /// The value in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Async => "async",
        }
    }
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 2] = [Class::Transactional, Class::Bulk];

    fn bits(self) -> u128 {
        match self {
            Class::Transactional => 0,
            Class::Bulk => 1,
        }
    }

    /// The value in configuration, JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transactional => "transactional",
            Class::Bulk => "bulk",
        }
    }
}

/// The identity of one row of a bulk job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BulkItem {
    /// The job's slot on this node, below [`BulkItem::JOBS`]. Existing jobs never share a slot.
    pub job: u16,
    /// The index of the row, from 0 and below [`BulkItem::ROWS`].
    pub row: u32,
}

impl BulkItem {
    /// Maximum number of jobs at one time.
    pub const JOBS: u16 = 1 << 14;
    /// Maximum number of rows of a job.
    pub const ROWS: u32 = 1 << ROW_BITS;
}

const COUNTER_BITS: u32 = 12;
const RANDOM_BITS: u32 = 34;
const ROW_BITS: u32 = 20;

/// Value of the class bits in the id of a bulk job's row.
const BULK_ITEM_BITS: u128 = 2;

impl MessageId {
    /// The largest value of the counter within one millisecond.
    pub const MAX_COUNTER: u16 = (1 << COUNTER_BITS) - 1;

    /// The id of a message outside bulk jobs. `random` is cut to 34 bits, `counter` to 12.
    pub fn new(at: Timestamp, counter: u16, instance: InstanceNumber, class: Class, random: u64) -> Self {
        Self::compose(at, counter, instance, class.bits(), random)
    }

    /// The id of a row of a bulk job. `counter` is cut to 12 bits.
    pub fn for_bulk_item(at: Timestamp, counter: u16, instance: InstanceNumber, item: BulkItem) -> Self {
        let place = (u64::from(item.job) << ROW_BITS) | u64::from(item.row & (BulkItem::ROWS - 1));
        Self::compose(at, counter, instance, BULK_ITEM_BITS, place)
    }

    fn compose(at: Timestamp, counter: u16, instance: InstanceNumber, class: u128, low: u64) -> Self {
        let low = u128::from(low & ((1 << RANDOM_BITS) - 1));
        let tail = (u128::from(instance.get()) << 38) | (class << RANDOM_BITS) | low;
        let bits = (u128::from(at.millis() & 0xFFFF_FFFF_FFFF) << 80)
            | (0x8 << 76)
            | (u128::from(counter & Self::MAX_COUNTER) << 64)
            | (0b10 << 62)
            | tail;
        Self(Uuid::from_u128(bits))
    }

    /// When the message was accepted, in milliseconds.
    pub fn accepted_at(self) -> Timestamp {
        Timestamp(u64::try_from(self.0.as_u128() >> 80).unwrap_or(0))
    }

    /// The counter within the millisecond.
    pub fn counter(self) -> u16 {
        u16::try_from((self.0.as_u128() >> 64) & u128::from(Self::MAX_COUNTER)).unwrap_or(0)
    }

    /// The number of the instance that sends it.
    pub fn instance(self) -> InstanceNumber {
        InstanceNumber::from_low_bits(u32::try_from((self.0.as_u128() >> 38) & 0xFF_FFFF).unwrap_or(0))
    }

    /// Its class.
    pub fn class(self) -> Class {
        if self.class_bits() == 0 { Class::Transactional } else { Class::Bulk }
    }

    /// The row of a bulk job that the message belongs to, if any.
    pub fn item(self) -> Option<BulkItem> {
        let low = u64::try_from(self.0.as_u128() & ((1 << RANDOM_BITS) - 1)).unwrap_or(0);
        let job = u16::try_from(low >> ROW_BITS).ok()?;
        let row = u32::try_from(low & u64::from(BulkItem::ROWS - 1)).ok()?;
        (self.class_bits() == BULK_ITEM_BITS).then_some(BulkItem { job, row })
    }

    fn class_bits(self) -> u128 {
        (self.0.as_u128() >> RANDOM_BITS) & 0xF
    }

    /// The 16 bytes in keys and records of the store; they sort by acceptance.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// An id from its 16 bytes, which are not validated.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The same id in the form of the `correlation_id` in documented asynchronous responses.
    pub fn correlation_id(self) -> Uuid {
        self.0
    }
}

/// `msg_` followed by 32 hexadecimal digits.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "msg_{}", self.0.as_simple())
    }
}

impl FromStr for MessageId {
    type Err = ValidationError;

    /// Accepts `msg_…` and the correlation id with or without hyphens.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let hex = text.strip_prefix("msg_").unwrap_or(text);
        match Uuid::try_parse(hex) {
            Ok(uuid) if uuid.get_version_num() == 8 => Ok(Self(uuid)),
            _ => Err(ValidationError::new("message_id", "is not a message id of this node")),
        }
    }
}

/// WhatsApp's id of a message: a `wamid…` on the Cloud API, a stanza id on a linked device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderMessageId(String);

impl ProviderMessageId {
    /// Maximum length that is accepted; Meta's ids are under 100 characters.
    const MAX_LEN: usize = 256;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProviderMessageId {
    type Err = ValidationError;
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        if text.is_empty() || text.len() > Self::MAX_LEN || text.bytes().any(|b| b.is_ascii_control()) {
            return Err(ValidationError::new("message_id", "must have 1 to 256 printable characters"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ProviderMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reference to a message in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageRef {
    /// By the node's id.
    Ours(MessageId),
    /// By WhatsApp's id.
    Provider(ProviderMessageId),
}

impl FromStr for MessageRef {
    type Err = ValidationError;
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match text.parse() {
            Ok(id) => Ok(Self::Ours(id)),
            Err(_) => text.parse().map(Self::Provider),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(at: u64, counter: u16) -> MessageId {
        let instance = InstanceNumber::from_low_bits(0xAB_CDEF);
        MessageId::new(Timestamp(at), counter, instance, Class::Bulk, u64::MAX)
    }

    #[test]
    fn message_id_encodes_time_counter_instance_and_class() {
        let id = id(1_763_800_000_123, 4095);
        assert_eq!(id.accepted_at(), Timestamp(1_763_800_000_123));
        assert_eq!(id.counter(), 4095);
        assert_eq!(id.instance().get(), 0xAB_CDEF);
        assert_eq!(id.class(), Class::Bulk);
        assert_eq!(id.correlation_id().get_version_num(), 8);
    }

    #[test]
    fn bulk_item_id_encodes_job_and_row() {
        let item = BulkItem { job: BulkItem::JOBS - 1, row: BulkItem::ROWS - 1 };
        let instance = InstanceNumber::from_low_bits(0xAB_CDEF);
        let of_item = MessageId::for_bulk_item(Timestamp(1_763_800_000_123), 9, instance, item);
        assert_eq!(of_item.item(), Some(item));
        assert_eq!((of_item.class(), of_item.instance(), of_item.counter()), (Class::Bulk, instance, 9));
        assert_eq!(of_item.to_string().parse::<MessageId>().unwrap().item(), Some(item));
        assert_eq!(id(1, 0).item(), None);
    }

    #[test]
    fn message_ids_sort_by_acceptance_time() {
        assert!(id(1, 0) < id(1, 1) && id(1, 4095) < id(2, 0));
    }

    #[test]
    fn every_form_of_a_message_id_parses() {
        let id = id(1_763_800_000_123, 7);
        assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
        assert_eq!(id.correlation_id().to_string().parse::<MessageId>().unwrap(), id);
        assert!("msg_1702345678901234567".parse::<MessageId>().is_err());
        assert_eq!("wamid.X".parse(), Ok(MessageRef::Provider("wamid.X".parse().unwrap())));
    }
}
