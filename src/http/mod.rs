//! The HTTP front end: the documented routes on top of the handles of the core modules.
//!
//! Guarantees:
//! - A handler extracts, calls handles and answers; core modules make the decisions.
//! - Every error response has one form, and one place maps errors to status codes (`http/error.rs`).
//! - Every route is in the OpenAPI document, because routes are only registered with their description (`http/router.rs`).
//! - Connections, the time that a request may take to arrive, each body, and the memory of all large bodies together
//!   are bounded. A client whose request is rejected receives the response even while it still sends.
//! - A client without a key cannot keep others out: what it holds (connections, memory) is given to newer clients.

mod access;
mod admission;
mod api;
mod auth;
mod body;
mod body_memory;
mod connection;
mod error;
mod extract;
mod json;
mod media;
mod openapi;
mod page;
mod parameter;
mod phone_list;
mod phone_text;
mod phone_warnings;
mod proxies;
mod qr;
mod rate_limit;
mod request_checks;
mod router;
mod routes;
mod server;
mod sniff;
mod socket;
mod stream;
mod timestamp;
mod tracked_body;
mod trailing_slash;
mod vcard;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use url::Url;

use crate::address_book::AddressBook;
use crate::suppression::SuppressionList;
use crate::{accounts, bulk, events, inbound, instance, queue, relay, webhook};
use relevo_clock::{Clock, Random};
use relevo_domain::{Country, InstanceId, RecipientParser, Secret};
use relevo_metrics::Metrics;

use auth::Keyring;
use body_memory::{MemoryShare, ShortagePolicy};
use connection::Connections;
use rate_limit::RequestLimiter;
use stream::slots::StreamSlots;

pub use proxies::TrustedProxies;
pub use router::router;
pub use server::{listen, serve};

/// Number of bodies of the largest permitted size that fit into the memory for requests with a key; one more may proceed.
const LARGE_BODIES: usize = 3;

/// The memory for large bodies of requests without a key, in bytes: deliveries of Meta, of up to 4 MiB.
const OPEN_BODY_MEMORY: usize = 32 << 20;

/// The settings of the HTTP front end.
#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// The API key. `None` only when authentication was disabled explicitly.
    pub api_key: Option<Secret>,
    /// Routes under `/api` also accept the key as `?api_key=`.
    pub query_key: bool,
    /// Local processes need no key under `/api`.
    pub open_api_on_loopback: bool,
    /// The instance of requests that name none. It need not exist.
    pub default_instance: Option<InstanceId>,
    /// The country of phone numbers without a country code.
    pub default_country: Option<Country>,
    /// Largest body of ordinary JSON requests, in bytes.
    pub json_body_limit: usize,
    /// Largest body of requests that may carry base64 media, in bytes.
    pub media_body_limit: usize,
    /// Largest file of recipients, in bytes.
    pub upload_limit: usize,
    /// Maximum time that a bulk request of `/api` without the queue waits for its end.
    pub broadcast_wait: Duration,
    /// Maximum number of connections that serve every route. A further one takes the place of the one that has waited
    /// longest for its client without a proven request.
    pub max_connections: usize,
    /// Connections beyond these, for probes and webhooks, when proven requests use every place.
    pub reserved_connections: usize,
    /// Maximum number of connections of one IPv4 address or IPv6 /64, and of requests that trusted proxies forward for
    /// it. `None`: unlimited.
    pub max_connections_per_peer: Option<NonZeroUsize>,
    /// Proxies without a limit of connections, whose `X-Forwarded-For` names the client.
    pub trusted_proxies: TrustedProxies,
    /// Maximum number of open event streams, beside those connections; more are answered with 503.
    pub max_streams: usize,
    /// A stream or response whose client reads nothing for this long is closed.
    pub stream_patience: Duration,
    /// Maximum time in which the head of a request must arrive.
    pub head_timeout: Duration,
    /// Maximum time that a connection may stay idle between two requests.
    pub idle_timeout: Duration,
    /// Maximum time in which the body of a request must arrive.
    pub read_timeout: Duration,
    /// Maximum rate of requests with the key, in requests a second, with a burst of one second; more are answered
    /// with 429. `None`: unlimited.
    pub rate_limit: Option<NonZeroU32>,
    /// Origins that browsers may call from; `*` is any.
    pub cors_origins: Vec<String>,
}

impl Options {
    fn connection_limits(&self) -> admission::Limits {
        admission::Limits {
            places: self.max_connections.max(1),
            reserve: self.reserved_connections,
            per_peer: self.max_connections_per_peer,
            head_timeout: self.head_timeout,
            idle_timeout: self.idle_timeout,
            write_timeout: self.stream_patience,
        }
    }
}

/// Settings of a Cloud API instance that the request to create it left out.
#[derive(Debug, Clone)]
pub struct CloudDefaults {
    pub base_url: Url,
    /// For example `v25.0`.
    pub api_version: String,
    pub app_secret: Option<Secret>,
    /// Also accepted in Meta's verification of the webhook for instances with a verify token of their own.
    pub verify_token: Option<Secret>,
}

/// The health of the components that every request depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeHealth {
    /// The store failed and the node needs a restart.
    pub store_failed: bool,
    /// A read met a damaged part of the database.
    pub store_damaged: bool,
    /// Too little disk space is left to accept messages.
    pub disk_full: bool,
}

/// Returns the current health. Must not block.
pub type HealthProbe = Box<dyn Fn() -> NodeHealth + Send + Sync>;

/// Returns the metrics in the text format of OpenMetrics. May read the disk: called on a blocking thread.
pub type MetricsProbe = Box<dyn Fn() -> String + Send + Sync>;

/// The handles of the core modules.
pub struct Services {
    pub accounts: accounts::Handle,
    pub instances: instance::Handle,
    pub inbound: inbound::Handle,
    pub queue: queue::Handle,
    pub webhooks: webhook::Handle,
    pub events: events::EventLog,
    pub bulk: bulk::Handle,
    pub relay: relay::Handle,
    pub numbers: AddressBook,
    pub suppressions: SuppressionList,
    pub clock: Clock,
    pub random: Random,
    pub health: HealthProbe,
    pub metrics: MetricsProbe,
    /// Counts what the front end refuses.
    pub counters: Metrics,
}

/// The state of every handler. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<AppStateInner>);

/// The shared part of an [`AppState`].
pub struct AppStateInner {
    options: Options,
    cloud_defaults: CloudDefaults,
    services: Services,
    keyring: Keyring,
    request_limiter: RequestLimiter,
    /// The memory of large bodies of requests with a key, and of those without.
    body_memory: MemoryShare,
    open_body_memory: MemoryShare,
    connections: Connections,
    stream_slots: StreamSlots,
    /// The serialised OpenAPI document; set once by `router`.
    openapi_document: OnceLock<Bytes>,
}

impl AppState {
    /// The state of a node with these settings and services.
    pub fn new(options: Options, cloud_defaults: CloudDefaults, services: Services) -> Self {
        let keyring = Keyring::new(options.api_key.as_ref());
        let request_limiter = RequestLimiter::new(options.rate_limit);
        let capacity = options.media_body_limit.saturating_mul(LARGE_BODIES);
        let body_memory = MemoryShare::new(capacity, ShortagePolicy::OldestFirst);
        let open_body_memory = MemoryShare::new(OPEN_BODY_MEMORY, ShortagePolicy::DropOldest);
        let connections = Connections::new(
            options.connection_limits(),
            options.trusted_proxies.clone(),
            services.counters.clone(),
        );
        let stream_slots = StreamSlots::new(options.max_streams);
        let openapi_document = OnceLock::new();
        let inner = AppStateInner {
            options,
            cloud_defaults,
            services,
            keyring,
            request_limiter,
            body_memory,
            open_body_memory,
            connections,
            stream_slots,
            openapi_document,
        };
        Self(Arc::new(inner))
    }
}

impl AppStateInner {
    /// Reads the recipients of requests.
    fn recipients(&self) -> RecipientParser {
        RecipientParser { default_country: self.options.default_country }
    }
}

impl Deref for AppState {
    type Target = AppStateInner;
    fn deref(&self) -> &AppStateInner {
        &self.0
    }
}
