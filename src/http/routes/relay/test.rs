//! `POST /api/queue/test`.

use axum::Json;
use axum::extract::State;

use super::dto::{RelayTestMessage, RelayTestResponse, RelayTestResult};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::{ApplicationError, ApplicationErrorBody};

/// Appends a test message to the queue.
#[utoipa::path(post, path = "/api/queue/test", operation_id = "test_relay", tag = "relay", responses(
    (status = 200, description = "It is queued, durably.", body = RelayTestResponse),
    (status = 503, description = "The relay is not configured, or its queue is full.", body = ApplicationErrorBody),
))]
pub async fn test(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
) -> Result<Json<RelayTestResponse>, ApplicationError> {
    let test_message = RelayTestMessage {
        from: "test_user",
        kind: "text",
        text: "Mensaje de prueba del sistema de colas",
        timestamp: state.services.clock.now().seconds().to_string(),
    };
    state.services.relay.push(test_message.clone()).await?;
    let result = RelayTestResult { success: true, method: "fifo_queue" };
    Ok(Json(RelayTestResponse { success: true, result, test_message }))
}
