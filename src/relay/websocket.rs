//! One connection to the peer, and how the peer confirms that it read a frame.
//!
//! The protocol has no acknowledgement, and a socket accepts bytes that the peer may never read. Therefore a ping is sent
//! before the first frame of a connection and after every frame. WebSocket peers handle messages in order (RFC 6455
//! §5.5.2, §5.5.3), so a pong confirms everything before it. A peer that rejects clients closes before it answers the
//! first ping, and receives no frame.
//!
//! Peers that answer no pings receive a close after each frame instead, with a private code that the answer must repeat
//! (§5.5.1). For such peers, every frame needs a new connection.
//!
//! A close that the peer initiates confirms nothing, whatever its code: it may cross the frame. The frame is pushed
//! again.

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

/// Maximum size of a message of the peer, in bytes. The protocol defines none, so messages of the peer are discarded.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Code of closes that the node initiates, to distinguish them from those of the peer. 4000 to 4999 are for private use
/// (RFC 6455 §7.4.2).
const CLOSE_CODE: CloseCode = CloseCode::Library(4000);

/// The address of the peer. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RelayPeer {
    client: Client,
    /// The URL with `http` for `ws`, because the HTTP client provides TLS.
    url: Url,
    timeout: Duration,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the connection broke before the peer confirmed the frame")]
    Broken,
    #[error("the peer closed with {0} before it confirmed the frame")]
    Closed(CloseCode),
    #[error("the peer did not answer in time")]
    TimedOut,
}

/// An open connection.
pub(super) struct RelayConnection {
    socket: WebSocket,
    ping_count: u64,
}

/// How the peer confirmed a frame.
pub(super) enum PushOutcome {
    /// By a pong; the connection can push the next frame.
    KeepOpen(Box<RelayConnection>),
    /// By its answer to a close, because it answers no pings.
    Closed,
}

impl RelayPeer {
    /// A peer at the configured URL. The operator sets it, so it may lead to private addresses without a check by
    /// `relevo_egress`: the known consumer runs on the same host as the node.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up, or the URL is no WebSocket URL.
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

    /// The deadline of an attempt that starts now.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Connects to the peer.
    ///
    /// # Errors
    ///
    /// The connection or the handshake failed, or the deadline has passed.
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
    /// Pushes a frame and waits until the peer has confirmed it: by a pong if `pings` is set, and by its answer to a
    /// close if it is not set or no pong arrives.
    ///
    /// # Errors
    ///
    /// The connection ended, or the deadline has passed, before the peer confirmed the frame.
    pub async fn push(
        mut self: Box<Self>,
        text: String,
        pings: bool,
        deadline: Instant,
    ) -> Result<PushOutcome, PushError> {
        // The first ping may use a third of the time; the rest is for the frame and its confirmation.
        let answers_pings = pings && (self.ping_count > 0 || self.ping(deadline, 3).await?);
        // The frame is buffered and sent together with the ping, so that a peer that closes after one frame gets both.
        send_before(deadline, self.socket.feed(Message::text(text))).await?;
        if answers_pings && self.ping(deadline, 2).await? {
            return Ok(PushOutcome::KeepOpen(self));
        }
        self.close(deadline).await?;
        Ok(PushOutcome::Closed)
    }

    /// Sends a ping and waits for its pong for the remaining time divided by `share`. `false` if no pong arrives.
    async fn ping(&mut self, deadline: Instant, share: u32) -> Result<bool, PushError> {
        self.ping_count += 1;
        let payload = Bytes::copy_from_slice(&self.ping_count.to_be_bytes());
        send_before(deadline, self.socket.send(Message::Ping(payload.clone()))).await?;
        let wait = deadline.saturating_duration_since(Instant::now()) / share;
        match timeout_at(Instant::now() + wait, self.wait_for_pong(&payload)).await {
            Ok(answered) => answered.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Closes the connection. `Ok` means that the peer answered the close, so it has read everything before it.
    ///
    /// # Errors
    ///
    /// The connection ended without that answer, or the deadline has passed.
    pub async fn close(&mut self, deadline: Instant) -> Result<(), PushError> {
        let close = CloseFrame { code: CLOSE_CODE, reason: "".into() };
        send_before(deadline, self.socket.send(Message::Close(Some(close)))).await?;
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

    /// Resolves when the connection has ended. Answers pings of the peer meanwhile.
    pub async fn wait_until_closed(&mut self) {
        while let Some(Ok(message)) = self.socket.next().await {
            if message.is_close() {
                return;
            }
        }
    }

    /// Waits for the pong with this payload.
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
