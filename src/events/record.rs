//! The record of an event: a header that can be read without the rest, then the data as JSON.
//!
//! offset (8 bytes, big-endian) · time in milliseconds (8) · length of the kind (1) · kind · data

use relevo_domain::{EventKind, InstanceNumber, Timestamp};
use relevo_store::{Error, Key, Space};

use super::{Event, event_kind};

/// The stored end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LogTail {
    /// Sequence of the newest event.
    pub sequence: u64,
    /// Bytes of all events that were ever appended. The size of the log is this number minus the offset of the oldest
    /// event.
    pub bytes: u64,
}

impl LogTail {
    pub fn read(value: Option<Vec<u8>>) -> Result<Self, Error> {
        let Some(value) = value else { return Ok(Self::default()) };
        let read = || Some(Self { sequence: u64_at(&value, 0)?, bytes: u64_at(&value, 8)? });
        read().ok_or_else(|| Error::Codec("the tail of an event log is shorter than 16 bytes".to_owned()))
    }

    pub fn to_vec(self) -> Vec<u8> {
        [self.sequence.to_be_bytes(), self.bytes.to_be_bytes()].concat()
    }
}

/// The header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventHeader {
    /// Bytes that were appended to the log before this event, over its whole life.
    pub offset: u64,
    pub at: Timestamp,
    pub kind: EventKind,
    /// Byte at which the data begins.
    data: usize,
}

impl EventHeader {
    /// `None` if [`encode`] did not write the record.
    pub fn read(record: &[u8]) -> Option<Self> {
        let (offset, at) = (u64_at(record, 0)?, Timestamp(u64_at(record, 8)?));
        let data = 17 + usize::from(*record.get(16)?);
        let kind = EventKind::from_stored(std::str::from_utf8(record.get(17..data)?).ok()?);
        event_kind::warn_if_unknown(&kind);
        Some(Self { offset, at, kind, data })
    }
}

/// Encodes an event that begins at `offset` of its log.
pub(super) fn encode(event: &Event, offset: u64) -> Result<Vec<u8>, Error> {
    let length = u8::try_from(event.kind.as_str().len())
        .map_err(|_| Error::Codec(format!("{:?} is too long for the kind of an event", event.kind)))?;
    let mut record = Vec::with_capacity(256);
    record.extend_from_slice(&offset.to_be_bytes());
    record.extend_from_slice(&event.at.millis().to_be_bytes());
    record.push(length);
    record.extend_from_slice(event.kind.as_str().as_bytes());
    // The data is stored as JSON because readers get it as JSON, unchanged.
    serde_json::to_writer(&mut record, &event.data).map_err(|cause| Error::Codec(cause.to_string()))?;
    Ok(record)
}

/// Decodes a whole record.
pub fn decode(record: &[u8]) -> Result<Event, Error> {
    let header = EventHeader::read(record)
        .ok_or_else(|| Error::Codec("the header of an event is cut off".to_owned()))?;
    let data = record.get(header.data..).unwrap_or_default();
    let data = serde_json::from_slice(data).map_err(|cause| Error::Codec(cause.to_string()))?;
    Ok(Event { kind: header.kind, at: header.at, data })
}

pub(super) fn event_key(instance: InstanceNumber, sequence: u64) -> Key {
    Key::new(Space::Event).u32(instance.get()).u64(sequence)
}

pub(super) fn sequence_of(key: &[u8]) -> u64 {
    u64_at(key, 5).unwrap_or_default()
}

pub(super) fn log_end(instance: InstanceNumber) -> Key {
    Key::new(Space::Event).u32(instance.get()).after_prefix()
}

pub(super) fn tail_key(instance: InstanceNumber) -> Key {
    Key::new(Space::EventTail).u32(instance.get())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}
