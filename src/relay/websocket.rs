//! One connection to the peer, and what counts as a sign that it read a frame.
//!
//! The protocol has no acknowledgement of its own, and a socket accepts bytes that nobody will ever read. So every
//! connection is greeted with a ping before it gets a frame, and every frame is followed by one: WebSocket peers handle
//! what they get in order (RFC 6455 §5.5.2, §5.5.3), so a pong says that what went before it was read. A peer that
//! turns callers away closes before it answers the greeting, and gets no frame.
//!
//! Consumers that answer no pings get a close behind each frame instead, with a code of ours that its answer repeats
//! (§5.5.1). For them, every frame has a connection of its own.
//!
//! A close that the peer begins by itself, however politely, says nothing: it may cross the frame on its way. The frame
//! is pushed again.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::header::HeaderMap;
use reqwest::{Client, redirect};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use url::Url;

use relevo_egress::websocket::{self, HandshakeError, WebSocket};

use super::Error;

/// The largest frame that the peer may send. It has nothing to say, so what it says is read and thrown away.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Our own close, told from one that the peer began; 4000 to 4999 are for applications (RFC 6455 §7.4.2).
const CLOSE_CODE: CloseCode = CloseCode::Library(4000);

/// Where the peer is. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RelayPeer {
    client: Client,
    /// With `http` for `ws`: TLS is the HTTP client's.
    url: Url,
    timeout: Duration,
}

/// What went wrong with an attempt, in words for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the connection broke before the peer showed that it read the frame")]
    Broken,
    #[error("the peer closed with {0} before it showed that it read the frame")]
    Closed(CloseCode),
    #[error("the peer did not answer in time")]
    TimedOut,
}

/// A connection that is open.
pub(super) struct RelayConnection {
    socket: WebSocket,
    ping_count: u64,
}

/// How a frame was read.
pub(super) enum PushOutcome {
    /// The connection can take the next one.
    KeepOpen(Box<RelayConnection>),
    /// The peer answers no pings and was asked by a close.
    Closed,
}

impl RelayPeer {
    /// The URL is the operator's own, so it may lead to private addresses and needs no guard: the known consumer
    /// runs beside the node.
    pub fn new(url: &Url, timeout: Duration) -> Result<Self, Error> {
        relevo_egress::install_tls_provider();
        let client = Client::builder()
            .user_agent(concat!("relevo/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true)
            .build()
            .map_err(|cause| Error::Setup(cause.to_string()))?;
        let url = websocket::http_url(url)
            .ok_or_else(|| Error::Setup("relay.url is no ws or wss URL".to_owned()))?;
        Ok(Self { client, url, timeout })
    }

    /// When an attempt that begins now has taken too long.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    pub async fn connect(&self, deadline: Instant) -> Result<Box<RelayConnection>, PushError> {
        timeout_at(deadline, self.handshake()).await.unwrap_or(Err(PushError::TimedOut))
    }

    async fn handshake(&self) -> Result<Box<RelayConnection>, PushError> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let socket = websocket::connect(&self.client, &self.url, HeaderMap::new(), config).await?;
        Ok(Box::new(RelayConnection { socket, ping_count: 0 }))
    }
}

impl RelayConnection {
    /// Pushes a frame and waits until the peer has read it. `pings`: whether to ask by a ping; when no pong comes,
    /// a close asks once more.
    pub async fn push(
        mut self: Box<Self>,
        text: String,
        pings: bool,
        deadline: Instant,
    ) -> Result<PushOutcome, PushError> {
        // Two thirds of the time are left for the other question.
        let greeted = pings && (self.ping_count > 0 || self.ping(deadline, 3).await?);
        // It leaves together with the question, so that a peer that closes after one frame has both.
        send_before(deadline, self.socket.feed(Message::text(text))).await?;
        if greeted && self.ping(deadline, 2).await? {
            return Ok(PushOutcome::KeepOpen(self));
        }
        self.close(deadline).await?;
        Ok(PushOutcome::Closed)
    }

    /// Asks whether the peer has read everything so far, for a `share`th of the time that is left. `false` when it does
    /// not say.
    async fn ping(&mut self, deadline: Instant, share: u32) -> Result<bool, PushError> {
        self.ping_count += 1;
        let payload = Bytes::copy_from_slice(&self.ping_count.to_be_bytes());
        send_before(deadline, self.socket.send(Message::Ping(payload.clone()))).await?;
        let patience = deadline.saturating_duration_since(Instant::now()) / share;
        match timeout_at(Instant::now() + patience, self.wait_for_pong(&payload)).await {
            Ok(answered) => answered.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Ends the connection; `Ok` when the peer answered, and so has read everything that went before.
    pub async fn close(&mut self, deadline: Instant) -> Result<(), PushError> {
        let goodbye = CloseFrame { code: CLOSE_CODE, reason: "".into() };
        send_before(deadline, self.socket.send(Message::Close(Some(goodbye)))).await?;
        loop {
            match timeout_at(deadline, self.socket.next()).await {
                Err(_) => return Err(PushError::TimedOut),
                Ok(Some(Ok(Message::Close(Some(answer))))) if answer.code == CLOSE_CODE => return Ok(()),
                Ok(Some(Ok(Message::Close(other)))) => return Err(close_error(other)),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) => return Err(PushError::Broken),
            }
        }
    }

    /// Resolves when the connection is of no use any more; answers the peer's pings meanwhile.
    pub async fn wait_until_closed(&mut self) {
        while let Some(Ok(message)) = self.socket.next().await {
            if message.is_close() {
                return;
            }
        }
    }

    /// Waits for the pong.
    async fn wait_for_pong(&mut self, payload: &Bytes) -> Result<(), PushError> {
        while let Some(message) = self.socket.next().await {
            match message {
                Ok(Message::Pong(answer)) if answer == *payload => return Ok(()),
                Ok(Message::Close(frame)) => return Err(close_error(frame)),
                Ok(_) => {}
                Err(_) => return Err(PushError::Broken),
            }
        }
        Err(PushError::Broken)
    }
}

async fn send_before(
    deadline: Instant,
    sending: impl Future<Output = Result<(), tungstenite::Error>>,
) -> Result<(), PushError> {
    match timeout_at(deadline, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(PushError::Broken),
        Err(_) => Err(PushError::TimedOut),
    }
}

fn close_error(frame: Option<CloseFrame>) -> PushError {
    PushError::Closed(frame.map_or(CloseCode::Status, |frame| frame.code))
}
