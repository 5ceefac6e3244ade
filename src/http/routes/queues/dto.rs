//! Responses about queues.

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::routes::instances::dto::response::QueueDepth;
use crate::queue::{LaneStats, QueueStats};
use relevo_domain::{InstanceId, Timestamp};

/// What waits in one queue.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueResponse {
    pub(super) success: bool,
    pub(super) data: Queue,
}

/// What waits in all queues, by the names of their instances.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueList {
    pub(super) success: bool,
    pub(super) data: Vec<Queue>,
    /// Messages that wait in all of them together.
    pub(super) total: u64,
}

/// An instance's queue at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queue {
    #[schema(example = "shop")]
    instance_id: String,
    pub(super) depth: QueueDepth,
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
    pub(super) fn new(instance: InstanceId, stats: QueueStats, now: Timestamp) -> Self {
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
    pub(super) fn new(lane: LaneStats, now: Timestamp) -> Self {
        Self {
            to: lane.to.to_string(),
            class: lane.class.as_str(),
            waiting: lane.waiting,
            oldest_at: lane.oldest.to_string(),
            oldest_age_seconds: now.since(lane.oldest).as_secs(),
        }
    }
}
