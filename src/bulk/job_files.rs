//! The files of a job, as its actor uses them. All functions block.
//!
//! Everything is synced before the commit that relies on it, and can be written again if that commit does not happen: rows
//! after the checkpoint are overwritten, and an outcome that is recorded already changes nothing.
//!
//! What is read is checked: the source against the digest in the job's record, before the first batch after the files were
//! opened; the records of the result file and the entries of the error log against digests of their own.

pub(super) mod batch;
pub(super) mod outcomes;

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use relevo_domain as domain;
use relevo_recipients_file::TextTemplate;

use super::Error;
use super::error_log::ErrorLog;
use super::folders::JobFolder;
use super::job::{Plan, RowStatus};
use super::provider_id_index::ProviderIdIndex;
use super::results::{ResultFile, ResultSummary};
use super::row_record::RowRecord;
use super::storage::{Checkpoint, JobRecord};

/// Number of bytes of the source that are hashed at once.
const HASH_CHUNK: usize = 64 << 10;

/// The open files of a job.
pub(super) struct JobFiles {
    record: Arc<JobRecord>,
    folder: JobFolder,
    results: ResultFile,
    error_log: ErrorLog,
    provider_ids: ProviderIdIndex,
    /// For jobs whose message is a text with placeholders.
    template: Option<TextTemplate>,
    /// The source was compared with the digest in the job's record.
    is_source_checked: bool,
}

impl JobFiles {
    /// Opens the files, truncates what is after the checkpoint, and summarizes the rest.
    pub fn open(
        record: Arc<JobRecord>,
        folder: JobFolder,
        checkpoint: &Checkpoint,
    ) -> Result<(Self, ResultSummary), Error> {
        let template = match &record.plan {
            Plan::Text(text) => Some(record.format.template(text)?),
            Plan::Common(_) | Plan::PerRow => None,
        };
        match Self::open_files(&record, &folder, checkpoint) {
            Ok((results, error_log, provider_ids, summary)) => {
                let is_source_checked = false;
                let files =
                    Self { record, folder, results, error_log, provider_ids, template, is_source_checked };
                Ok((files, summary))
            }
            Err(cause) => Err(io_error(&folder, cause)),
        }
    }

    fn open_files(
        record: &JobRecord,
        folder: &JobFolder,
        checkpoint: &Checkpoint,
    ) -> std::io::Result<(ResultFile, ErrorLog, ProviderIdIndex, ResultSummary)> {
        let end = checkpoint.cursor.row;
        let mut results = ResultFile::open(&folder.results())?;
        results.truncate(end)?;
        let summary = results.summarize(checkpoint)?;
        let error_log = ErrorLog::open(&folder.error_log(), summary.last_log_offset)?;
        // While a job runs, a power cut may lose entries of the index, and old versions of the node wrote none.
        let is_complete = checkpoint.status.is_finished() || end == 0;
        let provider_ids = if is_complete && folder.provider_ids().exists() {
            ProviderIdIndex::open(&folder.provider_ids())?
        } else {
            ProviderIdIndex::rebuild(folder, record.total, &results, &error_log, end)?
        };
        Ok((results, error_log, provider_ids, summary))
    }

    /// Offset where the error log ends.
    pub fn errors_end(&self) -> u64 {
        self.error_log.end()
    }

    /// Records that returned rows of a cancelled job are cancelled.
    pub fn cancel(&mut self, rows: &[u32], next: &mut Checkpoint) -> Result<(), Error> {
        for &row in rows {
            let Some(previous) = self.record_of(row)? else { continue };
            if previous.status != RowStatus::Open {
                continue;
            }
            let status = RowStatus::Message(domain::Status::Cancelled);
            let changed = RowRecord { status, at: next.updated_at, ..previous.clone() };
            self.put(row, &changed)?;
            next.counts.apply_change(Some(&previous), &changed);
        }
        self.sync()?;
        self.sync_index()
    }

    /// Makes the index of provider ids durable. Until then, it is rebuilt after a power cut.
    pub fn sync_index(&self) -> Result<(), Error> {
        self.provider_ids.sync().map_err(|cause| self.io_error(cause))
    }

    /// Rebuilds the index of provider ids, with space for another pass over failed rows.
    pub fn rebuild_index(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let end = checkpoint.cursor.row;
        let rebuilt =
            ProviderIdIndex::rebuild(&self.folder, self.record.total, &self.results, &self.error_log, end);
        self.provider_ids = rebuilt.map_err(|cause| self.io_error(cause))?;
        Ok(())
    }

    /// Checks that the source is the one with which the job was created: a damaged one would send to other recipients.
    fn check_source(&mut self) -> io::Result<()> {
        let Some(expected) = self.record.source_sha256.filter(|_| !self.is_source_checked) else {
            return Ok(());
        };
        let mut file = File::open(self.folder.source())?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; HASH_CHUNK]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => hasher.update(buffer.get(..count).unwrap_or_default()),
            }
        }
        let found: [u8; 32] = hasher.finalize().into();
        if found != expected {
            let text = "the source is damaged: its contents are not those with which the job was created";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.is_source_checked = true;
        Ok(())
    }

    fn record_of(&self, row: u32) -> Result<Option<RowRecord>, Error> {
        self.results.get(row).map_err(|cause| self.io_error(cause))
    }

    fn put(&mut self, row: u32, record: &RowRecord) -> Result<(), Error> {
        self.results.put(row, record).map_err(|cause| io_error(&self.folder, cause))
    }

    /// The error log first: records refer to its entries.
    fn sync(&mut self) -> Result<(), Error> {
        self.error_log
            .sync()
            .and_then(|()| self.results.sync())
            .map_err(|cause| io_error(&self.folder, cause))
    }

    fn io_error(&self, cause: std::io::Error) -> Error {
        io_error(&self.folder, cause)
    }
}

fn io_error(folder: &JobFolder, cause: std::io::Error) -> Error {
    Error::io("cannot access the files of a bulk job in", &folder.path, cause)
}
