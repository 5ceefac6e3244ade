//! The words of this room: what a job is, where it stands, and where each of its rows stands.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use relevo_domain::{self as domain, Content, InstanceId, InstanceNumber, ProviderMessageId, Timestamp};

use super::SendingHours;

/// A job that somebody wants done. Its rows come in a [`Draft`](super::Draft).
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Chosen by the caller, so that the answer can be promised before the job exists.
    pub id: Uuid,
    pub kind: JobKind,
    /// The name of the uploaded file, for people.
    pub file_name: Option<String>,
    pub plan: Plan,
    pub senders: SenderSelection,
    /// Nothing is sent before this moment.
    pub send_at: Option<Timestamp>,
    /// The hours of the day in which it may be sent.
    pub window: Option<SendingHours>,
    pub suppressed: OnSuppressed,
}

/// Which API a job came from; how long it is kept follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// An uploaded file.
    File,
    /// The recipients of one request of `/api`.
    List,
}

impl JobKind {
    pub fn as_str(self) -> &'static str {
        match self {
            JobKind::File => "file",
            JobKind::List => "list",
        }
    }
}

/// What each recipient gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// A text with `@valor1`, `@valor2`, … in the place of the row's values.
    Text(String),
    /// The same for everybody.
    Common(Content),
    /// Every row brings its own.
    PerRow,
}

/// Which instances send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SenderSelection {
    /// These, whatever state they are in.
    Named(Vec<InstanceId>),
    /// Up to `limit` that are connected.
    Any { limit: u8 },
}

/// What becomes of rows whose recipient must not be written to unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSuppressed {
    Skip,
    Send,
}

/// An instance that sends for a job. Its `device_id` is its place among the job's senders, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSender {
    pub number: InstanceNumber,
    pub id: InstanceId,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waits for its moment.
    Pending,
    Processing,
    /// Stopped by somebody who may let it go on.
    Paused,
    Completed,
    /// It could not go on; [`Progress::error`] says why.
    Failed,
    Cancelled,
}

impl JobStatus {
    pub const ALL: [JobStatus; 6] = [
        JobStatus::Pending,
        JobStatus::Processing,
        JobStatus::Paused,
        JobStatus::Completed,
        JobStatus::Failed,
        JobStatus::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            JobStatus::Pending => "pending",
            JobStatus::Processing => "processing",
            JobStatus::Paused => "paused",
            JobStatus::Completed => "completed",
            JobStatus::Failed => "failed",
            JobStatus::Cancelled => "cancelled",
        }
    }

    /// Whether the job has nothing left to do, unless somebody asks for failed rows to be tried again.
    pub fn is_finished(self) -> bool {
        matches!(self, JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled)
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many rows stand where. A row is counted once among `sent`, `failed`, `skipped` and `cancelled`; the others say
/// more about some of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowCounts {
    /// Taken by WhatsApp, whatever it reported later.
    pub sent: u32,
    /// Of those sent: reached a device, or better.
    pub delivered: u32,
    /// Of those sent: seen.
    pub read: u32,
    /// Not sent, or not known to be; the ambiguous and the invalid are among them.
    pub failed: u32,
    /// Of those failed: an attempt went out and nobody knows what became of it (yet).
    pub ambiguous: u32,
    /// Of those failed: the row names no recipient that could be written to.
    pub invalid: u32,
    /// Not sent, because the recipient must not be written to unasked.
    pub skipped: u32,
    /// Taken back before an attempt, because the job was cancelled.
    pub cancelled: u32,
}

impl RowCounts {
    /// Rows that have come to an end, as far as the job is concerned.
    pub fn settled(&self) -> u32 {
        self.sent + self.failed + self.skipped + self.cancelled
    }
}

/// How far a job is. Published whenever it moves; readers see the newest.
#[derive(Debug, Clone, PartialEq)]
pub struct JobProgress {
    pub status: JobStatus,
    pub counts: RowCounts,
    pub total: u32,
    /// Rows that were taken from the source so far; every thousand is a chunk.
    pub taken: u32,
    /// The row that moved last.
    pub last: Option<LastRow>,
    /// Where the job's errors end; see [`Handle::errors`](super::Handle::errors).
    pub errors_end: u64,
    /// Why the job failed, or what it waits for.
    pub error: Option<String>,
    pub updated_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub senders: Vec<JobSender>,
}

impl JobProgress {
    /// From 0 to 100, to one decimal.
    pub fn percentage(&self) -> f64 {
        if self.total == 0 {
            return 100.0;
        }
        let tenths = u64::from(self.counts.settled()) * 1000 / u64::from(self.total);
        f64::from(u32::try_from(tenths).unwrap_or(1000)) / 10.0
    }
}

/// A row that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRow {
    pub row: u32,
    /// As it was written to; empty when that is not known any more.
    pub phone: String,
    pub status: RowStatus,
    /// From 1; `None` when no instance was involved.
    pub device_id: Option<u8>,
    pub instance: Option<InstanceId>,
}

/// A job for people and programs.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    pub id: Uuid,
    pub kind: JobKind,
    pub plan: Plan,
    pub file_name: Option<String>,
    /// Which instances were asked for.
    pub senders: SenderSelection,
    pub created_at: Timestamp,
    pub send_at: Option<Timestamp>,
    pub window: Option<SendingHours>,
    pub progress: JobProgress,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowStatus {
    /// Not taken from the source yet.
    Waiting,
    /// In the queue, or about to be.
    Open,
    /// Its recipient must not be written to unasked.
    Skipped,
    /// It names no recipient that could be written to, or its message cannot be made.
    Invalid,
    /// As its message stands.
    Message(domain::Status),
}

impl RowStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            RowStatus::Waiting => "pending",
            RowStatus::Open => "queued",
            RowStatus::Skipped => "skipped",
            RowStatus::Invalid => "invalid",
            RowStatus::Message(status) => status.as_str(),
        }
    }

    /// Whether the row counts as failed.
    pub fn is_failure(self) -> bool {
        use domain::Status::{Ambiguous, DeadLetter, Expired, Failed};
        matches!(self, RowStatus::Invalid | RowStatus::Message(Ambiguous | Failed | Expired | DeadLetter))
    }
}

/// One line of a job's results.
#[derive(Debug, Clone, PartialEq)]
pub struct RowResult {
    /// From 0.
    pub row: u32,
    /// The line of the source, from 1.
    pub line: u32,
    /// The recipient as the source spells it.
    pub phone: String,
    pub status: RowStatus,
    /// Nobody knows whether it was sent (yet).
    pub ambiguous: bool,
    /// When it came to be so; `None` for rows that wait.
    pub at: Option<Timestamp>,
    pub provider_id: Option<ProviderMessageId>,
    pub error: Option<String>,
    /// The provider's own code.
    pub code: Option<i64>,
    pub device_id: Option<u8>,
    pub instance: Option<InstanceId>,
}

/// Something that went wrong with a row, in the order in which it did.
#[derive(Debug, Clone, PartialEq)]
pub struct RowError {
    pub row: u32,
    pub line: u32,
    pub phone: String,
    pub error: String,
    pub code: Option<i64>,
    pub ambiguous: bool,
    pub at: Timestamp,
    pub device_id: Option<u8>,
    pub instance: Option<InstanceId>,
}
