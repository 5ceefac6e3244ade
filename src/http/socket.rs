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

use relevo_domain::Invalid;

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
    use crate::http::streams::Streams;

    /// Has nothing to tell.
    struct Silence;

    impl Frames for Silence {
        async fn next(&mut self) -> Result<String, End> {
            std::future::pending().await
        }

        fn resume(&self) -> String {
            "resume with after=7".to_owned()
        }
    }

    /// A client at the other end of a pipe, where no time passes but the test's; and the only place there is.
    async fn client() -> (WebSocketStream<DuplexStream>, Streams) {
        let streams = Streams::new(1);
        let places = streams.clone();
        let serve = async move |upgrade: WebSocketUpgrade| {
            let (place, patience, heard) = (places.open().unwrap(), Duration::from_secs(10), Instant::now());
            let reader = move |socket| Reader { socket, frames: Silence, place, patience, heard }.run();
            upgrade.on_upgrade(reader)
        };
        let service = TowerToHyperService::new(Router::new().route("/", any(serve)));
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades());
        let (socket, _) = tokio_tungstenite::client_async("ws://node/", near).await.unwrap();
        (socket, streams)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_sign_of_life_is_let_go_after_a_minute() {
        let (socket, streams) = client().await;
        let began = Instant::now();
        // Read without the library, which would answer the ping.
        let mut heard = Vec::new();
        socket.into_inner().read_to_end(&mut heard).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), (DEAD_AFTER + FAREWELL).as_secs());
        let (ping, reason) = ([0x89, 0], b"no pong came; resume with after=7");
        let farewell = [[0x88, 2 + u8::try_from(reason.len()).unwrap()], GOING_AWAY.to_be_bytes()].concat();
        assert_eq!(heard, [&ping, farewell.as_slice(), reason].concat());
        assert!(streams.open().is_ok(), "its place is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_pings_stays() {
        let (mut socket, streams) = client().await;
        let mut pings = 0;
        let listening = async {
            while let Some(Ok(message)) = socket.next().await {
                pings += usize::from(message.is_ping());
            }
        };
        assert!(tokio::time::timeout(10 * DEAD_AFTER, listening).await.is_err(), "it was let go");
        assert!(pings >= 19, "{pings}");
        assert!(streams.open().is_err());
    }
}
