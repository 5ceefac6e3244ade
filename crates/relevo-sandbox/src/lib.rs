//! The sandbox: a server that speaks Meta's Graph API, so that messages can be sent without WhatsApp.
//!
//! It is a real HTTP server and not a mock: what it is sent is held to Meta's limits and answered with Meta's
//! bodies, media is taken and given back, and signed webhooks tell what became of each message. A control plane
//! under `/_sandbox/` shows what arrived, plays the user who writes to the business, and arms faults (errors,
//! delays, connections cut before or after a message was accepted).
//!
//! What is guaranteed:
//! - A message is in the journal before its answer leaves, also when that answer is never given.
//! - Statuses of one message leave in the order `sent`, `delivered`, `read`; only a receiver that does not
//!   answer 200 can see them out of order, as with Meta.
//! - Everything is bounded: kept messages, media, connections, waiting updates. What had to be left out is
//!   counted in the statistics, never silent.
//! - No lock is held across an await.
//!
//! The control plane has no password, so the sandbox listens on loopback unless told otherwise.
//!
//! For linked devices there is the crate `relevo-sandbox-web`, a server that speaks WhatsApp Web.

mod control;
mod errors;
mod faults;
mod graph;
mod ids;
mod inbound;
mod journal;
mod json_path;
mod media;
mod media_store;
mod messages;
mod rate_limit;
mod server;
mod state;
mod stats;
mod status_schedule;
mod validate;
mod validate_interactive;
mod validate_template;
mod webhook_body;
mod webhooks;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::state::SandboxState;
use crate::webhooks::TrackedMessage;
use relevo_clock::Clock;
use relevo_domain::{ErrorKind, Secret};

/// The most updates that Meta puts into one webhook.
/// Source: Meta, "Webhooks", "up to 1000 updates per POST".
pub const MAX_WEBHOOK_BATCH: usize = 1000;

/// How a sandbox behaves. The defaults suit a developer's machine: any token, fast statuses, no throttling.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes any free one (see [`Sandbox::local_addr`]).
    pub listen: SocketAddr,
    /// Permits an address that other machines can reach. The control plane has no password.
    pub allow_remote: bool,
    /// The one bearer token that is taken; others are refused with 190. Without it any token is.
    pub access_token: Option<Secret>,
    /// Signs webhooks (`X-Hub-Signature-256`). Without it they are unsigned.
    pub app_secret: Option<Secret>,
    /// Where webhooks go. Without it no statuses are made, until `POST /_sandbox/webhook` names a receiver.
    pub webhook_url: Option<Url>,
    /// With a `webhook_url`: the word for Meta's verification request, which is then made at the start.
    pub verify_token: Option<Secret>,
    /// The business account that webhooks name.
    pub waba_id: String,
    /// The business's own number, digits only. Writing to it is refused with 131021.
    pub display_phone_number: String,
    pub verified_name: String,
    /// Messages per second that one phone number id may send; more are refused with 130429. `None`: no limit.
    pub messages_per_second: Option<NonZeroU32>,
    /// From acceptance to the status `sent`.
    pub sent_after: Duration,
    /// From acceptance to the status `delivered`; not before `sent`.
    pub delivered_after: Duration,
    /// From acceptance to the status `read`; not before `delivered`.
    pub read_after: Duration,
    /// The most updates in one webhook, 1 to [`MAX_WEBHOOK_BATCH`]. They gather only while a POST is under way.
    pub webhook_batch: usize,
    /// Messages whose statuses may wait at once; the statuses of those beyond it are left out and counted.
    pub webhook_queue: usize,
    /// How often a webhook is tried in all before it is given up. The second attempt is made at once.
    pub webhook_attempts: u32,
    /// The pause before the third attempt; it doubles from there, up to a minute.
    pub webhook_retry_after: Duration,
    /// How many arrived messages the journal shows; the counters go on.
    pub keep_messages: usize,
    /// How many bytes of bodies the journal may hold, whatever `keep_messages` says.
    pub keep_bytes: usize,
    /// How many bytes of media are kept; the oldest makes room.
    pub media_bytes: usize,
    /// Connections served at once; further ones wait.
    pub max_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_remote: false,
            access_token: None,
            app_secret: None,
            webhook_url: None,
            verify_token: None,
            waba_id: "102290129340398".into(),
            display_phone_number: "15550783881".into(),
            verified_name: "Relevo Sandbox".into(),
            messages_per_second: None,
            sent_after: Duration::ZERO,
            delivered_after: Duration::from_millis(200),
            read_after: Duration::from_secs(1),
            webhook_batch: 250,
            webhook_queue: 200_000,
            webhook_attempts: 10,
            webhook_retry_after: Duration::from_millis(250),
            keep_messages: 100_000,
            keep_bytes: 128 << 20,
            media_bytes: 256 << 20,
            max_connections: 4096,
        }
    }
}

/// Why a sandbox could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the sandbox will not listen on {0}: its control plane has no password. Use a loopback address, or allow remote access explicitly"
    )]
    NotLoopback(SocketAddr),
    #[error("webhook_batch is {0}: it must be between 1 and {MAX_WEBHOOK_BATCH}")]
    WebhookBatch(usize),
    #[error("webhook_queue and max_connections must be at least 1")]
    ZeroLimit,
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot build the HTTP client for webhooks: {0}")]
    HttpClient(#[from] reqwest::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotLoopback(_) | Error::WebhookBatch(_) | Error::ZeroLimit => ErrorKind::Invalid,
            Error::Listen { .. } => ErrorKind::Unavailable,
            Error::HttpClient(_) => ErrorKind::Internal,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A sandbox that has its port and waits to be served.
#[derive(Debug)]
pub struct Sandbox {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<SandboxState>,
    accepted: mpsc::Receiver<TrackedMessage>,
}

impl Sandbox {
    /// Checks the options and takes the port. Connections queue from here on, and are served by
    /// [`Sandbox::serve`].
    ///
    /// # Errors
    /// When the options contradict themselves, the address is remote and that was not allowed, or the port
    /// cannot be had.
    pub async fn bind(options: Options, clock: Clock) -> Result<Self> {
        if !options.listen.ip().is_loopback() && !options.allow_remote {
            return Err(Error::NotLoopback(options.listen));
        }
        if !(1..=MAX_WEBHOOK_BATCH).contains(&options.webhook_batch) {
            return Err(Error::WebhookBatch(options.webhook_batch));
        }
        if options.webhook_queue == 0 || options.max_connections == 0 {
            return Err(Error::ZeroLimit);
        }
        let address = options.listen;
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (shared, accepted) = SandboxState::new(options, clock)?;
        Ok(Self { listener, address, shared: Arc::new(shared), accepted })
    }

    /// Where it listens, with the port that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; then answers what is in hand, for two seconds at most, and returns. Statuses
    /// that are not yet due are dropped.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { listener, shared, accepted, .. } = self;
        // Also when this future is dropped: nothing that it started outlives it for long.
        let _closing = shared.closing.clone().drop_guard();
        let dispatcher = tokio::spawn(webhooks::dispatch(Arc::clone(&shared), accepted));
        if let Some(verify_token) = shared.options.verify_token.clone() {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { webhooks::verify_receiver(&shared, &verify_token).await });
        }
        server::run(listener, Arc::clone(&shared), shutdown).await;
        if let Err(error) = dispatcher.await {
            tracing::error!(%error, "the sandbox's webhook dispatcher ended early");
        }
    }
}
