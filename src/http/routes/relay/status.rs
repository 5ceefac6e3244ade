//! `GET /api/queue/status` and `/api/queue/lengths`.

use axum::Json;
use axum::extract::State;

use super::dto::{QueueLengths, QueueLengthsResponse, RelayStatus, RelayStatusResponse};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;

/// The status of the relay. Connects to the server to check it, for up to five seconds.
#[utoipa::path(get, path = "/api/queue/status", operation_id = "get_relay_status", tag = "relay", responses(
    (status = 200, description = "The status.", body = RelayStatusResponse),
))]
pub async fn status(
    _: Access<scope::Read>,
    State(state): State<AppState>,
) -> Result<Json<RelayStatusResponse>, ApplicationError> {
    let health = state.services.relay.health().await?;
    let status = RelayStatus {
        websocket_available: health.available,
        processor_running: health.running,
        processor_thread_alive: health.running,
        processor_thread_name: "FIFOProcessor",
        queue_size: health.waiting,
        queue_healthy: health.healthy,
    };
    let queue_lengths = QueueLengths { pending: health.waiting };
    Ok(Json(RelayStatusResponse { success: true, status, queue_lengths }))
}

/// The number of waiting messages.
#[utoipa::path(get, path = "/api/queue/lengths", operation_id = "get_relay_lengths", tag = "relay", responses(
    (status = 200, description = "The number.", body = QueueLengthsResponse),
))]
pub async fn lengths(
    _: Access<scope::Read>,
    State(state): State<AppState>,
) -> Result<Json<QueueLengthsResponse>, ApplicationError> {
    let pending = state.services.relay.waiting()?;
    Ok(Json(QueueLengthsResponse { success: true, queue_lengths: QueueLengths { pending } }))
}
