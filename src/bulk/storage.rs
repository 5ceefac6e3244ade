//! The stored records of jobs: the request, written once, and the checkpoint, written in every commit that advances it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use relevo_domain::{BulkItem, Timestamp};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::job::{
    JobKind, JobProgress, JobSender, JobStatus, NewJob, OnSuppressed, Plan, RowCounts, SenderSelection,
};
use super::sending_hours::SendingHours;
use super::source::{SourceFormat, SourcePosition};

/// The request of a job. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub id: Uuid,
    pub kind: JobKind,
    pub format: SourceFormat,
    pub file_name: Option<String>,
    pub plan: Plan,
    pub senders: SenderSelection,
    pub total: u32,
    pub send_at: Option<Timestamp>,
    pub window: Option<SendingHours>,
    pub suppressed: OnSuppressed,
    pub created_at: Timestamp,
    /// SHA-256 of the source. None in records of earlier versions.
    #[serde(default)]
    pub source_sha256: Option<[u8; 32]>,
}

impl JobRecord {
    /// The record of a new job.
    pub fn new(
        job: NewJob,
        format: SourceFormat,
        total: u32,
        source_sha256: [u8; 32],
        created_at: Timestamp,
    ) -> Self {
        let NewJob { id, kind, file_name, plan, senders, send_at, window, suppressed } = job;
        Self {
            id,
            kind,
            format,
            file_name,
            plan,
            senders,
            total,
            send_at,
            window,
            suppressed,
            created_at,
            source_sha256: Some(source_sha256),
        }
    }
}

/// The progress of a job. Only the job's actor writes it, in the same commits as the changes that it describes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub status: JobStatus,
    /// Why the job failed.
    pub error: Option<String>,
    /// Rows before it were handed over to the queue, or need not be.
    pub cursor: SourcePosition,
    /// Number of times that the failed rows were retried.
    pub pass: u8,
    /// During a retry of failed rows: rows before it were examined in this pass.
    pub retry: Option<u32>,
    /// Open rows before the cursor that are not in the queue: those that came back from it, and those of a retry that it
    /// did not accept.
    pub returned: Vec<u32>,
    /// The instances that sent for the job so far. Only grows.
    pub senders: Vec<JobSender>,
    /// Counts as of the last commit. After a crash they are counted again from the result file, which may be newer.
    pub counts: RowCounts,
    /// Where the error log ends.
    #[serde(default)]
    pub errors_end: u64,
    /// The job has failed because no instance could send. Rows that were not sent count as failed.
    #[serde(default)]
    pub stalled: bool,
    pub updated_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

impl Checkpoint {
    /// The checkpoint of a new job.
    pub fn new(start: SourcePosition, senders: Vec<JobSender>, now: Timestamp) -> Self {
        Self {
            status: JobStatus::Pending,
            error: None,
            cursor: start,
            pass: 0,
            retry: None,
            returned: Vec::new(),
            senders,
            counts: RowCounts::default(),
            errors_end: 0,
            stalled: false,
            updated_at: now,
            started_at: None,
            ended_at: None,
        }
    }

    /// Number of rows that a stalled job did not send.
    fn stalled_rows(&self, total: u32) -> u32 {
        let returned = u32::try_from(self.returned.len()).unwrap_or(u32::MAX);
        let unsent = total.saturating_sub(self.cursor.row).saturating_add(returned);
        if self.stalled { unsent } else { 0 }
    }

    /// The progress that readers see.
    pub fn progress(&self, total: u32) -> JobProgress {
        let failed = self.counts.failed.saturating_add(self.stalled_rows(total));
        JobProgress {
            status: self.status,
            counts: RowCounts { failed, ..self.counts },
            total,
            taken: self.cursor.row,
            last: None,
            errors_end: self.errors_end,
            error: self.error.clone(),
            updated_at: self.updated_at,
            started_at: self.started_at,
            ended_at: self.ended_at,
            senders: self.senders.clone(),
        }
    }

    /// Writes the checkpoint of the job in `slot`.
    pub fn put(&self, tx: &mut Tx, slot: u16) -> Result<(), Error> {
        tx.put(key(slot, CHECKPOINT), store::encode(self)?)
    }
}

const RECORD: u8 = b'r';
const CHECKPOINT: u8 = b's';

fn key(slot: u16, part: u8) -> Key {
    Key::new(Space::BulkJob).bytes(&slot.to_be_bytes()).u8(part)
}

/// Writes a new job into the first free slot; `None`: all slots are in use.
pub(super) fn create(tx: &mut Tx, record: &JobRecord, checkpoint: &Checkpoint) -> Result<Option<u16>, Error> {
    let mut free = None;
    for slot in 0..BulkItem::JOBS {
        if !tx.contains(&key(slot, RECORD))? {
            free = Some(slot);
            break;
        }
    }
    let Some(slot) = free else { return Ok(None) };
    tx.put(key(slot, RECORD), store::encode(record)?)?;
    checkpoint.put(tx, slot)?;
    Ok(Some(slot))
}

/// Deletes the job in `slot`.
pub(super) fn delete(tx: &mut Tx, slot: u16) -> Result<(), Error> {
    tx.delete(key(slot, RECORD))?;
    tx.delete(key(slot, CHECKPOINT))
}

/// Loads all jobs. Blocks.
pub(super) fn load_all(store: &Store) -> Result<Vec<(u16, JobRecord, Checkpoint)>, Error> {
    let all = Key::new(Space::BulkJob);
    let mut jobs = Vec::new();
    for entry in store.range(&all, &all.clone().after_prefix()) {
        let key = entry?.0;
        let Some((&[high, low], [RECORD])) = key.get(1..).and_then(|rest| rest.split_first_chunk()) else {
            continue;
        };
        let slot = u16::from_be_bytes([high, low]);
        if let (Some(record), Some(checkpoint)) = (load_record(store, slot)?, load_checkpoint(store, slot)?) {
            jobs.push((slot, record, checkpoint));
        }
    }
    Ok(jobs)
}

/// The request of the job in `slot`.
pub(super) fn load_record(store: &Store, slot: u16) -> Result<Option<JobRecord>, Error> {
    load_value(store, &key(slot, RECORD))
}

/// The checkpoint of the job in `slot`.
pub(super) fn load_checkpoint(store: &Store, slot: u16) -> Result<Option<Checkpoint>, Error> {
    load_value(store, &key(slot, CHECKPOINT))
}

fn load_value<T: serde::de::DeserializeOwned>(store: &Store, key: &Key) -> Result<Option<T>, Error> {
    let bytes = store.get(key)?;
    bytes.map(|bytes| store::decode(&bytes)).transpose()
}
