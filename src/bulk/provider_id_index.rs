//! Which row WhatsApp means by an id of its own: a hash table on the disk, so that a million ids cost no memory.
//!
//! Most reports carry our id, which says the row; failures may not (Meta promises it for sent, delivered and read), and
//! are found here. An entry is a hint that the result file confirms. So what a power cut or another attempt leaves
//! behind misleads nobody, and everything can be written anew from the results.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use relevo_domain::{MessageId, ProviderMessageId};

use super::error_log::ErrorLog;
use super::folders::JobFolder;
use super::results::ResultFile;

/// Bytes of an entry: a part of the id's hash, and the row plus one. Nothing but zeros: the place is free.
const ENTRY_BYTES: usize = 8;
/// Entries that are read at once. An id lies in the bucket that its hash says, or behind that where it is full.
const ENTRIES_PER_BUCKET: usize = 16;
const BUCKET_BYTES: usize = ENTRY_BYTES * ENTRIES_PER_BUCKET;

#[derive(Debug)]
pub(super) struct ProviderIdIndex {
    file: File,
    buckets: u64,
}

impl ProviderIdIndex {
    /// An empty table for the ids of so many rows, and as many again of later attempts. Sparse until written.
    pub fn create(path: &Path, rows: u32) -> std::io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)?;
        let buckets = (u64::from(rows) * 2).div_ceil(ENTRIES_PER_BUCKET as u64).next_power_of_two();
        file.set_len(buckets * BUCKET_BYTES as u64)?;
        file.sync_all()?;
        Ok(Self { file, buckets })
    }

    /// For the one who writes.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Self::from_file(OpenOptions::new().read(true).write(true).open(path)?)
    }

    /// For those who read.
    pub fn read_only(path: &Path) -> std::io::Result<Self> {
        Self::from_file(File::open(path)?)
    }

    fn from_file(file: File) -> std::io::Result<Self> {
        let buckets = file.metadata()?.len() / BUCKET_BYTES as u64;
        Ok(Self { file, buckets })
    }

    /// Writes the table anew, from the rows before `end`. Readers find the old one until this one is whole and synced.
    pub fn rebuild(
        files: &JobFolder,
        rows: u32,
        results: &ResultFile,
        notes: &ErrorLog,
        end: u32,
    ) -> std::io::Result<Self> {
        let draft = files.provider_ids().with_extension("new");
        let names = Self::create(&draft, rows)?;
        results.for_each(end, |row, record| match notes.provider_id_of(record)? {
            Some(id) => names.insert(&id, row),
            None => Ok(()),
        })?;
        names.sync()?;
        std::fs::rename(&draft, files.provider_ids())?;
        Ok(names)
    }

    /// Makes the row findable; durable after [`sync`](Self::sync). Nothing when it is, or when the table is full.
    pub fn insert(&self, id: &ProviderMessageId, row: u32) -> std::io::Result<()> {
        let (bucket, print) = self.bucket_of(id);
        let mut free = None;
        self.probe(bucket, |at, found| {
            free = found.is_none().then_some(at);
            found.is_none() || found == Some((print, row))
        })?;
        let Some(at) = free else { return Ok(()) };
        let entry = [print.to_be_bytes(), row.saturating_add(1).to_be_bytes()];
        self.file.write_all_at(entry.as_flattened(), at)
    }

    /// The rows that may be it; hardly ever more than one.
    fn find(&self, id: &ProviderMessageId) -> std::io::Result<Vec<u32>> {
        let (bucket, print) = self.bucket_of(id);
        let mut rows = Vec::new();
        self.probe(bucket, |_, found| {
            rows.extend(found.filter(|found| found.0 == print).map(|found| found.1));
            found.is_none()
        })?;
        Ok(rows)
    }

    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }

    /// The bucket where an id lies, and what it is recognised by there.
    fn bucket_of(&self, id: &ProviderMessageId) -> (u64, u32) {
        let digest: [u8; 32] = Sha256::digest(id.as_str()).into();
        let [head, ..] = digest.as_chunks::<8>().0 else { return (0, 0) };
        let hash = u64::from_be_bytes(*head);
        (hash & self.buckets.saturating_sub(1), u32::try_from(hash >> 32).unwrap_or(0))
    }

    /// Shows the entries from a bucket on, each with its place in the file, until `enough` says so.
    fn probe(
        &self,
        from: u64,
        mut enough: impl FnMut(u64, Option<(u32, u32)>) -> bool,
    ) -> std::io::Result<()> {
        let mut bytes = [0; BUCKET_BYTES];
        for step in 0..self.buckets {
            let place = ((from + step) % self.buckets) * BUCKET_BYTES as u64;
            self.file.read_exact_at(&mut bytes, place)?;
            for (at, entry) in (place..).step_by(ENTRY_BYTES).zip(bytes.as_chunks::<ENTRY_BYTES>().0) {
                let [print, row] = entry.as_chunks().0 else { continue };
                let (print, row) = (u32::from_be_bytes(*print), u32::from_be_bytes(*row));
                if enough(at, row.checked_sub(1).map(|row| (print, row))) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The message of a job that WhatsApp calls by this id. Reads a few hundred bytes.
pub(super) fn find_message(files: &JobFolder, id: &ProviderMessageId) -> std::io::Result<Option<MessageId>> {
    let rows = ProviderIdIndex::read_only(&files.provider_ids())?.find(id)?;
    if rows.is_empty() {
        return Ok(None);
    }
    let (results, notes) =
        (ResultFile::read_only(&files.results())?, ErrorLog::read_only(&files.error_log())?);
    for row in rows {
        let Some(record) = results.get(row)? else { continue };
        if notes.provider_id_of(&record)?.as_ref() == Some(id) {
            return Ok(record.message);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::job::RowStatus;
    use crate::bulk::results::{RowRecord, StoredId};
    use crate::bulk::source::SourcePosition;
    use relevo_domain::{Status, Timestamp};

    fn id(n: u32) -> ProviderMessageId {
        format!("wamid.{n}").parse().unwrap()
    }

    fn files(dir: &tempfile::TempDir) -> JobFolder {
        JobFolder { path: dir.path().to_owned() }
    }

    #[test]
    fn rows_are_found_by_their_provider_ids() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        let names = ProviderIdIndex::create(&path, 5_000).unwrap();
        // Twice as many as there are rows: every row got a name, and later another.
        for row in 0..10_000 {
            names.insert(&id(row), row % 5_000).unwrap();
            names.insert(&id(row), row % 5_000).unwrap();
        }
        let reader = ProviderIdIndex::read_only(&path).unwrap();
        for row in 0..10_000 {
            assert!(reader.find(&id(row)).unwrap().contains(&(row % 5_000)), "{row}");
        }
        let strangers = (10_000..20_000).filter(|&row| !reader.find(&id(row)).unwrap().is_empty());
        assert!(strangers.count() < 10);
    }

    #[test]
    fn full_table_ignores_inserts_and_lookups_terminate() {
        let dir = tempfile::tempdir().unwrap();
        let names = ProviderIdIndex::create(&dir.path().join("names"), 1).unwrap();
        (0..100).for_each(|row| names.insert(&id(row), row).unwrap());
        let found = (0..100).filter(|&row| names.find(&id(row)).unwrap() == [row]);
        assert_eq!(found.count(), ENTRIES_PER_BUCKET);
    }

    #[test]
    fn rebuilt_index_matches_the_result_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        let (mut results, mut notes) =
            (ResultFile::create(&files.results()).unwrap(), ErrorLog::create(&files.error_log()).unwrap());
        let message = |row: u8| Some(MessageId::from_bytes([row + 1; 16]));
        let record = |row: u8, id: &ProviderMessageId| {
            let place = SourcePosition { row: row.into(), ..SourcePosition::START };
            let taken = RowRecord::new(place, RowStatus::Message(Status::Sent), Timestamp(1));
            RowRecord { message: message(row), provider_id: StoredId::new(Some(id)), ..taken }
        };
        let long: ProviderMessageId = "w".repeat(200).parse().unwrap();
        let at = notes.append(crate::bulk::error_log::tests::entry_with_long_id(1, &long)).unwrap();
        results.put(0, &record(0, &id(0))).unwrap();
        results.put(1, &RowRecord { log_offset: Some(at), ..record(1, &long) }).unwrap();
        results.put(2, &record(2, &id(2))).unwrap();
        let names = ProviderIdIndex::rebuild(&files, 3, &results, &notes, 2).unwrap();
        assert_eq!(find_message(&files, &id(0)).unwrap(), message(0));
        assert_eq!(find_message(&files, &long).unwrap(), message(1));
        assert_eq!(find_message(&files, &id(2)).unwrap(), None, "behind the checkpoint");
        // The row was sent again, under another name.
        results.put(0, &record(0, &id(7))).unwrap();
        names.insert(&id(7), 0).unwrap();
        assert_eq!(
            (find_message(&files, &id(7)).unwrap(), find_message(&files, &id(0)).unwrap()),
            (message(0), None)
        );
    }
}
