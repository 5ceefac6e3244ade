//! `POST /jobs/{job_id}/resume`.

use axum::Json;
use axum::extract::State;

use super::dto::{JobCommandResponses, JobResponse, job_response};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::JobIdPath;

/// Resumes a paused job.
#[utoipa::path(
    post,
    path = "/jobs/{job_id}/resume",
    operation_id = "resume_job",
    tag = "jobs",
    params(JobIdPath),
    responses(JobCommandResponses)
)]
pub async fn resume(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobResponse>, ApiError> {
    Ok(job_response(state.services.bulk.resume(id).await?.into()))
}
