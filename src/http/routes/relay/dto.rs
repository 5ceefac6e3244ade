//! Responses about the relay.

use serde::Serialize;
use utoipa::ToSchema;

/// The status of the relay.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayStatusResponse {
    pub(super) success: bool,
    pub(super) status: RelayStatus,
    pub(super) queue_lengths: QueueLengths,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RelayStatus {
    /// Whether the server accepted a connection just now.
    pub(super) websocket_available: bool,
    /// Whether the relay worker runs.
    pub(super) processor_running: bool,
    /// The same as above.
    pub(super) processor_thread_alive: bool,
    #[schema(example = "FIFOProcessor")]
    pub(super) processor_thread_name: &'static str,
    pub(super) queue_size: u64,
    /// Whether the relay worker runs and the queue has capacity.
    pub(super) queue_healthy: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueLengths {
    /// Waiting messages, including the one in flight.
    pub(super) pending: u64,
}

/// The number of waiting messages.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueLengthsResponse {
    pub(super) success: bool,
    pub(super) queue_lengths: QueueLengths,
}

/// The queue was cleared.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueClearedResponse {
    pub(super) success: bool,
    pub(super) result: QueueClearResult,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueClearResult {
    pub(super) cleared: u64,
}

/// A test message.
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

/// The test message was queued.
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

/// The first message is attempted now.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayRetryResponse {
    pub(super) success: bool,
    pub(super) result: RelayActionResponse,
}

/// The result of an action.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayActionResponse {
    pub(super) success: bool,
    pub(super) message: &'static str,
}
