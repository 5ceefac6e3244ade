//! `POST /instances/{id}/resume`.

use axum::Json;
use axum::extract::State;

use super::dto::response::InstanceResponse;
use super::instance_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// Resumes a paused instance, for example after its account was blocked; its queue continues.
#[utoipa::path(post, path = "/instances/{id}/resume", operation_id = "resume_instance", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "It connects again.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn resume(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.connect(id).await?;
    instance_response(&state, view, Some("Instancia reanudada"))
}
