//! The result file of a job: one record of fixed width per row, at the offset of the row.
//!
//! It is written as far as rows were taken from the source, and space is preallocated ahead. Only the job's actor writes;
//! readers read page by page. A record contains the position of its row in the source, so that a row can be read without
//! reading the rows before it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::job::{RowCounts, RowStatus};
use super::row_record::{RECORD_BYTES, RowRecord};
use super::storage::Checkpoint;

/// Number of records that are read at once in a scan of the file.
const SCAN_PAGE: u32 = 4096;

/// Number of records by which the file grows. Within allocated space a sync writes only data. If the file grew, the sync
/// waits for the journal of the file system, and the syncs of other files wait with it.
const PREALLOCATED_RECORDS: usize = 1_000;

/// Size of a page, the unit in which the system writes a file to the disk.
const PAGE_BYTES: u64 = 4096;

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
    /// Open rows that are in the queue, or came back from it.
    pub open_rows: Vec<u32>,
    /// Open rows of a batch that was not committed.
    pub uncommitted_rows: Vec<u32>,
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
        (from..).zip(bytes.chunks_exact(RECORD_BYTES)).map(|(row, bytes)| decode(row, bytes)).collect()
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

    /// Summarizes the records of the rows that were taken.
    pub fn summarize(&self, checkpoint: &Checkpoint) -> std::io::Result<ResultSummary> {
        let mut summary = ResultSummary::default();
        self.for_each(checkpoint.cursor.row, |row, record| {
            summary.counts.apply_change(None, record);
            summary.last_log_offset = summary.last_log_offset.max(record.log_offset);
            if checkpoint.is_uncommitted(row, record) {
                summary.uncommitted_rows.push(row);
            } else if record.status == RowStatus::Open {
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

/// Decodes the record of a row. A record that is on two pages of the file is not checked: its update is not atomic.
fn decode(row: u32, bytes: &[u8]) -> std::io::Result<Option<RowRecord>> {
    let start = offset(row);
    match RowRecord::decode(bytes) {
        Ok(record) => Ok(record),
        Err(_) if start / PAGE_BYTES != (start + RECORD_BYTES as u64 - 1) / PAGE_BYTES => {
            Ok(RowRecord::decode_torn(bytes))
        }
        Err(cause) => {
            let text = format!("row {row} of the result file: {cause}");
            Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text))
        }
    }
}

/// The offset of a row's record.
fn offset(row: u32) -> u64 {
    u64::from(row) * RECORD_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::source::SourcePosition;
    use relevo_domain::{Status, Timestamp};

    fn record(row: u32, status: RowStatus) -> RowRecord {
        let position = SourcePosition { offset: u64::from(row) * 20, row, line: row + 2 };
        RowRecord::new(position, status, Timestamp(1_763_800_000_000 + u64::from(row)))
    }

    fn summarize(results: &ResultFile, taken: u32) -> ResultSummary {
        let cursor = SourcePosition { row: taken, ..SourcePosition::START };
        results.summarize(&Checkpoint::new(cursor, Vec::new(), Timestamp(0))).unwrap()
    }

    fn results() -> (tempfile::TempDir, ResultFile) {
        let dir = tempfile::tempdir().unwrap();
        let results = ResultFile::create(&dir.path().join("results")).unwrap();
        (dir, results)
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
        assert_eq!(summarize(&results, 5_000).open_rows, (0..1_200).collect::<Vec<_>>());
        results.truncate(700).unwrap();
        results.put_range(700, records(700..701).iter()).unwrap();
        assert_eq!(summarize(&results, 5_000).open_rows, (0..701).collect::<Vec<_>>());
    }

    #[test]
    fn damaged_record_is_an_error_that_names_the_row() {
        let (_dir, mut results) = results();
        results.put_range(0, [0, 1, 2].map(|row| record(row, RowStatus::Open)).iter()).unwrap();
        let mut byte = [0];
        results.file.read_exact_at(&mut byte, offset(1) + 10).unwrap();
        results.file.write_all_at(&[byte[0] ^ 1], offset(1) + 10).unwrap();
        let cursor = SourcePosition { row: 3, ..SourcePosition::START };
        let checkpoint = Checkpoint::new(cursor, Vec::new(), Timestamp(0));
        let error = results.summarize(&checkpoint).unwrap_err();
        assert!(error.to_string().contains("row 1 of the result file"), "{error}");
        assert!(results.get(0).unwrap().is_some() && results.get(2).unwrap().is_some());
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
        let summary = summarize(&results, 8);
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
        let retry = Checkpoint {
            pass: 1,
            retry: Some(5),
            ..Checkpoint::new(SourcePosition { row: 9, ..SourcePosition::START }, Vec::new(), Timestamp(0))
        };
        results.put(8, &RowRecord { pass: 1, ..record(8, RowStatus::Open) }).unwrap();
        let summary = results.summarize(&retry).unwrap();
        assert_eq!((summary.open_rows, summary.uncommitted_rows), (vec![5], vec![8]));
        results.truncate(6).unwrap();
        assert_eq!(summarize(&results, 100).counts.sent, 2);
    }
}
