//! What all WebSockets share: a stream slot, pings, a client timeout, and a close reason.
//!
//! A frame is produced when the previous one has been written. A client that reads nothing costs one frame of memory,
//! is closed after the write timeout, and does not delay other clients.

use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::error::ProtocolError;

use super::slots::StreamSlot;
use crate::http::AppState;
use crate::http::auth::select_protocol;
use crate::http::error::ApiError;
use relevo_domain::ValidationError;

/// Maximum size of an incoming frame, in bytes: clients only send `ping`.
const MAX_INCOMING: usize = 4 << 10;

/// Size of the read buffer, in bytes, which every reader has from its start.
const READ_BUFFER: usize = 4 << 10;

/// What is written is flushed at once: a larger buffer would only hold memory.
const WRITE_BUFFER: usize = 0;

/// Interval of pings, and the maximum time without any frame from the client.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Close codes (RFC 6455 §7.4.1; 1013 is in IANA's registry).
pub(in crate::http) const CLOSE_NORMAL: u16 = 1000;
const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_PROTOCOL_ERROR: u16 = 1002;
const CLOSE_INVALID_DATA: u16 = 1007;
const CLOSE_TOO_LARGE: u16 = 1009;
pub(in crate::http) const CLOSE_INTERNAL_ERROR: u16 = 1011;
const CLOSE_TRY_AGAIN_LATER: u16 = 1013;

/// The frames of a WebSocket.
pub(in crate::http) trait FrameSource: Send + 'static {
    /// Waits for the next frame. Cancel safe. A call means that the previous frame has been written.
    fn next_frame(&mut self) -> impl Future<Output = Result<String, CloseReason>> + Send;

    /// How the client resumes after a close. With the reason before it, it must fit a control frame of 125 bytes (RFC
    /// 6455 §5.5).
    fn resume_hint(&self) -> String;
}

/// The code and text of a close frame.
#[derive(Debug)]
pub(in crate::http) struct CloseReason {
    code: u16,
    reason: String,
}

impl CloseReason {
    /// A close frame with this code and text.
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// Accepts an upgrade and sends `frames` to the client.
///
/// # Errors
///
/// 400 when the request is no upgrade, 503 when all stream slots are taken.
pub(in crate::http) fn accept_upgrade<F: FrameSource>(
    state: &AppState,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    frames: F,
) -> Result<Response, ApiError> {
    let mut upgrade = upgrade.map_err(|rejection| ValidationError::new("Upgrade", rejection.body_text()))?;
    let (slot, write_timeout) = (state.stream_slots.acquire()?, state.options.stream_patience);
    if let Some(protocol) = select_protocol(headers) {
        upgrade.set_selected_protocol(protocol);
    }
    let upgrade = upgrade.max_message_size(MAX_INCOMING).max_frame_size(MAX_INCOMING);
    let upgrade = upgrade.read_buffer_size(READ_BUFFER).write_buffer_size(WRITE_BUFFER);
    let last_received = Instant::now();
    Ok(upgrade.on_upgrade(move |socket| {
        WebSocketSession { socket, frames, slot, write_timeout, last_received }.run()
    }))
}

/// The connection of one client.
struct WebSocketSession<F> {
    socket: WebSocket,
    frames: F,
    slot: StreamSlot,
    /// A frame that cannot be written for this long ends the connection.
    write_timeout: Duration,
    /// When the last frame of the client arrived.
    last_received: Instant,
}

impl<F: FrameSource> WebSocketSession<F> {
    /// Serves the client until either side ends the connection.
    async fn run(mut self) {
        if let Some(CloseReason { code, reason }) = self.serve().await {
            let farewell = async {
                let frame = CloseFrame { code, reason: reason.into() };
                self.socket.send(Message::Close(Some(frame))).await?;
                // Wait for the close frame of the client.
                while let Some(Ok(_)) = self.socket.recv().await {}
                Ok::<_, axum::Error>(())
            };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
        }
    }

    /// Sends frames until the connection ends. `None` when the client closed it.
    async fn serve(&mut self) -> Option<CloseReason> {
        let mut pings = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                () = self.slot.wait_for_shutdown() => return Some(self.close_with_hint(CLOSE_GOING_AWAY, "the node stops")),
                frame = self.socket.recv() => match frame? {
                    Ok(frame) => match self.handle_incoming(&frame) {
                        Some(answer) => answer,
                        None => continue,
                    },
                    Err(error) => return close_reason(error),
                },
                _ = pings.tick() => {
                    if self.last_received.elapsed() >= CLIENT_TIMEOUT {
                        return Some(self.close_with_hint(CLOSE_GOING_AWAY, "no pong came"));
                    }
                    Message::Ping(Bytes::new())
                }
                next = self.frames.next_frame() => match next {
                    Ok(frame) => Message::Text(frame.into()),
                    Err(end) => return Some(end),
                },
            };
            match tokio::time::timeout(self.write_timeout, self.socket.send(message)).await {
                Ok(sent) => sent.ok()?,
                Err(_) => {
                    let why = format!("nothing was taken for {} s", self.write_timeout.as_secs());
                    return Some(self.close_with_hint(CLOSE_TRY_AGAIN_LATER, &why));
                }
            }
        }
    }

    fn close_with_hint(&self, code: u16, why: &str) -> CloseReason {
        CloseReason::new(code, format!("{why}; {}", self.frames.resume_hint()))
    }

    /// Handles a frame of the client: any frame resets the client timeout, and a JSON ping is answered. The library
    /// answers pings of the protocol.
    fn handle_incoming(&mut self, frame: &Message) -> Option<Message> {
        self.last_received = Instant::now();
        let Message::Text(text) = frame else { return None };
        let request: Value = serde_json::from_str(text).ok()?;
        (request.get("type")?.as_str()? == "ping").then(|| {
            let answer = match request.get("timestamp") {
                Some(timestamp) => json!({ "type": "pong", "timestamp": timestamp }),
                None => json!({ "type": "pong" }),
            };
            Message::Text(answer.to_string().into())
        })
    }
}

/// How a connection ends after an error of its client (RFC 6455 §7.4.1). `None` when it is broken.
fn close_reason(error: axum::Error) -> Option<CloseReason> {
    let (code, reason) = match *error.into_inner().downcast::<tungstenite::Error>().ok()? {
        // The end of the connection without a close frame.
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        tungstenite::Error::Protocol(cause) => (CLOSE_PROTOCOL_ERROR, cause.to_string()),
        tungstenite::Error::Utf8(_) => (CLOSE_INVALID_DATA, "a text frame is not UTF-8".to_owned()),
        tungstenite::Error::Capacity(_) => {
            (CLOSE_TOO_LARGE, format!("a frame may have {MAX_INCOMING} bytes at most"))
        }
        _ => return None,
    };
    tracing::debug!(code, reason, "WebSocket client broke the protocol; closing connection");
    Some(CloseReason::new(code, reason))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::any;
    use futures_util::StreamExt;
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio_tungstenite::WebSocketStream;

    use super::*;
    use crate::http::stream::slots::StreamSlots;

    /// Has no frames.
    struct NoFrames;

    impl FrameSource for NoFrames {
        async fn next_frame(&mut self) -> Result<String, CloseReason> {
            std::future::pending().await
        }

        fn resume_hint(&self) -> String {
            "resume with after=7".to_owned()
        }
    }

    /// A client on the other end of a pipe under the paused clock, and the only stream slot.
    async fn client() -> (WebSocketStream<DuplexStream>, StreamSlots) {
        let streams = StreamSlots::new(1);
        let client_slots = streams.clone();
        let serve = async move |upgrade: WebSocketUpgrade| {
            let (slot, write_timeout, last_received) =
                (client_slots.acquire().unwrap(), Duration::from_secs(10), Instant::now());
            let reader = move |socket| {
                WebSocketSession { socket, frames: NoFrames, slot, write_timeout, last_received }.run()
            };
            upgrade.on_upgrade(reader)
        };
        let service = TowerToHyperService::new(Router::new().route("/", any(serve)));
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades());
        let (socket, _) = tokio_tungstenite::client_async("ws://node/", near).await.unwrap();
        (socket, streams)
    }

    #[tokio::test(start_paused = true)]
    async fn silent_client_is_disconnected_after_a_minute() {
        let (socket, streams) = client().await;
        let began = Instant::now();
        // Read the raw bytes: the library would answer the ping.
        let mut received = Vec::new();
        socket.into_inner().read_to_end(&mut received).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), (CLIENT_TIMEOUT + CLOSE_TIMEOUT).as_secs());
        let (ping, reason) = ([0x89, 0], b"no pong came; resume with after=7");
        let farewell =
            [[0x88, 2 + u8::try_from(reason.len()).unwrap()], CLOSE_GOING_AWAY.to_be_bytes()].concat();
        assert_eq!(received, [&ping, farewell.as_slice(), reason].concat());
        assert!(streams.acquire().is_ok(), "its place is free");
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_answers_pings_stays_connected() {
        let (mut socket, streams) = client().await;
        let mut pings = 0;
        let listening = async {
            while let Some(Ok(message)) = socket.next().await {
                pings += usize::from(message.is_ping());
            }
        };
        assert!(tokio::time::timeout(10 * CLIENT_TIMEOUT, listening).await.is_err(), "it was let go");
        assert!(pings >= 19, "{pings}");
        assert!(streams.acquire().is_err());
    }
}
