//! Responses about the relay.

use serde::Serialize;
use utoipa::ToSchema;

/// How the push is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayStatusResponse {
    pub(super) success: bool,
    pub(super) status: RelayStatus,
    pub(super) queue_lengths: QueueLengths,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RelayStatus {
    /// The server took a connection just now.
    pub(super) websocket_available: bool,
    /// There is somebody who pushes.
    pub(super) processor_running: bool,
    /// The same.
    pub(super) processor_thread_alive: bool,
    #[schema(example = "FIFOProcessor")]
    pub(super) processor_thread_name: &'static str,
    pub(super) queue_size: u64,
    /// There is somebody who pushes, and room for more.
    pub(super) queue_healthy: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueLengths {
    /// Messages that wait, the one in hand included.
    pub(super) pending: u64,
}

/// How many messages wait.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueLengthsResponse {
    pub(super) success: bool,
    pub(super) queue_lengths: QueueLengths,
}

/// What waited is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueClearedResponse {
    pub(super) success: bool,
    pub(super) result: QueueClearResult,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueClearResult {
    pub(super) cleared: u64,
}

/// A message that says that it is a test.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RelayTestMessage {
    #[schema(example = "test_user")]
    pub(super) from: &'static str,
    #[serde(rename = "type")]
    #[schema(example = "text")]
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
    /// Unix seconds.
    #[schema(example = "1705491000")]
    pub(super) timestamp: String,
}

/// The test message joined the line.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayTestResponse {
    pub(super) success: bool,
    pub(super) result: RelayTestResult,
    pub(super) test_message: RelayTestMessage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RelayTestResult {
    pub(super) success: bool,
    #[schema(example = "fifo_queue")]
    pub(super) method: &'static str,
}

/// The first message is tried now.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayRetryResponse {
    pub(super) success: bool,
    pub(super) result: RelayActionResponse,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayActionResponse {
    pub(super) success: bool,
    pub(super) message: &'static str,
}
