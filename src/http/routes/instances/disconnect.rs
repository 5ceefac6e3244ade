//! `POST /instances/{id}/disconnect`.

use axum::Json;
use axum::extract::State;

use super::dto::response::InstanceResponse;
use super::instance_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// Disconnects an instance from WhatsApp. Queued messages wait, and new messages are queued. A linked device stays
/// linked.
#[utoipa::path(post, path = "/instances/{id}/disconnect", operation_id = "disconnect_instance", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "It is disconnected.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn disconnect(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.disconnect(id).await?;
    instance_response(&state, view, Some("Instancia desconectada"))
}
