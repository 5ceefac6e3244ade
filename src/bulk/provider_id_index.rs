//! The index from provider message ids to rows: a hash table on the disk, so that a million ids need no memory.
//!
//! Most receipts carry relevo's message id, which contains the row. Failures may not (Meta promises it for sent, delivered
//! and read); this index finds their rows. An entry is a hint that the result file confirms. Stale entries (of a power cut
//! or an earlier attempt) are therefore harmless, and the index can be rebuilt from the results.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::queue::BulkRowLookup;
use relevo_domain::{MessageId, ProviderMessageId};

use super::directory::JobDirectory;
use super::error_log::ErrorLog;
use super::folders::{JobFolder, JobFolders};
use super::results::ResultFile;

/// Size of an entry: 32 bits of the id's hash, and the row plus one. All zeros: the entry is free.
const ENTRY_BYTES: usize = 8;
/// Number of entries that are read at once. An id is in the bucket of its hash, or in the following ones if that is full.
const ENTRIES_PER_BUCKET: usize = 16;
const BUCKET_BYTES: usize = ENTRY_BYTES * ENTRIES_PER_BUCKET;

/// The file of the index.
#[derive(Debug)]
pub(super) struct ProviderIdIndex {
    file: File,
    buckets: u64,
}

impl ProviderIdIndex {
    /// Creates an empty table for the ids of `rows` rows, and as many ids of later attempts. The file is sparse.
    pub fn create(path: &Path, rows: u32) -> std::io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)?;
        let buckets = (u64::from(rows) * 2).div_ceil(ENTRIES_PER_BUCKET as u64).next_power_of_two();
        file.set_len(buckets * BUCKET_BYTES as u64)?;
        file.sync_all()?;
        Ok(Self { file, buckets })
    }

    /// Opens the table for writing.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Self::from_file(OpenOptions::new().read(true).write(true).open(path)?)
    }

    /// Opens the table for reading.
    pub fn read_only(path: &Path) -> std::io::Result<Self> {
        Self::from_file(File::open(path)?)
    }

    fn from_file(file: File) -> std::io::Result<Self> {
        let buckets = file.metadata()?.len() / BUCKET_BYTES as u64;
        Ok(Self { file, buckets })
    }

    /// Rebuilds the table from the rows before `end`. Readers use the old table until the new one is complete and synced.
    pub fn rebuild(
        folder: &JobFolder,
        rows: u32,
        results: &ResultFile,
        error_log: &ErrorLog,
        end: u32,
    ) -> std::io::Result<Self> {
        let draft = folder.provider_ids().with_extension("new");
        let index = Self::create(&draft, rows)?;
        results.for_each(end, |row, record| match error_log.provider_id_of(record)? {
            Some(id) => index.insert(&id, row),
            None => Ok(()),
        })?;
        index.sync()?;
        std::fs::rename(&draft, folder.provider_ids())?;
        Ok(index)
    }

    /// Adds an entry; durable after [`sync`](Self::sync). Does nothing if the entry exists or the table is full.
    pub fn insert(&self, id: &ProviderMessageId, row: u32) -> std::io::Result<()> {
        let (bucket, fingerprint) = self.bucket_of(id);
        let mut free = None;
        self.probe(bucket, |offset, entry| {
            free = entry.is_none().then_some(offset);
            entry.is_none() || entry == Some((fingerprint, row))
        })?;
        let Some(offset) = free else { return Ok(()) };
        let entry = [fingerprint.to_be_bytes(), row.saturating_add(1).to_be_bytes()];
        self.file.write_all_at(entry.as_flattened(), offset)
    }

    /// The rows that may have the id; rarely more than one.
    fn find(&self, id: &ProviderMessageId) -> std::io::Result<Vec<u32>> {
        let (bucket, fingerprint) = self.bucket_of(id);
        let mut rows = Vec::new();
        self.probe(bucket, |_, entry| {
            rows.extend(entry.filter(|entry| entry.0 == fingerprint).map(|entry| entry.1));
            entry.is_none()
        })?;
        Ok(rows)
    }

    /// Makes the entries durable.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    /// The bucket of an id, and the fingerprint in its entry.
    fn bucket_of(&self, id: &ProviderMessageId) -> (u64, u32) {
        let digest: [u8; 32] = Sha256::digest(id.as_str()).into();
        let [head, ..] = digest.as_chunks::<8>().0 else { return (0, 0) };
        let hash = u64::from_be_bytes(*head);
        (hash & self.buckets.saturating_sub(1), u32::try_from(hash >> 32).unwrap_or(0))
    }

    /// Calls `is_done` with the entries from a bucket on, each with its offset in the file, until it returns true. `None` is
    /// a free entry.
    fn probe(
        &self,
        from: u64,
        mut is_done: impl FnMut(u64, Option<(u32, u32)>) -> bool,
    ) -> std::io::Result<()> {
        let mut bytes = [0; BUCKET_BYTES];
        for step in 0..self.buckets {
            let start = ((from + step) % self.buckets) * BUCKET_BYTES as u64;
            self.file.read_exact_at(&mut bytes, start)?;
            for (offset, entry) in (start..).step_by(ENTRY_BYTES).zip(bytes.as_chunks::<ENTRY_BYTES>().0) {
                let [fingerprint, row] = entry.as_chunks().0 else { continue };
                let (fingerprint, row) = (u32::from_be_bytes(*fingerprint), u32::from_be_bytes(*row));
                if is_done(offset, row.checked_sub(1).map(|row| (fingerprint, row))) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The message of a job that has this provider message id. Reads a few hundred bytes.
pub(super) fn find_message(folder: &JobFolder, id: &ProviderMessageId) -> std::io::Result<Option<MessageId>> {
    let rows = ProviderIdIndex::read_only(&folder.provider_ids())?.find(id)?;
    if rows.is_empty() {
        return Ok(None);
    }
    let results = ResultFile::read_only(&folder.results())?;
    let error_log = ErrorLog::read_only(&folder.error_log())?;
    for row in rows {
        let Some(record) = results.get(row)? else { continue };
        if error_log.provider_id_of(&record)?.as_ref() == Some(id) {
            return Ok(record.message);
        }
    }
    Ok(None)
}

/// Finds rows by their provider message ids, after their jobs recorded that they were sent. Reads a few bytes of each job
/// for which the instance sends.
pub(super) fn bulk_row_lookup(
    directory: watch::Receiver<Arc<JobDirectory>>,
    folders: JobFolders,
) -> BulkRowLookup {
    // The queue stores the closure. It must not capture a queue handle, which would keep the queue alive.
    Arc::new(move |instance, id| {
        let jobs = directory.borrow().clone();
        for job in jobs.values() {
            if !job.progress.borrow().senders.iter().any(|sender| sender.number == instance) {
                continue;
            }
            // Errors are ignored: the job is being deleted, or reading its results reports the error.
            let found = find_message(&folders.folder(job.id), id).ok().flatten();
            if let Some(message) = found.filter(|message| message.instance() == instance) {
                return Some(message);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::job::RowStatus;
    use crate::bulk::row_record::{RowRecord, StoredId};
    use crate::bulk::source::SourcePosition;
    use relevo_domain::{Status, Timestamp};

    fn id(n: u32) -> ProviderMessageId {
        format!("wamid.{n}").parse().unwrap()
    }

    fn folder(dir: &tempfile::TempDir) -> JobFolder {
        JobFolder { path: dir.path().to_owned() }
    }

    #[test]
    fn rows_are_found_by_their_provider_ids() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        let index = ProviderIdIndex::create(&path, 5_000).unwrap();
        // Twice as many ids as rows: every row got an id, and another one with a later attempt.
        for row in 0..10_000 {
            index.insert(&id(row), row % 5_000).unwrap();
            index.insert(&id(row), row % 5_000).unwrap();
        }
        let reader = ProviderIdIndex::read_only(&path).unwrap();
        for row in 0..10_000 {
            assert!(reader.find(&id(row)).unwrap().contains(&(row % 5_000)), "{row}");
        }
        let unknown = (10_000..20_000).filter(|&row| !reader.find(&id(row)).unwrap().is_empty());
        assert!(unknown.count() < 10);
    }

    #[test]
    fn full_table_ignores_inserts_and_lookups_terminate() {
        let dir = tempfile::tempdir().unwrap();
        let index = ProviderIdIndex::create(&dir.path().join("names"), 1).unwrap();
        (0..100).for_each(|row| index.insert(&id(row), row).unwrap());
        let found = (0..100).filter(|&row| index.find(&id(row)).unwrap() == [row]);
        assert_eq!(found.count(), ENTRIES_PER_BUCKET);
    }

    #[test]
    fn rebuilt_index_matches_the_result_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(&dir);
        let mut results = ResultFile::create(&folder.results()).unwrap();
        let mut error_log = ErrorLog::create(&folder.error_log()).unwrap();
        let message = |row: u8| Some(MessageId::from_bytes([row + 1; 16]));
        let record = |row: u8, id: &ProviderMessageId| {
            let position = SourcePosition { row: row.into(), ..SourcePosition::START };
            let sent = RowRecord::new(position, RowStatus::Message(Status::Sent), Timestamp(1));
            RowRecord { message: message(row), provider_id: StoredId::new(Some(id)), ..sent }
        };
        let long: ProviderMessageId = "w".repeat(200).parse().unwrap();
        let offset = error_log.append(crate::bulk::error_log::tests::entry_with_long_id(1, &long)).unwrap();
        results.put(0, &record(0, &id(0))).unwrap();
        results.put(1, &RowRecord { log_offset: Some(offset), ..record(1, &long) }).unwrap();
        results.put(2, &record(2, &id(2))).unwrap();
        let index = ProviderIdIndex::rebuild(&folder, 3, &results, &error_log, 2).unwrap();
        assert_eq!(find_message(&folder, &id(0)).unwrap(), message(0));
        assert_eq!(find_message(&folder, &long).unwrap(), message(1));
        assert_eq!(find_message(&folder, &id(2)).unwrap(), None, "after the checkpoint");
        // The row was sent again and has another id.
        results.put(0, &record(0, &id(7))).unwrap();
        index.insert(&id(7), 0).unwrap();
        assert_eq!(
            (find_message(&folder, &id(7)).unwrap(), find_message(&folder, &id(0)).unwrap()),
            (message(0), None)
        );
    }
}
