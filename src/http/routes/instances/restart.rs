//! `POST /instances/{id}/restart`.

use axum::Json;
use axum::extract::State;

use super::dto::response::InstanceResponse;
use super::instance_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// Restarts the client of an instance in any state.
#[utoipa::path(post, path = "/instances/{id}/restart", operation_id = "restart_instance", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "A new client connects.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn restart(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.restart(id).await?;
    instance_response(&state, view, Some("Instancia reiniciada"))
}
