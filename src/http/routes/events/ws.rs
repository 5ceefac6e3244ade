//! `GET /ws` and `/instances/{id}/ws`: events as WebSocket frames in the form of the documented gateway.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use super::dto::EventQuery;
use super::{instance_scope, open_reader};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryParams, TargetInstance};
use crate::http::stream::reader::{EventReader, EventScope, StreamedEvent};
use crate::http::stream::websocket::{self, CloseReason, FrameSource};
use relevo_domain::EventKind;

/// Maximum length of a cursor in a close reason, so that both fit a control frame.
const MAX_CURSOR_LENGTH: usize = 40;

/// A frame: the two documented fields, and the cursor after it.
#[derive(Serialize)]
struct EventFrame {
    #[serde(rename = "type")]
    kind: String,
    payload: Value,
    sequence: u64,
    /// Unix seconds.
    timestamp: u64,
    /// The `after` to resume with.
    cursor: String,
}

impl EventFrame {
    fn new(streamed: StreamedEvent) -> Self {
        let event = streamed.item.envelope.event;
        let (kind, instance, data) = (event.kind, streamed.instance_id, event.data);
        let payload = match &kind {
            EventKind::Status => json!({ "instance_id": instance, "status": data.get("status") }),
            EventKind::Qr => json!({ "instance_id": instance, "qr": data.get("qr") }),
            EventKind::Presence => json!({ "instance_id": instance, "data": presence_payload(data) }),
            _ => json!({ "instance_id": instance, "data": data }),
        };
        let (sequence, timestamp) = (streamed.item.envelope.sequence, event.at.seconds());
        Self { kind: kind.to_string(), payload, sequence, timestamp, cursor: streamed.cursor }
    }
}

/// The field `state` of webhooks is `type` here.
fn presence_payload(mut data: Value) -> Value {
    if let Some(fields) = data.as_object_mut()
        && let Some(state) = fields.remove("state")
    {
        fields.insert("type".to_owned(), state);
    }
    data
}

/// The frames of one client.
struct EventFrameSource {
    reader: EventReader,
    /// The cursors after the last frame that was written, and after the last frame that was returned.
    sent_cursor: String,
    pending_cursor: String,
}

impl FrameSource for EventFrameSource {
    async fn next_frame(&mut self) -> Result<String, CloseReason> {
        self.sent_cursor.clone_from(&self.pending_cursor);
        match self.reader.next().await {
            Ok(Some(streamed)) => {
                self.pending_cursor.clone_from(&streamed.cursor);
                Ok(serde_json::to_string(&EventFrame::new(streamed)).unwrap_or_default())
            }
            Ok(None) => Err(CloseReason::new(websocket::CLOSE_NORMAL, "the instance is gone")),
            Err(error) => {
                tracing::error!(%error, "event log read failed; closing WebSocket");
                Err(CloseReason::new(websocket::CLOSE_INTERNAL_ERROR, "the events cannot be read"))
            }
        }
    }

    fn resume_hint(&self) -> String {
        match self.sent_cursor.as_str() {
            place if place.len() <= MAX_CURSOR_LENGTH => format!("resume with after={place}"),
            _ => "resume with the last cursor as after".to_owned(),
        }
    }
}

async fn open_socket(
    state: &AppState,
    scope: EventScope,
    query: &EventQuery,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let feed = open_reader(state, scope, query.kinds()?, query.after.as_deref()).await?;
    let place = feed.cursor();
    websocket::accept_upgrade(
        state,
        headers,
        upgrade,
        EventFrameSource { reader: feed, sent_cursor: place.clone(), pending_cursor: place },
    )
}

/// The events of an instance as WebSocket frames `{"type","payload","sequence","timestamp","cursor"}`. The payload of
/// `status` is `{"instance_id","status"}`, that of other events `{"instance_id","data"}`. Without `after` it begins
/// with new events. A client that does not answer pings or reads nothing is disconnected; the close reason has the
/// cursor to resume from.
#[utoipa::path(get, path = "/instances/{id}/ws", operation_id = "instance_socket", tag = "events",
    params(TargetInstance, EventQuery), responses(
        (status = 101, description = "Frames follow."),
        (status = 400, description = "A parameter is wrong, or the request is not an upgrade.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 503, description = "The limit of streams is reached.", body = ErrorBody),
    ))]
pub async fn open_for_instance(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(query): QueryParams<EventQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    open_socket(&state, instance_scope(&state, &id)?, &query, &headers, upgrade).await
}

/// The same for all instances.
#[utoipa::path(get, path = "/ws", operation_id = "socket", tag = "events",
    params(EventQuery), responses(
        (status = 101, description = "Frames follow."),
        (status = 400, description = "A parameter is wrong, or the request is not an upgrade.", body = ErrorBody),
        (status = 503, description = "The limit of streams is reached.", body = ErrorBody),
    ))]
pub async fn open_for_all(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(query): QueryParams<EventQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    open_socket(&state, EventScope::All, &query, &headers, upgrade).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Envelope, Event, LogItem};
    use relevo_domain::{InstanceNumber, Timestamp};

    fn frame(kind: &str, data: Value) -> Value {
        let event = Event { kind: EventKind::from_stored(kind), at: Timestamp(1_700_000_000_900), data };
        let item = LogItem { instance: InstanceNumber::FIRST, envelope: Envelope { sequence: 7, event } };
        let streamed = StreamedEvent { item, instance_id: "shop".parse().unwrap(), cursor: "7".to_owned() };
        serde_json::to_value(EventFrame::new(streamed)).unwrap()
    }

    #[test]
    fn frame_has_the_documented_form_and_a_cursor() {
        let expected = |kind: &str, payload: Value| {
            let (sequence, timestamp) = (7, 1_700_000_000);
            json!({
                "type": kind, "payload": payload, "sequence": sequence, "timestamp": timestamp, "cursor": "7"
            })
        };
        assert_eq!(
            frame("status", json!({ "status": "connected", "state": "connected", "reason": "ok" })),
            expected("status", json!({ "instance_id": "shop", "status": "connected" }))
        );
        assert_eq!(
            frame("message", json!({ "message_id": "A" })),
            expected("message", json!({ "instance_id": "shop", "data": { "message_id": "A" } }))
        );
        assert_eq!(
            frame("presence", json!({ "from": "1@s.whatsapp.net", "state": "composing" })),
            expected(
                "presence",
                json!({ "instance_id": "shop", "data": { "from": "1@s.whatsapp.net", "type": "composing" } })
            )
        );
        assert_eq!(
            frame("gap", json!({ "from": 1, "to": 7, "missing": 7 })),
            expected("gap", json!({ "instance_id": "shop", "data": { "from": 1, "to": 7, "missing": 7 } }))
        );
    }
}
