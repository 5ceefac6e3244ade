//! Bulk jobs: one message, or one template, to many recipients.
//!
//! Guarantees:
//! - *Accepted means durable.* A request is answered after the rows and the record of the job are on the disk. The job
//!   continues by itself after a crash, a power cut or an upgrade.
//! - *Every row once.* A row is read from the source, marked in the result file and handed over to the queue under one
//!   checkpoint: rows before the checkpoint were handed over, rows after it were not. The outcome of a row is in the result
//!   file, synced, before the queue deletes it.
//! - *Bounded memory.* A job holds only its window of open rows in memory. Rows, results and errors are read from its files
//!   page by page.
//! - *Sticky senders.* All rows of a recipient go through one instance. Each instance gets a share in proportion to its
//!   rate. Rows of an unavailable instance that have no attempt move to the others.
//!
//! The files of a job are in `jobs/<uuid>/` of the data folder: `source` (the uploaded file, or one line of JSON per
//! recipient), `results` (one record of fixed width per row), `notes` (the error log) and `names` (the index from provider
//! message ids to rows). The queue knows a job by its slot ([`BulkItem`](relevo_domain::BulkItem)).

mod actor;
mod blobs;
mod commands;
mod context;
mod directory;
mod drafts;
mod error_log;
mod folders;
mod handle;
mod job;
mod job_files;
mod json_lines;
mod messages;
mod planner;
mod preview;
mod provider_id_index;
mod report;
mod results;
mod row_record;
mod row_selection;
mod senders;
mod sending_hours;
mod source;
mod storage;
mod supervisor;
#[cfg(test)]
mod tests;

use std::time::Duration;

use uuid::Uuid;

use crate::supervisor::ActorUnavailable;
use crate::{instance, queue};
use relevo_domain::{ErrorKind, ValidationError};
use relevo_recipients_file as recipients_file;
use relevo_store as store;

pub use context::{Dependencies, SuppressionCheck};
pub use drafts::{FileUpload, JobDraft, RecipientListWriter};
pub use handle::Handle;
pub use job::{
    JobKind, JobProgress, JobSender, JobStatus, JobView, LastRow, ListCursor, ListFilter, NewJob,
    OnSuppressed, Plan, ResultPage, RowCounts, RowError, RowResult, RowStatus, SenderSelection,
};
pub use messages::Msg;
pub use preview::{MinimalMessage, Preview, PreviewRow};
pub use senders::{InstanceLister, SenderInstance, instance_lister};
pub use sending_hours::SendingHours;
pub use supervisor::{Arguments, BulkSupervisor};

/// Limits and retention of jobs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum number of open rows of a job: rows that are in the queue.
    pub window: u32,
    /// Maximum number of rows of a job; at most [`BulkItem::ROWS`](relevo_domain::BulkItem::ROWS).
    pub max_rows: u32,
    /// Maximum number of jobs that have not ended.
    pub max_active: usize,
    /// An instance that has been connecting for longer counts as unavailable.
    pub instance_patience: Duration,
    /// A job of which no instance could send for this long, in time in which it would have sent, ends as failed. Zero:
    /// never.
    pub stalled_after: Duration,
    /// How long an ended file job is kept.
    pub retention: Duration,
    /// How long an ended broadcast (a list job) is kept.
    pub broadcast_retention: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let days = |n: u64| Duration::from_secs(n * 24 * 3600);
        Self {
            window: 2_000,
            max_rows: 1_000_000,
            max_active: 200,
            instance_patience: Duration::from_secs(30),
            stalled_after: Duration::ZERO,
            retention: days(30),
            broadcast_retention: days(2),
        }
    }
}

/// Why a job could not be created, changed or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("job {0} does not exist")]
    Unknown(Uuid),
    #[error("job {0} exists already")]
    Exists(Uuid),
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    #[error("Se requiere al menos un número telefónico")]
    Empty,
    /// The whole uploaded file is refused.
    #[error(transparent)]
    File(#[from] recipients_file::BadFile),
    #[error(transparent)]
    Template(#[from] recipients_file::BadTemplate),
    #[error("the job has more than {limit} recipients; split it")]
    TooManyRows { limit: u32 },
    #[error("No hay devices disponibles")]
    NoDevices,
    #[error("{limit} jobs are active, which is the limit; try again when one has ended")]
    TooManyJobs { limit: usize },
    #[error("the job is {status}: {why}")]
    State { status: JobStatus, why: &'static str },
    /// The rows of the job cannot be read.
    #[error("cannot read the job's rows: {0}")]
    Source(String),
    #[error("{action} {path}: {cause}")]
    Io { action: &'static str, path: std::path::PathBuf, cause: String },
    #[error(transparent)]
    Instance(#[from] instance::Error),
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Unknown(_) => ErrorKind::NotFound,
            Error::File(error) => error.kind(),
            Error::Template(error) => error.kind(),
            Error::Exists(_) | Error::State { .. } => ErrorKind::Conflict,
            Error::Invalid(_) | Error::Empty | Error::NoDevices => ErrorKind::Invalid,
            Error::TooManyRows { .. } => ErrorKind::TooLarge,
            Error::TooManyJobs { .. } => ErrorKind::Throttled(Duration::from_secs(60)),
            Error::Io { .. } | Error::Source(_) | Error::Gone(_) => ErrorKind::Unavailable,
            Error::Instance(error) => error.kind(),
            Error::Queue(error) => error.kind(),
            Error::Store(error) => error.kind(),
        }
    }

    /// The invalid field of the request, if the error is about one.
    pub fn invalid(&self) -> Option<&ValidationError> {
        match self {
            Error::Invalid(invalid) => Some(invalid),
            Error::Instance(error) => error.invalid(),
            _ => None,
        }
    }

    fn io(action: &'static str, path: &std::path::Path, cause: impl std::fmt::Display) -> Self {
        Self::Io { action, path: path.to_owned(), cause: cause.to_string() }
    }
}
