//! Bulk jobs: one message, or one template, to many recipients.
//!
//! What it promises:
//! - *Accepted means durable.* A job is answered after its rows and its record are on the disk; it goes on by itself
//!   after a crash, a power cut or an upgrade.
//! - *Every row once.* A row is taken from the source, marked in the result file and handed to the queue under one
//!   checkpoint: what lies before the checkpoint was handed over, what lies behind it was not. How a row ended is in the
//!   result file, synced, before the queue forgets it.
//! - *Bounded memory.* A job keeps a window of open rows and nothing else; rows, results and errors are read from its
//!   files page by page.
//! - *Sticky and shared.* The rows of one recipient go through one instance, each instance gets its share by its rate,
//!   and what an instance that is gone had not begun moves to the others.
//!
//! A job's files lie in `jobs/<uuid>/` of the data folder: `source` (what was uploaded, or a line of JSON per
//! recipient), `results` (one record of fixed width per row), `notes` (what went wrong, in the order in which it did)
//! and `names` (rows by WhatsApp's ids). Its place in the queue is a slot ([`domain::BulkItem`](relevo_domain::BulkItem)).

mod actor;
mod blobs;
mod deletion;
mod error_log;
mod folders;
mod handle;
mod job;
mod job_files;
mod json_lines;
mod planner;
mod preview;
mod provider_id_index;
mod report;
mod results;
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

pub use folders::{FileUpload, JobDraft, RecipientListWriter};
pub use handle::{Handle, ListCursor, ListFilter, ResultPage};
pub use job::{
    JobKind, JobProgress, JobSender, JobStatus, JobView, LastRow, NewJob, OnSuppressed, Plan, RowCounts,
    RowError, RowResult, RowStatus, SenderSelection,
};
pub use job_files::SuppressionCheck;
pub use preview::{MinimalMessage, Preview, PreviewRow};
pub use senders::{InstanceLister, SenderInstance, instance_lister};
pub use sending_hours::SendingHours;
pub use supervisor::{Arguments, BulkSupervisor, Dependencies, Msg};

/// How jobs run and how long they are kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rows of one job that are in the queue at once.
    pub window: u32,
    /// Rows that a job may have; at most [`BulkItem::ROWS`](relevo_domain::BulkItem::ROWS).
    pub max_rows: u32,
    /// Jobs that may wait or run at once.
    pub max_active: usize,
    /// An instance that has been connecting for this long is not waited for any more.
    pub instance_patience: Duration,
    /// How long a finished file job is kept.
    pub retention: Duration,
    /// How long a finished broadcast is kept.
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
            retention: days(30),
            broadcast_retention: days(2),
        }
    }
}

/// Why a job was not created, changed or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no job has the id {0}")]
    Unknown(Uuid),
    #[error("a job with the id {0} exists")]
    Exists(Uuid),
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    #[error("Se requiere al menos un número telefónico")]
    Empty,
    /// The uploaded file is refused as a whole.
    #[error(transparent)]
    File(#[from] recipients_file::BadFile),
    #[error(transparent)]
    Template(#[from] recipients_file::BadTemplate),
    #[error("the job has more than {limit} recipients; split it")]
    TooManyRows { limit: u32 },
    #[error("No hay devices disponibles")]
    NoDevices,
    #[error("{limit} jobs wait or run already; try again when one has finished")]
    TooManyJobs { limit: usize },
    #[error("the job is {status}: {why}")]
    State { status: JobStatus, why: &'static str },
    /// The rows cannot be read.
    #[error("the job's rows cannot be read: {0}")]
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

    /// The field of the request that is wrong, when one is.
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
