//! `/ws` and `/instances/{id}/ws`: what happens, as WebSocket frames in the form of the documented gateway.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::domain::Invalid;
use crate::http::AppState;
use crate::http::auth::agreed_protocol;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryOf, Target};
use crate::http::feed::{Feed, Scope, Told};
use crate::http::streams::StreamPlace;

use super::events::{Asked, feed};

/// What is read of a client, in bytes a frame: it has nothing to say but `ping`.
const MAX_INCOMING: usize = 4 << 10;

/// How often a client is asked for a sign of life, and how long it may give none.
const PING_EVERY: Duration = Duration::from_secs(30);
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// How long a close frame may take to leave, and the client to answer it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a socket is closed (RFC 6455 §7.4.1; 1013 is in IANA's registry).
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const FAILED: u16 = 1011;
const TOO_SLOW: u16 = 1013;

/// The longest place that a reason repeats: together they must fit a control frame, which has 125 bytes (RFC 6455
/// §5.5).
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

/// Why a socket ends.
struct End {
    code: u16,
    reason: String,
}

impl End {
    fn new(code: u16, reason: impl Into<String>) -> Option<Self> {
        Some(Self { code, reason: reason.into() })
    }
}

/// One client.
struct Reader {
    socket: WebSocket,
    feed: Feed,
    place: StreamPlace,
    /// A frame that cannot be sent for this long ends the socket.
    patience: Duration,
    /// The place behind the last event that left.
    taken: String,
    /// When the client last gave a sign of life.
    heard: Instant,
}

impl Reader {
    /// Serves the client to the end.
    async fn run(mut self) {
        if let Some(End { code, reason }) = self.serve().await {
            let farewell = async {
                let frame = CloseFrame { code, reason: reason.into() };
                self.socket.send(Message::Close(Some(frame))).await?;
                // The other side's close frame ends it in good order.
                while let Some(Ok(_)) = self.socket.recv().await {}
                Ok::<_, axum::Error>(())
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
    }

    /// Tells the client what happens. `None` when it is gone.
    async fn serve(&mut self) -> Option<End> {
        let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut told = None;
            let message = tokio::select! {
                () = self.place.stopping() => {
                    return End::new(GOING_AWAY, format!("the node stops; {}", self.resume()));
                }
                frame = self.socket.recv() => match self.hear(&frame?.ok()?) {
                    Some(answer) => answer,
                    None => continue,
                },
                _ = pings.tick() => {
                    if self.heard.elapsed() >= DEAD_AFTER {
                        return End::new(GOING_AWAY, format!("no pong came; {}", self.resume()));
                    }
                    Message::Ping(Bytes::new())
                }
                next = self.feed.next() => match next {
                    Ok(Some(next)) => {
                        told = Some(next.cursor.clone());
                        Message::Text(serde_json::to_string(&Frame::of(next)).unwrap_or_default().into())
                    }
                    Ok(None) => return End::new(NORMAL, "the instance is gone"),
                    Err(error) => {
                        tracing::error!(%error, "a WebSocket ends because the log cannot be read");
                        return End::new(FAILED, "the events cannot be read");
                    }
                },
            };
            match tokio::time::timeout(self.patience, self.socket.send(message)).await {
                Ok(sent) => sent.ok()?,
                Err(_) => {
                    let patience = self.patience.as_secs();
                    let reason = format!("nothing was taken for {patience} s; {}", self.resume());
                    return End::new(TOO_SLOW, reason);
                }
            }
            if let Some(cursor) = told {
                self.taken = cursor;
            }
        }
    }

    /// Tells a client that is let go how it finds back.
    fn resume(&self) -> String {
        match self.taken.as_str() {
            place if place.len() <= LONGEST_PLACE => format!("resume with after={place}"),
            _ => "resume with the last cursor as after".to_owned(),
        }
    }

    /// Hears what the client says: any frame is a sign of life, and a ping in JSON is answered. Pings of the protocol
    /// are answered by the library.
    fn hear(&mut self, frame: &Message) -> Option<Message> {
        self.heard = Instant::now();
        let Message::Text(text) = frame else { return None };
        let asked: Value = serde_json::from_str(text).ok()?;
        (asked.get("type")?.as_str()? == "ping").then(|| Message::Text(r#"{"type":"pong"}"#.into()))
    }
}

async fn open(
    state: &AppState,
    scope: Scope,
    asked: &Asked,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let mut upgrade = upgrade.map_err(|refused| Invalid::new("Upgrade", refused.body_text()))?;
    let feed = feed(state, scope, asked.kinds()?, asked.after.as_deref()).await?;
    let (place, patience) = (state.streams.open()?, state.options.stream_patience);
    if let Some(protocol) = agreed_protocol(headers) {
        upgrade.set_selected_protocol(protocol);
    }
    let upgrade = upgrade.max_message_size(MAX_INCOMING).max_frame_size(MAX_INCOMING);
    Ok(upgrade.on_upgrade(move |socket| {
        let (taken, heard) = (feed.cursor(), Instant::now());
        Reader { socket, feed, place, patience, taken, heard }.run()
    }))
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
    use crate::domain::{InstanceNumber, Timestamp};
    use crate::events::{Envelope, Event, Item};

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
