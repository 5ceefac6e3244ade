//! A bulk job as responses show it.

use axum::Json;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::{IntoResponses, ToSchema};

use crate::bulk::{JobProgress, JobStatus, JobView, Plan, RowCounts, SenderSelection};
use crate::http::error::ErrorBody;

/// A bulk job.
#[derive(Debug, Serialize, ToSchema)]
pub struct Job {
    #[schema(example = "0190f3c4-7d1e-7c3a-9a55-0d6f5b1c2e3f")]
    pub(super) id: String,
    /// `pending`, `processing`, `paused`, `completed`, `failed` or `cancelled`.
    #[schema(example = "processing")]
    pub(super) status: &'static str,
    /// `file`, or `list` for the recipients of one request of `/api`.
    pub(super) kind: &'static str,
    #[schema(example = "2026-01-15T20:00:00Z")]
    pub(super) created_at: String,
    pub(super) updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) completed_at: Option<String>,
    /// The template. Missing when each recipient has its own message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file_name: Option<String>,
    pub(super) total_numbers: u32,
    pub(super) devices_limit: usize,
    /// The instances that send; `device_id` counts them from 1.
    pub(super) instances: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) send_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<SendingHoursBody>,
    /// Why the job failed, or what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    pub(super) progress: ProgressBody,
    /// Empty until the job has finished; then `sent`, `failed` and `total`.
    #[schema(value_type = Object)]
    pub(super) results: Value,
}

/// The progress of a job.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ProgressBody {
    /// Accepted by WhatsApp.
    sent: u32,
    /// Not sent or unknown; includes `ambiguous` and `invalid`.
    failed: u32,
    total: u32,
    /// Percentage of finished rows, one decimal.
    #[schema(example = 50.2)]
    percentage: f64,
    /// Sent with an unknown outcome; a late status corrects it.
    ambiguous: u32,
    /// Rows without a valid recipient.
    invalid: u32,
    /// Recipients on the suppression list.
    skipped: u32,
    /// Not sent, because the job was cancelled.
    cancelled: u32,
    /// Sent messages that reached a device.
    delivered: u32,
    /// Sent messages that were read.
    read: u32,
}

/// The hours of the day in which the messages of a job may be sent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SendingHoursBody {
    #[schema(example = "09:00")]
    from: String,
    #[schema(example = "20:00")]
    to: String,
    #[schema(example = "America/Bogota")]
    timezone: String,
}

impl From<&JobProgress> for ProgressBody {
    fn from(progress: &JobProgress) -> Self {
        let RowCounts { sent, delivered, read, failed, ambiguous, invalid, skipped, cancelled } =
            progress.counts;
        let (total, percentage) = (progress.total, progress.percentage());
        let cancelled = cancelled + unprocessed_rows(progress);
        Self { sent, failed, total, percentage, ambiguous, invalid, skipped, cancelled, delivered, read }
    }
}

impl From<JobView> for Job {
    fn from(job: JobView) -> Self {
        let progress = job.progress;
        let instances: Vec<_> = match (&job.senders, progress.senders.is_empty()) {
            (SenderSelection::Named(named), true) => named.iter().map(ToString::to_string).collect(),
            _ => progress.senders.iter().map(|sender| sender.id.to_string()).collect(),
        };
        let devices_limit = match &job.senders {
            SenderSelection::Named(named) => named.len(),
            SenderSelection::Any { limit } => usize::from(*limit),
        };
        Self {
            id: job.id.to_string(),
            status: progress.status.as_str(),
            kind: job.kind.as_str(),
            created_at: job.created_at.to_string(),
            updated_at: progress.updated_at.to_string(),
            started_at: progress.started_at.map(|at| at.to_string()),
            completed_at: progress.ended_at.map(|at| at.to_string()),
            message: match job.plan {
                Plan::Text(text) => Some(text),
                Plan::Common(_) | Plan::PerRow => None,
            },
            file_name: job.file_name,
            total_numbers: progress.total,
            devices_limit,
            instances,
            send_at: job.send_at.map(|at| at.to_string()),
            window: job.window.map(|window| SendingHoursBody {
                from: window.from(),
                to: window.to(),
                timezone: window.zone().to_owned(),
            }),
            error: progress.error.clone(),
            results: results_json(&progress),
            progress: ProgressBody::from(&progress),
        }
    }
}

/// Rows of a cancelled job that were not processed.
fn unprocessed_rows(progress: &JobProgress) -> u32 {
    match progress.status {
        JobStatus::Cancelled => progress.total.saturating_sub(progress.taken),
        _ => 0,
    }
}

/// The results of a finished job.
pub(super) fn results_json(progress: &JobProgress) -> Value {
    if !progress.status.is_finished() {
        return Value::Object(Map::new());
    }
    let RowCounts { sent, failed, ambiguous, skipped, cancelled, .. } = progress.counts;
    let (total, cancelled) = (progress.total, cancelled + unprocessed_rows(progress));
    json!({
        "sent": sent, "failed": failed, "total": total,
        "ambiguous": ambiguous, "skipped": skipped, "cancelled": cancelled,
    })
}

/// Parses the name of a status.
pub(super) fn parse_status(name: &str) -> Option<JobStatus> {
    JobStatus::ALL.into_iter().find(|status| status.as_str() == name)
}

/// The job after a command.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobResponse {
    success: bool,
    data: Job,
}

/// The responses to a command.
#[derive(IntoResponses)]
#[expect(dead_code, clippy::large_enum_variant, reason = "documents the responses only")]
pub(in crate::http) enum JobCommandResponses {
    /// The command is durable.
    #[response(status = 200)]
    Done(JobResponse),
    /// No such job.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The state of the job does not permit the command.
    #[response(status = 409)]
    Conflict(ErrorBody),
}

pub(super) fn job_response(data: Job) -> Json<JobResponse> {
    Json(JobResponse { success: true, data })
}
