//! Telling jobs what to do.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::http::AppState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::JobIdPath;

use super::Job;

/// The job as it stands now.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobResponse {
    success: bool,
    data: Job,
}

/// It is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDeletedResponse {
    success: bool,
    message: &'static str,
}

/// Answers to a command.
#[derive(IntoResponses)]
#[expect(dead_code, clippy::large_enum_variant, reason = "it documents the answers; nobody makes one")]
pub(in crate::http) enum JobCommandResponses {
    /// It is done, durably.
    #[response(status = 200)]
    Done(JobResponse),
    /// No such job.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The job is in no state for that.
    #[response(status = 409)]
    Conflict(ErrorBody),
}

/// Ends a job. What no attempt has begun for is not sent.
#[utoipa::path(
    post,
    path = "/jobs/{job_id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    responses(JobCommandResponses)
)]
pub async fn cancel(
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobResponse>, ApiError> {
    Ok(job_response(state.services.bulk.cancel(id).await?.into()))
}

/// Stops a job until it is resumed.
#[utoipa::path(
    post,
    path = "/jobs/{job_id}/pause",
    operation_id = "pause_job",
    tag = "jobs",
    responses(JobCommandResponses)
)]
pub async fn pause(
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobResponse>, ApiError> {
    Ok(job_response(state.services.bulk.pause(id).await?.into()))
}

/// Lets a paused job go on.
#[utoipa::path(
    post,
    path = "/jobs/{job_id}/resume",
    operation_id = "resume_job",
    tag = "jobs",
    responses(JobCommandResponses)
)]
pub async fn resume(
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobResponse>, ApiError> {
    Ok(job_response(state.services.bulk.resume(id).await?.into()))
}

/// Sends the rows of a finished job again that failed for certain; ambiguous ones may have been sent, and are left
/// alone.
#[utoipa::path(
    post,
    path = "/jobs/{job_id}/retry-failed",
    operation_id = "retry_failed_of_job",
    tag = "jobs",
    responses(JobCommandResponses)
)]
pub async fn retry_failed(
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobResponse>, ApiError> {
    Ok(job_response(state.services.bulk.retry_failed(id).await?.into()))
}

/// Deletes a finished job with its file and its results.
#[utoipa::path(delete, path = "/jobs/{job_id}", operation_id = "delete_job", tag = "jobs", responses(
    (status = 200, description = "It is gone.", body = JobDeletedResponse),
    (status = 404, description = "No such job.", body = ErrorBody),
    (status = 409, description = "It has not finished; cancel it first.", body = ErrorBody),
))]
pub async fn delete(
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobDeletedResponse>, ApiError> {
    state.services.bulk.delete(id).await?;
    Ok(Json(JobDeletedResponse { success: true, message: "Job eliminado" }))
}

fn job_response(data: Job) -> Json<JobResponse> {
    Json(JobResponse { success: true, data })
}
