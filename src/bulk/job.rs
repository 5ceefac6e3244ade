//! The public types of bulk jobs: their definition, their progress, and the results of their rows.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use relevo_domain::{self as domain, Content, InstanceId, InstanceNumber, ProviderMessageId, Timestamp};

use super::SendingHours;

/// A job to create. Its rows are in a [`JobDraft`](super::JobDraft).
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Chosen by the caller, so that it can be returned before the job exists.
    pub id: Uuid,
    /// The API that creates it.
    pub kind: JobKind,
    /// Name of the uploaded file, for display.
    pub file_name: Option<String>,
    /// What the recipients get.
    pub plan: Plan,
    /// Which instances send.
    pub senders: SenderSelection,
    /// Nothing is sent before this time.
    pub send_at: Option<Timestamp>,
    /// The hours of the day in which rows are sent.
    pub window: Option<SendingHours>,
    /// What happens to rows of suppressed recipients.
    pub suppressed: OnSuppressed,
}

/// The API that created a job. It decides the retention of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// An uploaded file.
    File,
    /// The recipients of one request of `/api`.
    List,
}

impl JobKind {
    /// The name in the API.
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
    /// A text with the placeholders `@valor1`, `@valor2`, … for the row's values.
    Text(String),
    /// The same content for all recipients.
    Common(Content),
    /// Every row has its own content.
    PerRow,
}

/// Which instances send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SenderSelection {
    /// These, in any state.
    Named(Vec<InstanceId>),
    /// Up to `limit` connected ones.
    Any { limit: u8 },
}

/// What happens to rows whose recipient is on the suppression list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSuppressed {
    Skip,
    Send,
}

/// An instance that sends for a job. Its `device_id` is its position among the job's senders, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSender {
    /// Its number, which message ids contain.
    pub number: InstanceNumber,
    /// Its id, which the API uses.
    pub id: InstanceId,
}

impl JobSender {
    /// The sender with a `device_id`; `None` for 0, which means no instance.
    pub(super) fn find(senders: &[JobSender], device_id: u8) -> Option<&JobSender> {
        senders.get(usize::from(device_id).checked_sub(1)?)
    }
}

/// The status of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Not started; waits for `send_at` or the sending hours.
    Pending,
    /// Hands over rows and records outcomes.
    Processing,
    /// Stopped by a command until it is resumed.
    Paused,
    /// All rows have an outcome.
    Completed,
    /// Its rows cannot be read, or no instance could send for too long; see [`JobProgress::error`].
    Failed,
    /// Ended by a command.
    Cancelled,
}

impl JobStatus {
    /// All statuses.
    pub const ALL: [JobStatus; 6] = [
        JobStatus::Pending,
        JobStatus::Processing,
        JobStatus::Paused,
        JobStatus::Completed,
        JobStatus::Failed,
        JobStatus::Cancelled,
    ];

    /// The name in the API.
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

    /// Whether the job has ended. Only a retry of its failed rows changes that.
    pub fn is_finished(self) -> bool {
        matches!(self, JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled)
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Number of rows by outcome. A row is counted once among `sent`, `failed`, `skipped` and `cancelled`; the other counts are
/// subsets of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowCounts {
    /// Accepted by WhatsApp, with any later receipt.
    pub sent: u32,
    /// Of those sent: delivered to a device, or read.
    pub delivered: u32,
    /// Of those sent: read.
    pub read: u32,
    /// Not sent, or not known to be sent; includes ambiguous and invalid rows.
    pub failed: u32,
    /// Of those failed: an attempt was made and its outcome is unknown (yet).
    pub ambiguous: u32,
    /// Of those failed: the row has no valid recipient or message.
    pub invalid: u32,
    /// Not sent, because the recipient is on the suppression list.
    pub skipped: u32,
    /// Withdrawn before an attempt, because the job was cancelled.
    pub cancelled: u32,
}

impl RowCounts {
    /// Number of rows that have an outcome.
    pub fn settled(&self) -> u32 {
        self.sent + self.failed + self.skipped + self.cancelled
    }
}

/// The progress of a job. Published whenever it changes; readers see the newest.
#[derive(Debug, Clone, PartialEq)]
pub struct JobProgress {
    /// The status of the job.
    pub status: JobStatus,
    /// Number of rows by outcome.
    pub counts: RowCounts,
    /// Number of rows of the job.
    pub total: u32,
    /// Number of rows that were taken from the source; every thousand is a chunk.
    pub taken: u32,
    /// The row that changed last.
    pub last: Option<LastRow>,
    /// Offset where the job's errors end; see [`Handle::errors`](super::Handle::errors).
    pub errors_end: u64,
    /// Why the job failed, or what it waits for.
    pub error: Option<String>,
    /// When the checkpoint changed last.
    pub updated_at: Timestamp,
    /// When the job began to process rows.
    pub started_at: Option<Timestamp>,
    /// When the job ended.
    pub ended_at: Option<Timestamp>,
    /// The instances that sent for the job so far.
    pub senders: Vec<JobSender>,
}

impl JobProgress {
    /// Percentage of rows with an outcome, from 0 to 100, with one decimal.
    pub fn percentage(&self) -> f64 {
        if self.total == 0 {
            return 100.0;
        }
        let tenths = u64::from(self.counts.settled()) * 1000 / u64::from(self.total);
        f64::from(u32::try_from(tenths).unwrap_or(1000)) / 10.0
    }
}

/// A row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRow {
    /// Number of the row, from 0.
    pub row: u32,
    /// The recipient as the source spells it; empty if the actor restarted since.
    pub phone: String,
    /// The new status.
    pub status: RowStatus,
    /// Position of the instance among the job's senders, from 1; `None`: no instance.
    pub device_id: Option<u8>,
    /// The instance that sent the row.
    pub instance: Option<InstanceId>,
}

/// A job, as the API shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// Id of the job.
    pub id: Uuid,
    /// The API that created it.
    pub kind: JobKind,
    /// What the recipients get.
    pub plan: Plan,
    /// Name of the uploaded file.
    pub file_name: Option<String>,
    /// Which instances were requested.
    pub senders: SenderSelection,
    /// When the job was created.
    pub created_at: Timestamp,
    /// Nothing is sent before this time.
    pub send_at: Option<Timestamp>,
    /// The hours of the day in which rows are sent.
    pub window: Option<SendingHours>,
    /// The current progress.
    pub progress: JobProgress,
}

/// The status of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowStatus {
    /// Not handed over to the queue yet, or came back from it.
    Waiting,
    /// In the queue, or being handed over.
    Open,
    /// Not sent: the recipient is on the suppression list.
    Skipped,
    /// Not sent: the row has no valid recipient or message.
    Invalid,
    /// The status of its message.
    Message(domain::Status),
}

impl RowStatus {
    /// The name in the API.
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

/// The result of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct RowResult {
    /// Number of the row, from 0.
    pub row: u32,
    /// Line of the source, from 1.
    pub line: u32,
    /// The recipient as the source spells it.
    pub phone: String,
    /// The status of the row.
    pub status: RowStatus,
    /// Whether the row was sent is unknown (yet).
    pub ambiguous: bool,
    /// When the status was reached; `None` for waiting rows.
    pub at: Option<Timestamp>,
    /// WhatsApp's id of the message.
    pub provider_id: Option<ProviderMessageId>,
    /// Why the row failed.
    pub error: Option<String>,
    /// The provider's error code.
    pub code: Option<i64>,
    /// Position of the instance among the job's senders, from 1.
    pub device_id: Option<u8>,
    /// The instance that sent the row.
    pub instance: Option<InstanceId>,
}

/// An error of a row, in the order in which errors occurred.
#[derive(Debug, Clone, PartialEq)]
pub struct RowError {
    /// Number of the row, from 0.
    pub row: u32,
    /// Line of the source, from 1.
    pub line: u32,
    /// The recipient as the source spells it.
    pub phone: String,
    /// What went wrong.
    pub error: String,
    /// The provider's error code.
    pub code: Option<i64>,
    /// Whether the row was sent is unknown (yet).
    pub ambiguous: bool,
    /// When the error occurred.
    pub at: Timestamp,
    /// Position of the instance among the job's senders, from 1.
    pub device_id: Option<u8>,
    /// The instance that sent the row.
    pub instance: Option<InstanceId>,
}

/// Which jobs a list contains.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only jobs of this kind.
    pub kind: Option<JobKind>,
    /// Only jobs with this status.
    pub status: Option<JobStatus>,
}

/// A position in the list of jobs: after this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListCursor {
    /// When the job was created.
    pub created_at: Timestamp,
    /// Id of the job.
    pub id: Uuid,
}

/// A page of a job's results.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultPage {
    /// In the order of the source.
    pub rows: Vec<RowResult>,
    /// The first row of the next page; `None` after the last one.
    pub next: Option<u32>,
}
