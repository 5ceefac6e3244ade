//! The sandbox: an HTTP server that implements Meta's Graph API, so that a node can send messages without WhatsApp.
//!
//! The sandbox is a real server and not a mock: it checks requests against Meta's limits, answers with Meta's
//! bodies, stores media, and sends signed webhooks with the statuses of each message. A control plane under
//! `/_sandbox/` shows the received messages, simulates users who write to the business, and arms faults (errors,
//! delays, connections cut before or after a message was accepted).
//!
//! The sandbox guarantees:
//! - It writes a message to the journal before it answers, also when a fault suppresses the answer.
//! - The statuses of one message leave in the order `sent`, `delivered`, `read`. A receiver sees them out of order
//!   only if it does not answer 200, as with Meta.
//! - Stored messages, media, connections and pending updates are bounded. The statistics count what a bound dropped.
//! - It holds no lock across an await.
//!
//! The control plane has no password, so the sandbox listens on loopback unless the options allow a remote address.
//!
//! The crate `relevo-sandbox-web` is the counterpart for linked devices: a server that speaks WhatsApp Web.

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
use relevo_clock::{Clock, Random};
use relevo_domain::{ErrorKind, Secret};

/// Maximum number of updates in one webhook.
/// Source: Meta, "Webhooks", "up to 1000 updates per POST".
pub const MAX_WEBHOOK_BATCH: usize = 1000;

/// Behaviour of a sandbox. The defaults suit a developer's machine: any token, fast statuses, no throttling.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on; port 0 selects a free port (see [`Sandbox::local_addr`]).
    pub listen: SocketAddr,
    /// Permits an address that other machines can reach. The control plane has no password.
    pub allow_remote: bool,
    /// The only accepted bearer token; others are refused with 190. Without it every token is accepted.
    pub access_token: Option<Secret>,
    /// Signs webhooks (`X-Hub-Signature-256`). Without it webhooks are unsigned.
    pub app_secret: Option<Secret>,
    /// Receiver of webhooks. Without it there are no statuses until `POST /_sandbox/webhook` sets a receiver.
    pub webhook_url: Option<Url>,
    /// With a `webhook_url`: the token of Meta's verification request, which the sandbox then sends at the start.
    pub verify_token: Option<Secret>,
    /// Id of the business account in webhooks.
    pub waba_id: String,
    /// The business's phone number, digits only. A message to it is refused with 131021.
    pub display_phone_number: String,
    /// Name of the business in the answer about a phone number.
    pub verified_name: String,
    /// Messages per second that one phone number id may send; more are refused with 130429. `None`: no limit.
    pub messages_per_second: Option<NonZeroU32>,
    /// Delay from acceptance to the status `sent`.
    pub sent_after: Duration,
    /// Delay from acceptance to the status `delivered`; at least `sent_after`.
    pub delivered_after: Duration,
    /// Delay from acceptance to the status `read`; at least `delivered_after`.
    pub read_after: Duration,
    /// Maximum number of updates in one webhook, 1 to [`MAX_WEBHOOK_BATCH`]. Updates accumulate only during a POST.
    pub webhook_batch: usize,
    /// Maximum number of messages with pending statuses. Beyond it, statuses are dropped and counted.
    pub webhook_queue: usize,
    /// Maximum number of attempts of a webhook. The second attempt follows immediately.
    pub webhook_attempts: u32,
    /// Delay before the third attempt; it doubles from there, up to one minute.
    pub webhook_retry_after: Duration,
    /// Maximum number of messages in the journal. Evicted messages remain in the counters.
    pub keep_messages: usize,
    /// Maximum size of the bodies in the journal, in bytes.
    pub keep_bytes: usize,
    /// Maximum size of stored media, in bytes; the oldest files are evicted.
    pub media_bytes: usize,
    /// Maximum number of open connections; further connections wait.
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

/// Reason why a sandbox could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not a loopback address and `allow_remote` is false.
    #[error(
        "the sandbox refuses to listen on {0}: its control plane has no password. Use a loopback address, or allow remote access explicitly"
    )]
    NotLoopback(SocketAddr),
    /// `webhook_batch` is out of range.
    #[error("webhook_batch is {0}: it must be between 1 and {MAX_WEBHOOK_BATCH}")]
    WebhookBatch(usize),
    /// `webhook_queue` or `max_connections` is 0.
    #[error("webhook_queue and max_connections must be at least 1")]
    ZeroLimit,
    /// The address is in use or not available.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The answer of the system.
        source: std::io::Error,
    },
    /// The HTTP client for webhooks cannot be built.
    #[error("cannot build the HTTP client for webhooks: {0}")]
    HttpClient(#[from] reqwest::Error),
}

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotLoopback(_) | Error::WebhookBatch(_) | Error::ZeroLimit => ErrorKind::Invalid,
            Error::Listen { .. } => ErrorKind::Unavailable,
            Error::HttpClient(_) => ErrorKind::Internal,
        }
    }
}

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A sandbox with a bound port. [`Sandbox::serve`] runs it.
#[derive(Debug)]
pub struct Sandbox {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<SandboxState>,
    accepted: mpsc::Receiver<TrackedMessage>,
}

impl Sandbox {
    /// Checks the options and binds the port. The kernel queues connections until [`Sandbox::serve`] accepts them.
    ///
    /// # Errors
    /// The options contradict each other, the address is remote and `allow_remote` is false, or the port is not
    /// available.
    pub async fn bind(options: Options, clock: Clock, random: Random) -> Result<Self> {
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
        let (shared, accepted) = SandboxState::new(options, clock, random)?;
        Ok(Self { listener, address, shared: Arc::new(shared), accepted })
    }

    /// The bound address, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled; then completes open requests for at most two seconds and returns.
    /// Statuses that are not yet due are dropped.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { listener, shared, accepted, .. } = self;
        // The guard also works when this future is dropped: the spawned tasks end.
        let _closing = shared.closing.clone().drop_guard();
        let dispatcher = tokio::spawn(webhooks::dispatch(Arc::clone(&shared), accepted));
        if let Some(verify_token) = shared.options.verify_token.clone() {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { webhooks::verify_receiver(&shared, &verify_token).await });
        }
        server::run(listener, Arc::clone(&shared), shutdown).await;
        if let Err(error) = dispatcher.await {
            tracing::error!(%error, "webhook dispatcher of the sandbox failed");
        }
    }
}
