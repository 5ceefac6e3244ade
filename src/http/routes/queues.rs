//! `/instances/{id}/queue` and `/queue`: what waits.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::queue::{LaneStats, QueueStats};
use relevo_domain::{InstanceId, InstanceNumber, Timestamp};

use super::instances::QueueDepth;

/// What waits in one queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueResponse {
    success: bool,
    data: Queue,
}

/// What waits in all queues, by the names of their instances.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueList {
    success: bool,
    data: Vec<Queue>,
    /// Messages that wait in all of them together.
    total: u64,
}

/// An instance's queue at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queue {
    #[schema(example = "shop")]
    instance_id: String,
    depth: QueueDepth,
    /// When the oldest message that is not settled was accepted. RFC 3339, as all times here.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_seconds: Option<u64>,
    /// Attempts under way.
    in_flight: u64,
    /// Attempts whose outcome is not known yet; nothing else goes to their recipients meanwhile.
    held: u64,
    /// Scheduled and deferred messages. Counting ends at 10000.
    due_later: u64,
    /// The recipients for whom most is waiting.
    lanes: Vec<Lane>,
}

/// What waits for one recipient.
#[derive(Debug, Serialize, ToSchema)]
struct Lane {
    #[schema(example = "573001234567")]
    to: String,
    /// `transactional` or `bulk`.
    class: &'static str,
    waiting: u64,
    /// When the first of them was accepted.
    oldest_at: String,
    oldest_age_seconds: u64,
}

impl Queue {
    fn new(instance: InstanceId, stats: QueueStats, now: Timestamp) -> Self {
        Self {
            instance_id: instance.into(),
            depth: QueueDepth::new(stats.depth),
            oldest_at: stats.oldest.map(|oldest| oldest.to_string()),
            oldest_age_seconds: stats.oldest.map(|oldest| now.since(oldest).as_secs()),
            in_flight: stats.in_flight,
            held: stats.held,
            due_later: stats.due_later,
            lanes: stats.lanes.into_iter().map(|lane| Lane::new(lane, now)).collect(),
        }
    }
}

impl Lane {
    fn new(lane: LaneStats, now: Timestamp) -> Self {
        Self {
            to: lane.to.to_string(),
            class: lane.class.as_str(),
            waiting: lane.waiting,
            oldest_at: lane.oldest.to_string(),
            oldest_age_seconds: now.since(lane.oldest).as_secs(),
        }
    }
}

async fn load_queue(state: &AppState, id: InstanceId, number: InstanceNumber) -> Result<Queue, ApiError> {
    let stats = state.services.queue.stats(number).await?;
    Ok(Queue::new(id, stats, state.services.clock.now()))
}

/// What waits in an instance's queue, and for whom.
#[utoipa::path(get, path = "/instances/{id}/queue", operation_id = "get_queue", tag = "queue", responses(
    (status = 200, description = "The queue.", body = QueueResponse),
    (status = 404, description = "No such instance.", body = ErrorBody),
))]
pub async fn get_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<QueueResponse>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    Ok(Json(QueueResponse { success: true, data: load_queue(&state, id, number).await? }))
}

/// What waits in all queues.
#[utoipa::path(get, path = "/queue", operation_id = "list_queues", tag = "queue", responses(
    (status = 200, description = "All queues, by the names of their instances.", body = QueueList),
))]
pub async fn list_all(State(state): State<AppState>) -> Result<Json<QueueList>, ApiError> {
    let mut data = Vec::new();
    for view in state.services.instances.list() {
        data.push(load_queue(&state, view.config.id, view.number).await?);
    }
    let total = data.iter().map(|queue| queue.depth.total).sum();
    Ok(Json(QueueList { success: true, data, total }))
}
