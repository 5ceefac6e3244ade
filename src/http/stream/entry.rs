//! An event as the pages and the server-sent events show it.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::events;
use relevo_domain::InstanceId;

/// An event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventEntry {
    /// The position of the event in the log of its instance.
    sequence: u64,
    /// `gap` stands for deleted events: its data has `from`, `to` and the number of `missing` events.
    #[serde(rename = "type")]
    #[schema(example = "message_ack")]
    kind: String,
    /// Unix seconds.
    timestamp: u64,
    /// The same time in RFC 3339 with milliseconds.
    time: String,
    instance_id: String,
    #[schema(value_type = Object)]
    data: Value,
}

impl EventEntry {
    /// The event of an instance with this name.
    pub fn new(item: events::LogItem, name: InstanceId) -> Self {
        let events::Envelope { sequence, event } = item.envelope;
        Self {
            sequence,
            kind: event.kind.to_string(),
            timestamp: event.at.seconds(),
            time: event.at.to_string(),
            instance_id: name.into(),
            data: event.data,
        }
    }
}
