//! `GET /jobs/{job_id}`.

use axum::Json;
use axum::extract::State;

use super::dto::Job;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::JobIdPath;

/// One bulk job.
#[utoipa::path(get, path = "/jobs/{job_id}", operation_id = "get_job", tag = "jobs", params(JobIdPath), responses(
    (status = 200, description = "The job.", body = Job),
    (status = 404, description = "No such job.", body = ErrorBody),
))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<Job>, ApiError> {
    Ok(Json(state.services.bulk.get(id)?.into()))
}
