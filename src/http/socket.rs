//! What all WebSockets have in common: they are counted, asked for signs of life, and closed with a reason.
//!
//! Frames are pulled, one when the last has left: a client that takes nothing costs one frame of memory, is let go
//! after a while, and holds nobody up.

use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::domain::Invalid;

use super::AppState;
use super::auth::agreed_protocol;
use super::error::ApiError;
use super::streams::StreamPlace;

/// What is read of a client, in bytes a frame: it has nothing to say but `ping`.
const MAX_INCOMING: usize = 4 << 10;

/// How often a client is asked for a sign of life, and how long it may give none.
const PING_EVERY: Duration = Duration::from_secs(30);
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// How long a close frame may take to leave, and the client to answer it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a socket is closed (RFC 6455 §7.4.1; 1013 is in IANA's registry).
pub(super) const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
pub(super) const FAILED: u16 = 1011;
const TOO_SLOW: u16 = 1013;

/// What a socket tells.
pub(super) trait Frames: Send + 'static {
    /// The next frame, whenever there is one. Nothing is lost when this is dropped before it answers. Being asked
    /// again means that the frame before has left.
    fn next(&mut self) -> impl Future<Output = Result<String, End>> + Send;

    /// How a client that is let go finds back, in a few words: with what goes before them they must fit a control
    /// frame, which has 125 bytes (RFC 6455 §5.5).
    fn resume(&self) -> String;
}

/// Why a socket ends.
#[derive(Debug)]
pub(super) struct End {
    code: u16,
    reason: String,
}

impl End {
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// Answers an upgrade, and tells the client these frames from then on.
///
/// # Errors
///
/// It is no upgrade, or there are as many streams as there may be.
pub(super) fn open<F: Frames>(
    state: &AppState,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    frames: F,
) -> Result<Response, ApiError> {
    let mut upgrade = upgrade.map_err(|refused| Invalid::new("Upgrade", refused.body_text()))?;
    let (place, patience) = (state.streams.open()?, state.options.stream_patience);
    if let Some(protocol) = agreed_protocol(headers) {
        upgrade.set_selected_protocol(protocol);
    }
    let upgrade = upgrade.max_message_size(MAX_INCOMING).max_frame_size(MAX_INCOMING);
    let heard = Instant::now();
    Ok(upgrade.on_upgrade(move |socket| Reader { socket, frames, place, patience, heard }.run()))
}

/// One client.
struct Reader<F> {
    socket: WebSocket,
    frames: F,
    place: StreamPlace,
    /// A frame that cannot be sent for this long ends the socket.
    patience: Duration,
    /// When the client last gave a sign of life.
    heard: Instant,
}

impl<F: Frames> Reader<F> {
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

    /// Tells the client what there is to tell. `None` when it is gone.
    async fn serve(&mut self) -> Option<End> {
        let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                () = self.place.stopping() => return Some(self.let_go(GOING_AWAY, "the node stops")),
                frame = self.socket.recv() => match self.hear(&frame?.ok()?) {
                    Some(answer) => answer,
                    None => continue,
                },
                _ = pings.tick() => {
                    if self.heard.elapsed() >= DEAD_AFTER {
                        return Some(self.let_go(GOING_AWAY, "no pong came"));
                    }
                    Message::Ping(Bytes::new())
                }
                next = self.frames.next() => match next {
                    Ok(frame) => Message::Text(frame.into()),
                    Err(end) => return Some(end),
                },
            };
            match tokio::time::timeout(self.patience, self.socket.send(message)).await {
                Ok(sent) => sent.ok()?,
                Err(_) => {
                    let why = format!("nothing was taken for {} s", self.patience.as_secs());
                    return Some(self.let_go(TOO_SLOW, &why));
                }
            }
        }
    }

    fn let_go(&self, code: u16, why: &str) -> End {
        End::new(code, format!("{why}; {}", self.frames.resume()))
    }

    /// Hears what the client says: any frame is a sign of life, and a ping in JSON is answered. Pings of the protocol
    /// are answered by the library.
    fn hear(&mut self, frame: &Message) -> Option<Message> {
        self.heard = Instant::now();
        let Message::Text(text) = frame else { return None };
        let asked: Value = serde_json::from_str(text).ok()?;
        (asked.get("type")?.as_str()? == "ping").then(|| {
            let answer = match asked.get("timestamp") {
                Some(timestamp) => json!({ "type": "pong", "timestamp": timestamp }),
                None => json!({ "type": "pong" }),
            };
            Message::Text(answer.to_string().into())
        })
    }
}
