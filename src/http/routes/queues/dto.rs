//! Responses about queues.

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::routes::instances::dto::response::QueueDepth;
use crate::queue::{LaneStats, QueueStats};
use relevo_domain::{InstanceId, Timestamp};

/// The queue of one instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueResponse {
    pub(super) success: bool,
    pub(super) data: Queue,
}

/// The queues of all instances, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueList {
    pub(super) success: bool,
    pub(super) data: Vec<Queue>,
    /// The number of messages in all queues.
    pub(super) total: u64,
}

/// A snapshot of the queue of an instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queue {
    #[schema(example = "shop")]
    instance_id: String,
    pub(super) depth: QueueDepth,
    /// When the oldest unsettled message was accepted. RFC 3339, like all times in this response.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_seconds: Option<u64>,
    /// Attempts in progress.
    in_flight: u64,
    /// Attempts with an unknown outcome; their recipients get no other message until it is known.
    held: u64,
    /// Scheduled and deferred messages. The count stops at 10000.
    due_later: u64,
    /// The recipients with the most waiting messages.
    lanes: Vec<Lane>,
}

/// The messages for one recipient.
#[derive(Debug, Serialize, ToSchema)]
struct Lane {
    #[schema(example = "573001234567")]
    to: String,
    /// `transactional` or `bulk`.
    class: &'static str,
    waiting: u64,
    /// When the oldest of them was accepted.
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
