//! `DELETE /jobs/{job_id}`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::JobIdPath;

/// It is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobDeletedResponse {
    success: bool,
    message: &'static str,
}

/// Deletes a finished job with its file and its results.
#[utoipa::path(delete, path = "/jobs/{job_id}", operation_id = "delete_job", tag = "jobs", params(JobIdPath), responses(
    (status = 200, description = "It is deleted.", body = JobDeletedResponse),
    (status = 404, description = "No such job.", body = ErrorBody),
    (status = 409, description = "It has not finished; cancel it first.", body = ErrorBody),
))]
pub async fn delete(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
) -> Result<Json<JobDeletedResponse>, ApiError> {
    state.services.bulk.delete(id).await?;
    Ok(Json(JobDeletedResponse { success: true, message: "Job eliminado" }))
}
