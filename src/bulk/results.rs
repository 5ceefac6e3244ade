//! The result file of a job: one record of fixed width per row, at the offset of the row.
//!
//! It is written as far as rows were taken from the source, and space is preallocated ahead. Only the job's actor writes;
//! readers read page by page. A record contains the position of its row in the source, so that a row can be read without
//! reading the rows before it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use relevo_domain::{self as domain, MessageId, ProviderMessageId, Timestamp};

use super::job::{RowCounts, RowStatus};
use super::source::SourcePosition;

/// Size of a record, in bytes.
const RECORD_BYTES: usize = 144;
/// Maximum length of a provider id in a record; a longer one is stored in the error log.
const MAX_INLINE_ID: usize = RECORD_BYTES - ID_OFFSET;
const ID_OFFSET: usize = 57;
/// In the length field of the id: the id is in the error log.
const ID_IN_ERROR_LOG: u8 = u8::MAX;

const AMBIGUOUS: u8 = 1;
const HAS_CODE: u8 = 2;

/// Number of records that are read at once in a scan of the file.
const SCAN_PAGE: u32 = 4096;

/// Number of records by which the file grows. Within allocated space a sync writes only data. If the file grew, the sync
/// waits for the journal of the file system, and the syncs of other files wait with it.
const PREALLOCATED_RECORDS: usize = 1_000;

/// The stored state of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowRecord {
    pub status: RowStatus,
    /// Whether the row was sent is unknown (yet).
    pub ambiguous: bool,
    /// The instance's position among the job's senders, from 1; 0: no instance.
    pub device: u8,
    /// The pass of the job in which this row was taken last; 0 is the first one.
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

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |offset: usize, field: &[u8]| {
            if let Some(target) = bytes.get_mut(offset..offset + field.len()) {
                target.copy_from_slice(field);
            }
        };
        let flags =
            if self.ambiguous { AMBIGUOUS } else { 0 } | if self.code.is_some() { HAS_CODE } else { 0 };
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
        bytes
    }

    /// `None` for a row that was never written, and for invalid bytes.
    fn decode(bytes: &[u8]) -> Option<Self> {
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

/// The file of records.
#[derive(Debug)]
pub(super) struct ResultFile {
    file: File,
    /// Whether records were written since the last sync.
    dirty: bool,
    /// Offset where the preallocated space ends; 0: unknown.
    allocated_end: u64,
}

/// Summary of the records of a job.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ResultSummary {
    /// Counts of all rows.
    pub counts: RowCounts,
    /// Rows that are in the queue, or are being handed over.
    pub open_rows: Vec<u32>,
    /// The largest offset of an entry in the error log.
    pub last_log_offset: Option<u64>,
}

impl ResultFile {
    /// Creates an empty file.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)?;
        file.sync_all()?;
        Ok(Self::from_file(file))
    }

    fn from_file(file: File) -> Self {
        Self { file, dirty: false, allocated_end: 0 }
    }

    /// Opens the file for writing. Waits for the lock of the file: a killed actor may still write on a blocking thread.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self::from_file(file))
    }

    /// Opens the file for reading.
    pub fn read_only(path: &Path) -> std::io::Result<Self> {
        Ok(Self::from_file(File::open(path)?))
    }

    /// Deletes the records from `row` on.
    pub fn truncate(&mut self, row: u32) -> std::io::Result<()> {
        let end = offset(row);
        self.allocated_end = self.allocated_end.min(end);
        if self.file.metadata()?.len() > end {
            self.file.set_len(end)?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// The record of a row; `None` if it was never written.
    pub fn get(&self, row: u32) -> std::io::Result<Option<RowRecord>> {
        Ok(self.page(row, 1)?.into_iter().next().flatten())
    }

    /// Reads up to `limit` records from `from`; fewer at the end of the file. `None`: the row was never written.
    pub fn page(&self, from: u32, limit: u32) -> std::io::Result<Vec<Option<RowRecord>>> {
        let mut bytes = vec![0; RECORD_BYTES * limit as usize];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset(from) + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes.chunks_exact(RECORD_BYTES).map(RowRecord::decode).collect())
    }

    /// Writes a record; durable after [`sync`](Self::sync).
    pub fn put(&mut self, row: u32, record: &RowRecord) -> std::io::Result<()> {
        self.dirty = true;
        self.file.write_all_at(&record.encode(), offset(row))
    }

    /// Writes the records of consecutive rows at the end of the written part of the file, and preallocates space.
    pub fn put_range<'a>(
        &mut self,
        from: u32,
        records: impl Iterator<Item = &'a RowRecord>,
    ) -> std::io::Result<()> {
        let mut bytes: Vec<u8> = records.flat_map(RowRecord::encode).collect();
        let end = offset(from) + bytes.len() as u64;
        if end > self.allocated_end {
            bytes.resize(bytes.len() + PREALLOCATED_RECORDS * RECORD_BYTES, 0);
            self.allocated_end = offset(from) + bytes.len() as u64;
        }
        self.dirty = true;
        self.file.write_all_at(&bytes, offset(from))
    }

    /// Makes the written records durable.
    pub fn sync(&mut self) -> std::io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Summarizes the records before `end`.
    pub fn summarize(&self, end: u32) -> std::io::Result<ResultSummary> {
        let mut summary = ResultSummary::default();
        self.for_each(end, |row, record| {
            summary.counts.apply_change(None, record);
            summary.last_log_offset = summary.last_log_offset.max(record.log_offset);
            if record.status == RowStatus::Open {
                summary.open_rows.push(row);
            }
            Ok(())
        })?;
        Ok(summary)
    }

    /// Calls `visit` with every record before `end`, in order.
    pub fn for_each(
        &self,
        end: u32,
        mut visit: impl FnMut(u32, &RowRecord) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut from = 0;
        while from < end {
            let page = self.page(from, SCAN_PAGE.min(end - from))?;
            if page.is_empty() {
                break;
            }
            for (row, record) in (from..).zip(&page) {
                if let Some(record) = record {
                    visit(row, record)?;
                }
            }
            from += u32::try_from(page.len()).unwrap_or(SCAN_PAGE);
        }
        Ok(())
    }
}

/// The offset of a row's record.
fn offset(row: u32) -> u64 {
    u64::from(row) * RECORD_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::Status;

    fn record(row: u32, status: RowStatus) -> RowRecord {
        let position = SourcePosition { offset: u64::from(row) * 20, row, line: row + 2 };
        RowRecord::new(position, status, Timestamp(1_763_800_000_000 + u64::from(row)))
    }

    fn results() -> (tempfile::TempDir, ResultFile) {
        let dir = tempfile::tempdir().unwrap();
        let results = ResultFile::create(&dir.path().join("results")).unwrap();
        (dir, results)
    }

    #[test]
    fn records_round_trip() {
        let (_dir, mut results) = results();
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
                results.put(row, &record).unwrap();
                assert_eq!(results.get(row).unwrap(), Some(record));
            }
        }
    }

    #[test]
    fn overlong_provider_id_goes_to_the_error_log() {
        let long = "w".repeat(MAX_INLINE_ID + 1).parse().unwrap();
        assert_eq!(StoredId::new(Some(&long)), StoredId::InErrorLog);
        let fits = "w".repeat(MAX_INLINE_ID).parse().unwrap();
        let (_dir, mut results) = results();
        let written = RowRecord { provider_id: StoredId::new(Some(&fits)), ..record(0, RowStatus::Open) };
        results.put(0, &written).unwrap();
        assert_eq!(results.get(0).unwrap().unwrap().provider_id, StoredId::Inline(fits));
    }

    #[test]
    fn pages_end_with_the_file_and_have_gaps_for_unwritten_rows() {
        let (_dir, mut results) = results();
        results.put(3, &record(3, RowStatus::Open)).unwrap();
        let page = results.page(1, 10).unwrap();
        assert_eq!(page, [None, None, Some(record(3, RowStatus::Open))]);
        assert_eq!(results.page(4, 10).unwrap(), []);
    }

    #[test]
    fn file_grows_in_steps_and_preallocated_space_holds_no_records() {
        let (_dir, mut results) = results();
        let length = |results: &ResultFile| results.file.metadata().unwrap().len();
        let records =
            |rows: std::ops::Range<u32>| rows.map(|row| record(row, RowStatus::Open)).collect::<Vec<_>>();
        results.put_range(0, records(0..100).iter()).unwrap();
        let grown = length(&results);
        assert_eq!(grown, ((100 + PREALLOCATED_RECORDS) * RECORD_BYTES) as u64);
        results.put_range(100, records(100..1_000).iter()).unwrap();
        assert_eq!(length(&results), grown);
        results.put_range(1_000, records(1_000..1_200).iter()).unwrap();
        assert!(length(&results) > grown);
        assert_eq!(results.summarize(5_000).unwrap().open_rows, (0..1_200).collect::<Vec<_>>());
        results.truncate(700).unwrap();
        results.put_range(700, records(700..701).iter()).unwrap();
        assert_eq!(results.summarize(5_000).unwrap().open_rows, (0..701).collect::<Vec<_>>());
    }

    #[test]
    fn summary_counts_rows_before_the_checkpoint() {
        let (_dir, mut results) = results();
        let rows: Vec<_> = [
            RowStatus::Message(Status::Sent),
            RowStatus::Message(Status::Read),
            RowStatus::Message(Status::Failed),
            RowStatus::Skipped,
            RowStatus::Invalid,
            RowStatus::Open,
            RowStatus::Message(Status::Delivered),
        ]
        .into_iter()
        .collect();
        let records: Vec<_> = (0..).zip(rows).map(|(row, status)| record(row, status)).collect();
        results.put_range(0, records.iter()).unwrap();
        let ambiguous = RowRecord {
            ambiguous: true,
            log_offset: Some(77),
            ..record(7, RowStatus::Message(Status::Ambiguous))
        };
        results.put(7, &ambiguous).unwrap();
        results.put(8, &record(8, RowStatus::Open)).unwrap();
        let summary = results.summarize(8).unwrap();
        assert_eq!(summary.open_rows, [5]);
        assert_eq!(summary.last_log_offset, Some(77));
        let counts = RowCounts {
            sent: 3,
            delivered: 2,
            read: 1,
            failed: 3,
            ambiguous: 1,
            invalid: 1,
            skipped: 1,
            cancelled: 0,
        };
        assert_eq!(summary.counts, counts);
        results.truncate(6).unwrap();
        assert_eq!(results.summarize(100).unwrap().counts.sent, 2);
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
