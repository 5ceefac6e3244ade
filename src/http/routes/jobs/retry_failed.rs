//! `POST /jobs/{job_id}/retry-failed`.

use axum::Json;
use axum::extract::State;

use super::dto::{JobCommandResponses, JobResponse, job_response};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::JobIdPath;

/// Retries the rows of a finished job that certainly failed. Ambiguous rows may have been sent and are not retried.
#[utoipa::path(
    post,
    path = "/jobs/{job_id}/retry-failed",
    operation_id = "retry_failed_of_job",
    tag = "jobs",
    params(JobIdPath),
    responses(JobCommandResponses)
)]
pub async fn retry_failed(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobResponse>, ApiError> {
    Ok(job_response(state.services.bulk.retry_failed(id).await?.into()))
}
