//! `DELETE /api/queue/clear`.

use axum::Json;
use axum::extract::State;

use super::dto::{QueueClearResult, QueueClearedResponse};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;

/// Deletes the waiting messages. A message that is being pushed may still arrive.
#[utoipa::path(delete, path = "/api/queue/clear", operation_id = "clear_relay", tag = "relay", responses(
    (status = 200, description = "It is deleted.", body = QueueClearedResponse),
))]
pub async fn clear(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
) -> Result<Json<QueueClearedResponse>, ApplicationError> {
    let cleared = state.services.relay.clear().await?;
    Ok(Json(QueueClearedResponse { success: true, result: QueueClearResult { cleared } }))
}
