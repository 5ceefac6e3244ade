//! `GET /api/task-status/{task_id}`: what became of what was queued.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::counts;
use super::responses::{GraphSendResponse, TaskCounts, recipient_error};
use crate::bulk::{self, JobProgress, JobView};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::{ApplicationError, ApplicationErrorBody, upstream_error_text};
use crate::http::api::texts::TASK_NOT_FOUND;
use crate::http::error::ApiError;
use crate::http::extract::TaskIdPath;
use crate::queue::{LedgerStep, MessageView};
use relevo_domain::{ErrorKind, Failure, MessageId, MessageRef, Status, Timestamp};

/// A task with its status.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Task {
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    task_id: String,
    status: TaskState,
    /// The result; `null` until the task ended. For bulk messages also the result so far.
    result: Option<TaskResult>,
    /// What the task waits for, if its instance cannot send now, or why it failed as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// RFC 3339.
    created_at: String,
    completed_at: Option<String>,
}

/// The states of the documented task queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::http) enum TaskState {
    /// Waiting.
    Pending,
    /// Being sent, or sent with an unknown outcome.
    Started,
    /// Failed; will be retried.
    Retry,
    /// WhatsApp took it.
    Success,
    /// Not sent; will not be retried.
    Failure,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct TaskResult {
    /// For a single message.
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
    /// For a sent single message.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<GraphSendResponse>,
    /// For a single message that was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    counts: TaskCounts,
}

/// The status of a task by the `task_id` of a response, as long as the message is retained.
#[utoipa::path(get, path = "/api/task-status/{task_id}", operation_id = "api_task_status", tag = "api", params(TaskIdPath), responses(
    (status = 200, description = "The task.", body = Task),
    (status = 404, description = "No such task.", body = ApplicationErrorBody),
))]
pub async fn status(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TaskIdPath(task_id): TaskIdPath,
) -> Result<Json<Task>, ApplicationError> {
    if let Some(job) = task_id.parse().ok().and_then(|id| state.services.bulk.get(id).ok()) {
        return Ok(Json(Task::from_job(&state, job).await?));
    }
    let id: MessageId = task_id.parse().map_err(|_| task_not_found())?;
    match state.services.queue.find(id.instance(), &MessageRef::Ours(id)) {
        Ok(view) => {
            let waits_for = if view.status.is_settled() { None } else { waits_for(&state, id) };
            Ok(Json(Task { error: waits_for, ..Task::from_message(view) }))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(task_not_found()),
        Err(error) => Err(ApiError::from(error).into()),
    }
}

/// What the message of an instance waits for, if the instance cannot send now.
fn waits_for(state: &AppState, id: MessageId) -> Option<String> {
    let views = state.services.instances.list();
    views.iter().find(|view| view.number == id.instance())?.waits_for()
}

fn task_not_found() -> ApplicationError {
    ApplicationError::new(StatusCode::NOT_FOUND, TASK_NOT_FOUND)
}

impl Task {
    /// A single message as a task.
    fn from_message(view: MessageView) -> Self {
        let task_id = view.id.correlation_id().to_string();
        let created_at = view.id.accepted_at().to_string();
        let completed_at = settled_at(&view.history).map(|at| at.to_string());
        let status = TaskState::from_message(&view);
        let result = TaskResult::from_message(status, view);
        Self { task_id, status, result, error: None, created_at, completed_at }
    }
}

impl Task {
    /// A bulk job as a task; while it runs, with the result so far.
    async fn from_job(state: &AppState, job: JobView) -> Result<Self, ApiError> {
        let progress = &job.progress;
        let status = TaskState::from_job(progress);
        let result = match status {
            TaskState::Pending => None,
            _ => {
                let counts = counts::job_counts(&state.services.bulk, job.id, progress).await?;
                Some(TaskResult { success: None, data: None, error: progress.error.clone(), counts })
            }
        };
        Ok(Self {
            task_id: job.id.to_string(),
            status,
            result,
            error: progress.error.clone(),
            created_at: job.created_at.to_string(),
            completed_at: progress.ended_at.map(|at| at.to_string()),
        })
    }
}

impl TaskState {
    /// A job that ended without a sent message has failed.
    fn from_job(progress: &JobProgress) -> Self {
        match progress.status {
            bulk::JobStatus::Pending => TaskState::Pending,
            bulk::JobStatus::Processing if progress.taken == 0 => TaskState::Pending,
            bulk::JobStatus::Processing | bulk::JobStatus::Paused => TaskState::Started,
            bulk::JobStatus::Completed if progress.counts.sent > 0 => TaskState::Success,
            bulk::JobStatus::Completed | bulk::JobStatus::Failed | bulk::JobStatus::Cancelled => {
                TaskState::Failure
            }
        }
    }

    fn from_message(view: &MessageView) -> Self {
        match view.status {
            Status::Scheduled => TaskState::Pending,
            Status::Queued if view.attempts == 0 => TaskState::Pending,
            Status::Queued | Status::Deferred => TaskState::Retry,
            Status::Sending | Status::Ambiguous => TaskState::Started,
            Status::Sent | Status::Delivered | Status::Read | Status::Played => TaskState::Success,
            Status::Failed | Status::Expired | Status::Cancelled | Status::DeadLetter => TaskState::Failure,
        }
    }
}

impl TaskResult {
    fn from_message(state: TaskState, view: MessageView) -> Option<Self> {
        match state {
            TaskState::Pending | TaskState::Started | TaskState::Retry => None,
            TaskState::Success => {
                let id = view.provider_id.as_ref();
                let data = id.map(|id| GraphSendResponse::new(view.to.to_string(), &view.to, id));
                Some(Self { success: Some(true), data, error: None, counts: TaskCounts::one_sent() })
            }
            TaskState::Failure => {
                let unexplained = || Failure::permanent(format!("the message is {}", view.status));
                let failure = view.failure.clone().unwrap_or_else(unexplained);
                let counts = TaskCounts::one_failed(recipient_error(&view.to, &failure));
                let error = Some(upstream_error_text(&failure));
                Some(Self { success: Some(false), data: None, error, counts })
            }
        }
    }
}

/// When the message was settled. Later steps are statuses of WhatsApp.
fn settled_at(history: &[LedgerStep]) -> Option<Timestamp> {
    let mut at = None;
    for step in history {
        at = if step.status.is_settled() { at.or(Some(step.at)) } else { None };
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::{BuryReason, Class, InstanceNumber, Mode};

    fn view(status: Status, attempts: u32) -> MessageView {
        MessageView {
            id: MessageId::new(Timestamp(1), 0, InstanceNumber::FIRST, Class::Transactional, 7),
            to: "573001234567".parse().unwrap(),
            kind: "text".to_owned(),
            mode: Mode::Async,
            status,
            attempts,
            provider_id: Some("wamid.X".parse().unwrap()),
            failure: None,
            buried: Some(BuryReason::Ambiguous),
            due: None,
            history: Vec::new(),
            elided: 0,
        }
    }

    #[test]
    fn message_status_maps_to_task_state_and_only_final_states_have_a_result() {
        for (status, attempts, state) in [
            (Status::Scheduled, 0, TaskState::Pending),
            (Status::Queued, 0, TaskState::Pending),
            (Status::Queued, 1, TaskState::Retry),
            (Status::Deferred, 1, TaskState::Retry),
            (Status::Sending, 1, TaskState::Started),
            (Status::Ambiguous, 1, TaskState::Started),
            (Status::Sent, 1, TaskState::Success),
            (Status::Delivered, 1, TaskState::Success),
            (Status::Read, 1, TaskState::Success),
            (Status::Played, 1, TaskState::Success),
            (Status::Failed, 1, TaskState::Failure),
            (Status::Expired, 0, TaskState::Failure),
            (Status::Cancelled, 0, TaskState::Failure),
            (Status::DeadLetter, 1, TaskState::Failure),
        ] {
            let view = view(status, attempts);
            assert_eq!(TaskState::from_message(&view), state, "{status}");
            let ended = matches!(state, TaskState::Success | TaskState::Failure);
            let result = TaskResult::from_message(state, view);
            assert_eq!(result.is_some(), ended, "{status}");
            let success = result.and_then(|result| result.success);
            assert_eq!(success, ended.then_some(state == TaskState::Success), "{status}");
        }
    }

    #[test]
    fn job_succeeds_if_any_message_was_sent() {
        use bulk::JobStatus::*;
        for (status, taken, sent, state) in [
            (Pending, 0, 0, TaskState::Pending),
            (Processing, 0, 0, TaskState::Pending),
            (Processing, 2, 0, TaskState::Started),
            (Paused, 2, 1, TaskState::Started),
            (Completed, 2, 1, TaskState::Success),
            (Completed, 2, 0, TaskState::Failure),
            (Failed, 2, 1, TaskState::Failure),
            (Cancelled, 2, 1, TaskState::Failure),
        ] {
            let progress = JobProgress {
                status,
                counts: bulk::RowCounts { sent, ..bulk::RowCounts::default() },
                total: 2,
                taken,
                last: None,
                errors_end: 0,
                error: None,
                updated_at: Timestamp(1),
                started_at: None,
                ended_at: None,
                senders: Vec::new(),
            };
            assert_eq!(TaskState::from_job(&progress), state, "{status} {taken} {sent}");
        }
    }

    #[test]
    fn completed_at_is_the_last_settlement_of_the_message() {
        let history = |steps: &[(Status, u64)]| {
            settled_at(
                &steps.iter().map(|&(status, at)| LedgerStep::new(status, Timestamp(at))).collect::<Vec<_>>(),
            )
        };
        use Status::*;
        assert_eq!(history(&[(Queued, 1), (Sending, 2)]), None);
        assert_eq!(history(&[(Queued, 1), (Sending, 2), (Sent, 3), (Read, 9)]), Some(Timestamp(3)));
        assert_eq!(history(&[(DeadLetter, 3), (Queued, 4)]), None);
        assert_eq!(history(&[(DeadLetter, 3), (Queued, 4), (Sent, 6)]), Some(Timestamp(6)));
    }
}
