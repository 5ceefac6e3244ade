//! The result file of a job: one record of fixed width for every row, at its place.
//!
//! Written as far as rows were taken, and a little ahead. The job's actor alone writes; anybody may read, page by page.
//! A record also says where its row lies in the source, so that every row can be found again without reading what is
//! before it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use relevo_domain::{self as domain, MessageId, ProviderMessageId, Timestamp};

use super::job::{RowCounts, RowStatus};
use super::source::SourcePosition;

/// Bytes of one record.
const RECORD_BYTES: usize = 144;
/// The longest provider id that fits into a record; a longer one is kept among the notes.
const MAX_INLINE_ID: usize = RECORD_BYTES - ID_OFFSET;
const ID_OFFSET: usize = 57;
/// In the place of an id's length: the id is in the note.
const ID_IN_ERROR_LOG: u8 = u8::MAX;

const AMBIGUOUS: u8 = 1;
const HAS_CODE: u8 = 2;

/// Records that are read at once where all are wanted.
const SCAN_PAGE: u32 = 4096;

/// The file grows by room for so many records. Where the disk has a place already, a sync writes data alone; where a file
/// grows, it waits for the journal of the file system, and everybody else's syncs wait with it.
const PREALLOCATED_RECORDS: usize = 1_000;

/// Where a row stands, as it is written down.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RowRecord {
    pub status: RowStatus,
    /// Nobody knows whether it was sent (yet).
    pub ambiguous: bool,
    /// The instance's place among the job's senders, from 1; 0 when there was none.
    pub device: u8,
    /// How often the failed rows of the job were tried again when this row was taken.
    pub pass: u8,
    pub line: u32,
    /// The row's first byte in the source.
    pub offset: u64,
    pub at: Timestamp,
    /// Where the note about it lies.
    pub log_offset: Option<u64>,
    pub code: Option<i64>,
    /// The message that the row became; while it is open again, the one before.
    pub message: Option<MessageId>,
    pub provider_id: StoredId,
}

/// A provider's id, as a record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoredId {
    None,
    Inline(ProviderMessageId),
    /// Too long; it is in the note.
    InErrorLog,
}

impl RowRecord {
    /// A row that was just taken from the source.
    pub fn new(place: SourcePosition, status: RowStatus, at: Timestamp) -> Self {
        Self {
            status,
            ambiguous: false,
            device: 0,
            pass: 0,
            line: place.line,
            offset: place.offset,
            at,
            log_offset: None,
            code: None,
            message: None,
            provider_id: StoredId::None,
        }
    }

    pub fn position(&self, row: u32) -> SourcePosition {
        SourcePosition { offset: self.offset, row, line: self.line }
    }

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let mut put = |at: usize, part: &[u8]| {
            if let Some(room) = bytes.get_mut(at..at + part.len()) {
                room.copy_from_slice(part);
            }
        };
        let flags =
            if self.ambiguous { AMBIGUOUS } else { 0 } | if self.code.is_some() { HAS_CODE } else { 0 };
        put(0, &[status_byte(self.status), flags, self.device, self.pass]);
        put(4, &self.line.to_be_bytes());
        put(8, &self.offset.to_be_bytes());
        put(16, &self.at.millis().to_be_bytes());
        put(24, &self.log_offset.map_or(0, |note| note + 1).to_be_bytes());
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

    /// `None` for a row that was never written, and for what is no record.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let part = |at: usize| bytes.get(at..at + 8).and_then(|part| part.first_chunk::<8>()).copied();
        let [status, flags, device, pass] = *bytes.first_chunk::<4>()?;
        let line = u32::from_be_bytes(*bytes.get(4..8)?.first_chunk()?);
        let note = u64::from_be_bytes(part(24)?);
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
            offset: u64::from_be_bytes(part(8)?),
            at: Timestamp(u64::from_be_bytes(part(16)?)),
            log_offset: note.checked_sub(1),
            code: (flags & HAS_CODE != 0).then_some(i64::from_be_bytes(part(32)?)),
            message: (message != [0; 16]).then(|| MessageId::from_bytes(message)),
            provider_id: id,
        })
    }
}

impl StoredId {
    /// The id as a record can have it.
    pub fn new(id: Option<&ProviderMessageId>) -> Self {
        match id {
            None => StoredId::None,
            Some(id) if id.as_str().len() <= MAX_INLINE_ID => StoredId::Inline(id.clone()),
            Some(_) => StoredId::InErrorLog,
        }
    }
}

const MESSAGE_STATUS_BASE: u8 = 16;

fn status_byte(status: RowStatus) -> u8 {
    match status {
        RowStatus::Waiting => 0,
        RowStatus::Open => 1,
        RowStatus::Skipped => 2,
        RowStatus::Invalid => 3,
        RowStatus::Message(status) => {
            let place = domain::Status::ALL.iter().position(|known| *known == status);
            MESSAGE_STATUS_BASE + place.and_then(|place| u8::try_from(place).ok()).unwrap_or(0)
        }
    }
}

fn status_from_byte(byte: u8) -> Option<RowStatus> {
    match byte {
        1 => Some(RowStatus::Open),
        2 => Some(RowStatus::Skipped),
        3 => Some(RowStatus::Invalid),
        byte => {
            let place = usize::from(byte.checked_sub(MESSAGE_STATUS_BASE)?);
            domain::Status::ALL.get(place).copied().map(RowStatus::Message)
        }
    }
}

impl RowCounts {
    /// Takes a row's change into account.
    pub(super) fn apply_change(&mut self, before: Option<&RowRecord>, after: &RowRecord) {
        if let Some(before) = before {
            self.adjust(before, |count| *count = count.saturating_sub(1));
        }
        self.adjust(after, |count| *count = count.saturating_add(1));
    }

    fn adjust(&mut self, record: &RowRecord, mut touch: impl FnMut(&mut u32)) {
        use domain::Status::{Cancelled, Delivered, Played, Read, Sent};
        match record.status {
            RowStatus::Waiting | RowStatus::Open => return,
            RowStatus::Skipped => touch(&mut self.skipped),
            RowStatus::Invalid => touch(&mut self.invalid),
            RowStatus::Message(Cancelled) => touch(&mut self.cancelled),
            RowStatus::Message(Sent | Delivered | Read | Played) => touch(&mut self.sent),
            RowStatus::Message(_) => {}
        }
        if matches!(record.status, RowStatus::Message(Delivered | Read | Played)) {
            touch(&mut self.delivered);
        }
        if matches!(record.status, RowStatus::Message(Read | Played)) {
            touch(&mut self.read);
        }
        if record.status.is_failure() {
            touch(&mut self.failed);
            if record.ambiguous {
                touch(&mut self.ambiguous);
            }
        }
    }
}

/// The file of the records.
#[derive(Debug)]
pub(super) struct ResultFile {
    file: File,
    /// Something was written that is not synced.
    dirty: bool,
    /// Where the room ends that was made.
    allocated_end: u64,
}

/// What a file says about its job.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ResultSummary {
    pub counts: RowCounts,
    /// Rows that are in the queue, or about to be.
    pub open_rows: Vec<u32>,
    /// The note that begins last.
    pub last_log_offset: Option<u64>,
}

impl ResultFile {
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)?;
        file.sync_all()?;
        Ok(Self::from_file(file))
    }

    fn from_file(file: File) -> Self {
        Self { file, dirty: false, allocated_end: 0 }
    }

    /// For the one who writes. Waits until nobody else does: an actor that was killed may have left work on a
    /// blocking thread.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self::from_file(file))
    }

    /// For those who read.
    pub fn read_only(path: &Path) -> std::io::Result<Self> {
        Ok(Self::from_file(File::open(path)?))
    }

    /// Forgets what was written about `row` and those behind it.
    pub fn truncate(&mut self, row: u32) -> std::io::Result<()> {
        let end = offset(row);
        self.allocated_end = self.allocated_end.min(end);
        if self.file.metadata()?.len() > end {
            self.file.set_len(end)?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    pub fn get(&self, row: u32) -> std::io::Result<Option<RowRecord>> {
        Ok(self.page(row, 1)?.into_iter().next().flatten())
    }

    /// Up to `limit` records from `from` on; fewer where the file ends.
    pub fn page(&self, from: u32, limit: u32) -> std::io::Result<Vec<Option<RowRecord>>> {
        let mut bytes = vec![0; RECORD_BYTES * limit as usize];
        let mut filled = 0;
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.file.read_at(room, offset(from) + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(bytes.chunks_exact(RECORD_BYTES).map(RowRecord::decode).collect())
    }

    /// Writes records; durable after [`sync`](Self::sync).
    pub fn put(&mut self, row: u32, record: &RowRecord) -> std::io::Result<()> {
        self.dirty = true;
        self.file.write_all_at(&record.encode(), offset(row))
    }

    /// Writes the records of rows that follow each other, and that nothing follows yet.
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

    /// Makes durable what was written since.
    pub fn sync(&mut self) -> std::io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Counts everything before `end`.
    pub fn summarize(&self, end: u32) -> std::io::Result<ResultSummary> {
        let mut census = ResultSummary::default();
        self.for_each(end, |row, record| {
            census.counts.apply_change(None, record);
            census.last_log_offset = census.last_log_offset.max(record.log_offset);
            if record.status == RowStatus::Open {
                census.open_rows.push(row);
            }
            Ok(())
        })?;
        Ok(census)
    }

    /// Shows every record before `end`, in order.
    pub fn for_each(
        &self,
        end: u32,
        mut show: impl FnMut(u32, &RowRecord) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut from = 0;
        while from < end {
            let page = self.page(from, SCAN_PAGE.min(end - from))?;
            if page.is_empty() {
                break;
            }
            for (row, record) in (from..).zip(&page) {
                record.iter().try_for_each(|record| show(row, record))?;
            }
            from += u32::try_from(page.len()).unwrap_or(SCAN_PAGE);
        }
        Ok(())
    }
}

fn offset(row: u32) -> u64 {
    u64::from(row) * RECORD_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::Status;

    fn record(row: u32, status: RowStatus) -> RowRecord {
        let place = SourcePosition { offset: u64::from(row) * 20, row, line: row + 2 };
        RowRecord::new(place, status, Timestamp(1_763_800_000_000 + u64::from(row)))
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
        let run =
            |rows: std::ops::Range<u32>| rows.map(|row| record(row, RowStatus::Open)).collect::<Vec<_>>();
        results.put_range(0, run(0..100).iter()).unwrap();
        let grown = length(&results);
        assert_eq!(grown, ((100 + PREALLOCATED_RECORDS) * RECORD_BYTES) as u64);
        results.put_range(100, run(100..1_000).iter()).unwrap();
        assert_eq!(length(&results), grown);
        results.put_range(1_000, run(1_000..1_200).iter()).unwrap();
        assert!(length(&results) > grown);
        assert_eq!(results.summarize(5_000).unwrap().open_rows, (0..1_200).collect::<Vec<_>>());
        results.truncate(700).unwrap();
        results.put_range(700, run(700..701).iter()).unwrap();
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
        let census = results.summarize(8).unwrap();
        assert_eq!(census.open_rows, [5]);
        assert_eq!(census.last_log_offset, Some(77));
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
        assert_eq!(census.counts, counts);
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
