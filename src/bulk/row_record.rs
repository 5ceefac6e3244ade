//! The record of a row in the result file: its fixed encoding, and how it counts.

use sha2::{Digest, Sha256};

use relevo_domain::{self as domain, MessageId, ProviderMessageId, Timestamp};

use super::job::{RowCounts, RowStatus};
use super::source::SourcePosition;

/// Size of a record, in bytes.
pub(super) const RECORD_BYTES: usize = 144;
/// Maximum length of a provider id in a record; a longer one is stored in the error log.
const MAX_INLINE_ID: usize = DIGEST_OFFSET - ID_OFFSET;
const ID_OFFSET: usize = 57;
/// The first bytes of the SHA-256 of the bytes before. Records of earlier versions have no digest; an id may end here.
const DIGEST_OFFSET: usize = RECORD_BYTES - DIGEST_BYTES;
const DIGEST_BYTES: usize = 4;
/// In the length field of the id: the id is in the error log.
const ID_IN_ERROR_LOG: u8 = u8::MAX;

/// Bits of the flags.
const AMBIGUOUS: u8 = 1;
const HAS_CODE: u8 = 2;
const HAS_DIGEST: u8 = 4;

/// The stored state of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowRecord {
    pub status: RowStatus,
    /// Whether the row was sent is unknown (yet).
    pub ambiguous: bool,
    /// The instance's position among the job's senders, from 1; 0: no instance.
    pub device: u8,
    /// The pass of the job in which this row was taken last; 0 is the first one, and that of rows that came back from the
    /// queue and were handed over again.
    pub pass: u8,
    /// Line of the source, from 1.
    pub line: u32,
    /// Offset of the row in the source.
    pub offset: u64,
    /// When the status was reached.
    pub at: Timestamp,
    /// Offset of the row's entry in the error log.
    pub log_offset: Option<u64>,
    /// The provider's error code.
    pub code: Option<i64>,
    /// The message of the row; while the row is open again, the previous message.
    pub message: Option<MessageId>,
    pub provider_id: StoredId,
}

/// The bytes of a record are not those that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged")]
pub(super) struct DamagedRecord;

/// Where a provider message id is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoredId {
    None,
    Inline(ProviderMessageId),
    /// Too long for the record; in the error log.
    InErrorLog,
}

impl RowRecord {
    /// The record of a row that was just taken from the source.
    pub fn new(position: SourcePosition, status: RowStatus, at: Timestamp) -> Self {
        Self {
            status,
            ambiguous: false,
            device: 0,
            pass: 0,
            line: position.line,
            offset: position.offset,
            at,
            log_offset: None,
            code: None,
            message: None,
            provider_id: StoredId::None,
        }
    }

    /// The position of the row in the source.
    pub fn position(&self, row: u32) -> SourcePosition {
        SourcePosition { offset: self.offset, row, line: self.line }
    }

    /// The record as bytes.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |offset: usize, field: &[u8]| {
            if let Some(target) = bytes.get_mut(offset..offset + field.len()) {
                target.copy_from_slice(field);
            }
        };
        let flags = HAS_DIGEST
            | if self.ambiguous { AMBIGUOUS } else { 0 }
            | if self.code.is_some() { HAS_CODE } else { 0 };
        put(0, &[status_byte(self.status), flags, self.device, self.pass]);
        put(4, &self.line.to_be_bytes());
        put(8, &self.offset.to_be_bytes());
        put(16, &self.at.millis().to_be_bytes());
        put(24, &self.log_offset.map_or(0, |offset| offset + 1).to_be_bytes());
        put(32, &self.code.unwrap_or(0).to_be_bytes());
        if let Some(message) = &self.message {
            put(41, message.as_bytes());
        }
        match &self.provider_id {
            StoredId::None => {}
            StoredId::InErrorLog => put(40, &[ID_IN_ERROR_LOG]),
            StoredId::Inline(id) => {
                let id = id.as_str().as_bytes();
                put(40, &[u8::try_from(id.len()).unwrap_or(0)]);
                put(ID_OFFSET, id);
            }
        }
        let (body, target) = bytes.split_at_mut(DIGEST_OFFSET);
        target.copy_from_slice(&digest(body));
        bytes
    }

    /// `None` for a row that was never written.
    ///
    /// # Errors
    /// [`DamagedRecord`] when the digest of the bytes does not hold, or they are no record.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, DamagedRecord> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (body, stored) = bytes.split_at_checked(DIGEST_OFFSET).ok_or(DamagedRecord)?;
        let has_digest = bytes.get(1).is_some_and(|flags| flags & HAS_DIGEST != 0);
        // Without the flag, these bytes are the end of a long id or zero.
        let id_len = bytes.get(40).copied().map_or(0, usize::from);
        let is_old = !has_digest && (id_len > MAX_INLINE_ID || stored.iter().all(|byte| *byte == 0));
        if !is_old && *stored != digest(body) {
            return Err(DamagedRecord);
        }
        Self::decode_fields(bytes).map(Some).ok_or(DamagedRecord)
    }

    /// Decodes a record without a check, as far as its fields are valid: of a record that is on two pages of the file, a
    /// power cut may leave one page as it was before.
    pub fn decode_torn(bytes: &[u8]) -> Option<Self> {
        Self::decode_fields(bytes)
    }

    fn decode_fields(bytes: &[u8]) -> Option<Self> {
        let word =
            |offset: usize| bytes.get(offset..offset + 8).and_then(|word| word.first_chunk::<8>()).copied();
        let [status, flags, device, pass] = *bytes.first_chunk::<4>()?;
        let line = u32::from_be_bytes(*bytes.get(4..8)?.first_chunk()?);
        let log_offset = u64::from_be_bytes(word(24)?);
        let id = match *bytes.get(40)? {
            0 => StoredId::None,
            ID_IN_ERROR_LOG => StoredId::InErrorLog,
            length => {
                let text =
                    std::str::from_utf8(bytes.get(ID_OFFSET..ID_OFFSET + usize::from(length))?).ok()?;
                StoredId::Inline(text.parse().ok()?)
            }
        };
        let message: [u8; 16] = *bytes.get(41..ID_OFFSET)?.first_chunk()?;
        Some(Self {
            status: status_from_byte(status)?,
            ambiguous: flags & AMBIGUOUS != 0,
            device,
            pass,
            line,
            offset: u64::from_be_bytes(word(8)?),
            at: Timestamp(u64::from_be_bytes(word(16)?)),
            log_offset: log_offset.checked_sub(1),
            code: (flags & HAS_CODE != 0).then_some(i64::from_be_bytes(word(32)?)),
            message: (message != [0; 16]).then(|| MessageId::from_bytes(message)),
            provider_id: id,
        })
    }
}

/// The first bytes of the SHA-256 of a record's other bytes.
fn digest(body: &[u8]) -> [u8; DIGEST_BYTES] {
    let hash: [u8; 32] = Sha256::digest(body).into();
    hash.first_chunk().copied().unwrap_or_default()
}

impl StoredId {
    /// How an id is stored.
    pub fn new(id: Option<&ProviderMessageId>) -> Self {
        match id {
            None => StoredId::None,
            Some(id) if id.as_str().len() <= MAX_INLINE_ID => StoredId::Inline(id.clone()),
            Some(_) => StoredId::InErrorLog,
        }
    }
}

/// Bytes from here on are positions in [`domain::Status::ALL`].
const MESSAGE_STATUS_BASE: u8 = 16;

fn status_byte(status: RowStatus) -> u8 {
    match status {
        RowStatus::Waiting => 0,
        RowStatus::Open => 1,
        RowStatus::Skipped => 2,
        RowStatus::Invalid => 3,
        RowStatus::Message(status) => {
            let index = domain::Status::ALL.iter().position(|other| *other == status);
            MESSAGE_STATUS_BASE + index.and_then(|index| u8::try_from(index).ok()).unwrap_or(0)
        }
    }
}

fn status_from_byte(byte: u8) -> Option<RowStatus> {
    match byte {
        1 => Some(RowStatus::Open),
        2 => Some(RowStatus::Skipped),
        3 => Some(RowStatus::Invalid),
        byte => {
            let index = usize::from(byte.checked_sub(MESSAGE_STATUS_BASE)?);
            domain::Status::ALL.get(index).copied().map(RowStatus::Message)
        }
    }
}

impl RowCounts {
    /// Updates the counts for a row that changed from `before` to `after`.
    pub(super) fn apply_change(&mut self, before: Option<&RowRecord>, after: &RowRecord) {
        if let Some(before) = before {
            self.adjust(before, |count| *count = count.saturating_sub(1));
        }
        self.adjust(after, |count| *count = count.saturating_add(1));
    }

    /// Calls `change` with each count that includes the row.
    fn adjust(&mut self, record: &RowRecord, mut change: impl FnMut(&mut u32)) {
        use domain::Status::{Cancelled, Delivered, Played, Read, Sent};
        match record.status {
            RowStatus::Waiting | RowStatus::Open => return,
            RowStatus::Skipped => change(&mut self.skipped),
            RowStatus::Invalid => change(&mut self.invalid),
            RowStatus::Message(Cancelled) => change(&mut self.cancelled),
            RowStatus::Message(Sent | Delivered | Read | Played) => change(&mut self.sent),
            RowStatus::Message(_) => {}
        }
        if matches!(record.status, RowStatus::Message(Delivered | Read | Played)) {
            change(&mut self.delivered);
        }
        if matches!(record.status, RowStatus::Message(Read | Played)) {
            change(&mut self.read);
        }
        if record.status.is_failure() {
            change(&mut self.failed);
            if record.ambiguous {
                change(&mut self.ambiguous);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::Status;

    fn record(row: u32, status: RowStatus) -> RowRecord {
        let position = SourcePosition { offset: u64::from(row) * 20, row, line: row + 2 };
        RowRecord::new(position, status, Timestamp(1_763_800_000_000 + u64::from(row)))
    }

    #[test]
    fn records_round_trip() {
        let statuses = Status::ALL.map(RowStatus::Message);
        let others = [RowStatus::Open, RowStatus::Skipped, RowStatus::Invalid];
        for (row, status) in (0..).zip(statuses.into_iter().chain(others)) {
            let full = RowRecord {
                ambiguous: true,
                device: 5,
                pass: 2,
                log_offset: Some(u64::from(row)),
                code: Some(-131_026),
                message: Some(MessageId::from_bytes([7; 16])),
                provider_id: StoredId::new(Some(
                    &"wamid.HBgMNTczMDAxMjM0NTY3FQIAERgSODJBM0VGNzM5NkQ0RjI3MzlGAA==".parse().unwrap(),
                )),
                ..record(row, status)
            };
            for record in [full, record(row, status)] {
                assert_eq!(RowRecord::decode(&record.encode()), Ok(Some(record)));
            }
        }
        assert_eq!(RowRecord::decode(&[0; RECORD_BYTES]), Ok(None), "never written");
    }

    #[test]
    fn damaged_record_is_an_error() {
        let id = "wamid.HBgMNTczMDAxMjM0NTY3FQIAERgSODJBM0VGNzM5NkQ0RjI3MzlGAA==".parse().unwrap();
        let stored = RowRecord { provider_id: StoredId::Inline(id), ..record(3, RowStatus::Open) };
        let bytes = stored.encode();
        for at in 0..RECORD_BYTES {
            for change in [0x01, 0x04, 0x80, 0xff] {
                let mut damaged = bytes;
                damaged[at] ^= change;
                assert_eq!(RowRecord::decode(&damaged), Err(DamagedRecord), "{at} {change}");
            }
        }
    }

    #[test]
    fn record_of_an_earlier_version_is_read() {
        for id in ["wamid.HBgM".to_owned(), "w".repeat(RECORD_BYTES - ID_OFFSET)] {
            let mut bytes = record(3, RowStatus::Open).encode();
            bytes[1] &= !HAS_DIGEST;
            bytes[DIGEST_OFFSET..].fill(0);
            bytes[40] = u8::try_from(id.len()).unwrap();
            bytes[ID_OFFSET..ID_OFFSET + id.len()].copy_from_slice(id.as_bytes());
            let read = RowRecord::decode(&bytes).unwrap().unwrap();
            assert_eq!(read.provider_id, StoredId::Inline(id.parse().unwrap()));
        }
    }

    #[test]
    fn overlong_provider_id_goes_to_the_error_log() {
        let long = "w".repeat(MAX_INLINE_ID + 1).parse().unwrap();
        assert_eq!(StoredId::new(Some(&long)), StoredId::InErrorLog);
        let fits = "w".repeat(MAX_INLINE_ID).parse().unwrap();
        let stored = RowRecord { provider_id: StoredId::new(Some(&fits)), ..record(0, RowStatus::Open) };
        let read = RowRecord::decode(&stored.encode()).unwrap().unwrap();
        assert_eq!(read.provider_id, StoredId::Inline(fits));
    }

    #[test]
    fn counts_follow_a_row_from_ambiguous_to_read() {
        let mut counts = RowCounts::default();
        let steps = [
            RowRecord { ambiguous: true, ..record(0, RowStatus::Message(Status::Ambiguous)) },
            RowRecord { ambiguous: true, ..record(0, RowStatus::Message(Status::DeadLetter)) },
            record(0, RowStatus::Message(Status::Sent)),
            record(0, RowStatus::Message(Status::Read)),
        ];
        let mut before = None;
        let mut seen = Vec::new();
        for step in &steps {
            counts.apply_change(before, step);
            seen.push((counts.sent, counts.failed, counts.ambiguous, counts.read));
            before = Some(step);
        }
        assert_eq!(seen, [(0, 1, 1, 0), (0, 1, 1, 0), (1, 0, 0, 0), (1, 0, 0, 1)]);
    }
}
