//! `/ws` and `/instances/{id}/ws`: what happens, as WebSocket frames in the form of the documented gateway.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::AppState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryOf, Target};
use crate::http::feed::{Feed, Scope, Told};
use crate::http::socket::{self, End, Frames};

use super::events::{Asked, feed};

/// The longest place that a reason repeats, so that both fit a control frame.
const LONGEST_PLACE: usize = 40;

/// A frame: the documented two fields, and where to go on behind it.
#[derive(Serialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    payload: Value,
    sequence: u64,
    /// Unix seconds.
    timestamp: u64,
    /// What to give as `after`.
    cursor: String,
}

impl Frame {
    fn of(told: Told) -> Self {
        let event = told.item.envelope.event;
        let (kind, instance, data) = (event.kind, told.name, event.data);
        let payload = match kind.as_str() {
            "status" => json!({ "instance_id": instance, "status": data.get("status") }),
            "qr" => json!({ "instance_id": instance, "qr": data.get("qr") }),
            "presence" => json!({ "instance_id": instance, "data": presence(data) }),
            _ => json!({ "instance_id": instance, "data": data }),
        };
        let (sequence, timestamp) = (told.item.envelope.sequence, event.at.seconds());
        Self { kind, payload, sequence, timestamp, cursor: told.cursor }
    }
}

/// What webhooks call `state` is `type` here.
fn presence(mut data: Value) -> Value {
    if let Some(fields) = data.as_object_mut()
        && let Some(state) = fields.remove("state")
    {
        fields.insert("type".to_owned(), state);
    }
    data
}

/// What one client is told.
struct Telling {
    feed: Feed,
    /// The places behind the last frame that left, and behind the one that was handed out last.
    taken: String,
    handed: String,
}

impl Frames for Telling {
    async fn next(&mut self) -> Result<String, End> {
        self.taken.clone_from(&self.handed);
        match self.feed.next().await {
            Ok(Some(told)) => {
                self.handed.clone_from(&told.cursor);
                Ok(serde_json::to_string(&Frame::of(told)).unwrap_or_default())
            }
            Ok(None) => Err(End::new(socket::NORMAL, "the instance is gone")),
            Err(error) => {
                tracing::error!(%error, "a WebSocket ends because the log cannot be read");
                Err(End::new(socket::FAILED, "the events cannot be read"))
            }
        }
    }

    fn resume(&self) -> String {
        match self.taken.as_str() {
            place if place.len() <= LONGEST_PLACE => format!("resume with after={place}"),
            _ => "resume with the last cursor as after".to_owned(),
        }
    }
}

async fn open(
    state: &AppState,
    scope: Scope,
    asked: &Asked,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let feed = feed(state, scope, asked.kinds()?, asked.after.as_deref()).await?;
    let place = feed.cursor();
    socket::open(state, headers, upgrade, Telling { feed, taken: place.clone(), handed: place })
}

/// What happens to an instance, as WebSocket frames `{"type","payload","sequence","timestamp","cursor"}`. The payload
/// of `status` is `{"instance_id","status"}`, that of other events `{"instance_id","data"}`. Without `after` it
/// begins with what comes next. A reader that falls silent or takes nothing is disconnected, with the place to resume
/// from.
#[utoipa::path(get, path = "/instances/{id}/ws", operation_id = "instance_socket", tag = "events",
    params(Asked), responses(
        (status = 101, description = "Frames follow."),
        (status = 400, description = "A parameter is wrong, or it is no upgrade.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 503, description = "There are as many streams as there may be.", body = ErrorBody),
    ))]
pub async fn of_instance(
    State(state): State<AppState>,
    Target(id): Target,
    QueryOf(asked): QueryOf<Asked>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let scope = Scope::Instance(state.services.instances.get(&id)?.number);
    open(&state, scope, &asked, &headers, upgrade).await
}

/// The same for all instances.
#[utoipa::path(get, path = "/ws", operation_id = "socket", tag = "events",
    params(Asked), responses(
        (status = 101, description = "Frames follow."),
        (status = 400, description = "A parameter is wrong, or it is no upgrade.", body = ErrorBody),
        (status = 503, description = "There are as many streams as there may be.", body = ErrorBody),
    ))]
pub async fn of_all(
    State(state): State<AppState>,
    QueryOf(asked): QueryOf<Asked>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    open(&state, Scope::All, &asked, &headers, upgrade).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Envelope, Event, Item};
    use relevo_domain::{InstanceNumber, Timestamp};

    fn frame(kind: &str, data: Value) -> Value {
        let event = Event { kind: kind.to_owned(), at: Timestamp(1_700_000_000_900), data };
        let item = Item { instance: InstanceNumber::FIRST, envelope: Envelope { sequence: 7, event } };
        let told = Told { item, name: "shop".parse().unwrap(), cursor: "7".to_owned() };
        serde_json::to_value(Frame::of(told)).unwrap()
    }

    #[test]
    fn frames_are_the_documented_ones_and_tell_where_to_resume() {
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
