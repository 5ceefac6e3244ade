//! `/api/queue`: the strict-order push to one WebSocket, as the documented Flask application shows it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::flask::{Refusal, RefusalBody};

/// How the push is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayStatusAnswer {
    success: bool,
    status: RelayStatus,
    queue_lengths: Lengths,
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
struct Lengths {
    /// Messages that wait, the one in hand included.
    pending: u64,
}

/// How many messages wait.
#[derive(Debug, Serialize, ToSchema)]
pub struct LengthsAnswer {
    success: bool,
    queue_lengths: Lengths,
}

/// What waited is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueClearedAnswer {
    success: bool,
    result: QueueCleared,
}

#[derive(Debug, Serialize, ToSchema)]
struct QueueCleared {
    cleared: u64,
}

/// A message that says that it is a test.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct TestMessage {
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
pub struct TestAnswer {
    success: bool,
    result: TestResult,
    test_message: TestMessage,
}

#[derive(Debug, Serialize, ToSchema)]
struct TestResult {
    success: bool,
    #[schema(example = "fifo_queue")]
    method: &'static str,
}

/// The first message is tried now.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetryAnswer {
    success: bool,
    result: RelayTold,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayTold {
    success: bool,
    message: &'static str,
}

/// Tells how the push is doing; connects to the server to see whether it is there, for up to five seconds.
#[utoipa::path(get, path = "/api/queue/status", operation_id = "get_relay_status", tag = "relay", responses(
    (status = 200, description = "How it is doing.", body = RelayStatusAnswer),
))]
pub async fn status(State(state): State<AppState>) -> Result<Json<RelayStatusAnswer>, Refusal> {
    let health = state.services.relay.health().await?;
    let status = RelayStatus {
        websocket_available: health.available,
        processor_running: health.running,
        processor_thread_alive: health.running,
        processor_thread_name: "FIFOProcessor",
        queue_size: health.waiting,
        queue_healthy: health.healthy,
    };
    let queue_lengths = Lengths { pending: health.waiting };
    Ok(Json(RelayStatusAnswer { success: true, status, queue_lengths }))
}

/// Tells how many messages wait.
#[utoipa::path(get, path = "/api/queue/lengths", operation_id = "get_relay_lengths", tag = "relay", responses(
    (status = 200, description = "So many.", body = LengthsAnswer),
))]
pub async fn lengths(State(state): State<AppState>) -> Result<Json<LengthsAnswer>, Refusal> {
    let pending = state.services.relay.waiting()?;
    Ok(Json(LengthsAnswer { success: true, queue_lengths: Lengths { pending } }))
}

/// Throws away what waits. What is being pushed at this moment may arrive all the same.
#[utoipa::path(delete, path = "/api/queue/clear", operation_id = "clear_relay", tag = "relay", responses(
    (status = 200, description = "It is gone.", body = QueueClearedAnswer),
))]
pub async fn clear(State(state): State<AppState>) -> Result<Json<QueueClearedAnswer>, Refusal> {
    let cleared = state.services.relay.clear().await?;
    Ok(Json(QueueClearedAnswer { success: true, result: QueueCleared { cleared } }))
}

/// Puts a test message at the end of the line.
#[utoipa::path(post, path = "/api/queue/test", operation_id = "test_relay", tag = "relay", responses(
    (status = 200, description = "It waits, durably.", body = TestAnswer),
    (status = 503, description = "Nothing is relayed, or there is no room.", body = RefusalBody),
))]
pub async fn test(State(state): State<AppState>) -> Result<Json<TestAnswer>, Refusal> {
    let test_message = TestMessage {
        from: "test_user",
        kind: "text",
        text: "Mensaje de prueba del sistema de colas",
        timestamp: state.services.clock.now().seconds().to_string(),
    };
    state.services.relay.push(test_message.clone()).await?;
    let result = TestResult { success: true, method: "fifo_queue" };
    Ok(Json(TestAnswer { success: true, result, test_message }))
}

/// Ends the pause after a failed attempt. Messages are tried again without it, too.
#[utoipa::path(post, path = "/api/queue/retry_failed", operation_id = "retry_relay", tag = "relay", responses(
    (status = 200, description = "The first message is tried now.", body = RetryAnswer),
    (status = 503, description = "Nothing is relayed.", body = RefusalBody),
))]
pub async fn retry_failed(State(state): State<AppState>) -> Result<Json<RetryAnswer>, Refusal> {
    state.services.relay.hurry()?;
    let result = RelayTold { success: true, message: "FIFO queue reintenta automáticamente" };
    Ok(Json(RetryAnswer { success: true, result }))
}

/// Replaces whoever pushes. A message that is being pushed at this moment is pushed again.
#[utoipa::path(post, path = "/api/queue/restart", operation_id = "restart_relay", tag = "relay", responses(
    (status = 200, description = "Another one is at work.", body = RelayTold),
    (status = 503, description = "Nothing is relayed.", body = RefusalBody),
))]
pub async fn restart(State(state): State<AppState>) -> Result<Json<RelayTold>, Refusal> {
    state.services.relay.restart().await?;
    Ok(Json(RelayTold { success: true, message: "Procesador en funcionamiento" }))
}
