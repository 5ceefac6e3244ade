//! `POST /api/queue/restart`.

use axum::Json;
use axum::extract::State;

use super::dto::RelayActionResponse;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::{ApplicationError, ApplicationErrorBody};

/// Restarts the relay worker. A message that is being pushed is pushed again.
#[utoipa::path(post, path = "/api/queue/restart", operation_id = "restart_relay", tag = "relay", responses(
    (status = 200, description = "The worker is restarted.", body = RelayActionResponse),
    (status = 503, description = "The relay is not configured.", body = ApplicationErrorBody),
))]
pub async fn restart(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
) -> Result<Json<RelayActionResponse>, ApplicationError> {
    state.services.relay.restart().await?;
    Ok(Json(RelayActionResponse { success: true, message: "Procesador en funcionamiento" }))
}
