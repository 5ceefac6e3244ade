//! `POST /jobs/{job_id}/cancel`.

use axum::Json;
use axum::extract::State;

use super::dto::{JobCommandResponses, JobResponse, job_response};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::JobIdPath;

/// Cancels a job. Rows without an attempt are not sent.
#[utoipa::path(
    post,
    path = "/jobs/{job_id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    params(JobIdPath),
    responses(JobCommandResponses)
)]
pub async fn cancel(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobResponse>, ApiError> {
    Ok(job_response(state.services.bulk.cancel(id).await?.into()))
}
