//! `/api/queue`: the strict-order push to one WebSocket, as the documented Flask application shows it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::flask::{ApplicationError, ApplicationErrorBody};

/// How the push is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayStatusResponse {
    success: bool,
    status: RelayStatus,
    queue_lengths: QueueLengths,
}

#[derive(Debug, Serialize, ToSchema)]
struct RelayStatus {
    /// The server took a connection just now.
    websocket_available: bool,
    /// There is somebody who pushes.
    processor_running: bool,
    /// The same.
    processor_thread_alive: bool,
    #[schema(example = "FIFOProcessor")]
    processor_thread_name: &'static str,
    queue_size: u64,
    /// There is somebody who pushes, and room for more.
    queue_healthy: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct QueueLengths {
    /// Messages that wait, the one in hand included.
    pending: u64,
}

/// How many messages wait.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueLengthsResponse {
    success: bool,
    queue_lengths: QueueLengths,
}

/// What waited is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueClearedResponse {
    success: bool,
    result: QueueClearResult,
}

#[derive(Debug, Serialize, ToSchema)]
struct QueueClearResult {
    cleared: u64,
}

/// A message that says that it is a test.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct RelayTestMessage {
    #[schema(example = "test_user")]
    from: &'static str,
    #[serde(rename = "type")]
    #[schema(example = "text")]
    kind: &'static str,
    text: &'static str,
    /// Unix seconds.
    #[schema(example = "1705491000")]
    timestamp: String,
}

/// The test message joined the line.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayTestResponse {
    success: bool,
    result: RelayTestResult,
    test_message: RelayTestMessage,
}

#[derive(Debug, Serialize, ToSchema)]
struct RelayTestResult {
    success: bool,
    #[schema(example = "fifo_queue")]
    method: &'static str,
}

/// The first message is tried now.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayRetryResponse {
    success: bool,
    result: RelayActionResponse,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayActionResponse {
    success: bool,
    message: &'static str,
}

/// Tells how the push is doing; connects to the server to see whether it is there, for up to five seconds.
#[utoipa::path(get, path = "/api/queue/status", operation_id = "get_relay_status", tag = "relay", responses(
    (status = 200, description = "How it is doing.", body = RelayStatusResponse),
))]
pub async fn status(State(state): State<AppState>) -> Result<Json<RelayStatusResponse>, ApplicationError> {
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

/// Tells how many messages wait.
#[utoipa::path(get, path = "/api/queue/lengths", operation_id = "get_relay_lengths", tag = "relay", responses(
    (status = 200, description = "So many.", body = QueueLengthsResponse),
))]
pub async fn lengths(State(state): State<AppState>) -> Result<Json<QueueLengthsResponse>, ApplicationError> {
    let pending = state.services.relay.waiting()?;
    Ok(Json(QueueLengthsResponse { success: true, queue_lengths: QueueLengths { pending } }))
}

/// Throws away what waits. What is being pushed at this moment may arrive all the same.
#[utoipa::path(delete, path = "/api/queue/clear", operation_id = "clear_relay", tag = "relay", responses(
    (status = 200, description = "It is gone.", body = QueueClearedResponse),
))]
pub async fn clear(State(state): State<AppState>) -> Result<Json<QueueClearedResponse>, ApplicationError> {
    let cleared = state.services.relay.clear().await?;
    Ok(Json(QueueClearedResponse { success: true, result: QueueClearResult { cleared } }))
}

/// Puts a test message at the end of the line.
#[utoipa::path(post, path = "/api/queue/test", operation_id = "test_relay", tag = "relay", responses(
    (status = 200, description = "It waits, durably.", body = RelayTestResponse),
    (status = 503, description = "Nothing is relayed, or there is no room.", body = ApplicationErrorBody),
))]
pub async fn test(State(state): State<AppState>) -> Result<Json<RelayTestResponse>, ApplicationError> {
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

/// Ends the pause after a failed attempt. Messages are tried again without it, too.
#[utoipa::path(post, path = "/api/queue/retry_failed", operation_id = "retry_relay", tag = "relay", responses(
    (status = 200, description = "The first message is tried now.", body = RelayRetryResponse),
    (status = 503, description = "Nothing is relayed.", body = ApplicationErrorBody),
))]
pub async fn retry_failed(
    State(state): State<AppState>,
) -> Result<Json<RelayRetryResponse>, ApplicationError> {
    state.services.relay.retry_now()?;
    let result = RelayActionResponse { success: true, message: "FIFO queue reintenta automáticamente" };
    Ok(Json(RelayRetryResponse { success: true, result }))
}

/// Replaces whoever pushes. A message that is being pushed at this moment is pushed again.
#[utoipa::path(post, path = "/api/queue/restart", operation_id = "restart_relay", tag = "relay", responses(
    (status = 200, description = "Another one is at work.", body = RelayActionResponse),
    (status = 503, description = "Nothing is relayed.", body = ApplicationErrorBody),
))]
pub async fn restart(State(state): State<AppState>) -> Result<Json<RelayActionResponse>, ApplicationError> {
    state.services.relay.restart().await?;
    Ok(Json(RelayActionResponse { success: true, message: "Procesador en funcionamiento" }))
}
