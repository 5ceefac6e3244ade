//! `POST /api/queue/retry_failed`.

use axum::Json;
use axum::extract::State;

use super::dto::{RelayActionResponse, RelayRetryResponse};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::{ApplicationError, ApplicationErrorBody};

/// Ends the backoff after a failed attempt. Retries also happen without it.
#[utoipa::path(post, path = "/api/queue/retry_failed", operation_id = "retry_relay", tag = "relay", responses(
    (status = 200, description = "The first message is attempted now.", body = RelayRetryResponse),
    (status = 503, description = "The relay is not configured.", body = ApplicationErrorBody),
))]
pub async fn retry_failed(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
) -> Result<Json<RelayRetryResponse>, ApplicationError> {
    state.services.relay.retry_now()?;
    let result = RelayActionResponse { success: true, message: "FIFO queue reintenta automáticamente" };
    Ok(Json(RelayRetryResponse { success: true, result }))
}
