//! The HTTP front end: the documented routes, translated onto the node's handles.
//!
//! What it promises:
//! - A handler extracts, makes one call on one handle, and answers; what the node does is decided in lower rooms.
//! - Every answer about an error has one form ([`error`]), and one place knows which status code it gets.
//! - Every route is in the OpenAPI document, because a route can only be added through it ([`router`]).
//! - Bounded: connections, the time a request may take to arrive, every body, and the memory of all large bodies
//!   together. A caller that is refused gets its answer even while it is still sending.

mod access;
mod api;
mod auth;
mod body;
mod connection;
mod error;
mod extract;
mod json;
mod media;
mod openapi;
mod page;
mod parameter;
mod phone_list;
mod qr;
mod rate_limit;
mod router;
mod routes;
mod server;
mod sniff;
mod stream;
mod timestamp;
mod vcard;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use url::Url;

use crate::contacts::{AddressBook, SuppressionList};
use crate::{bulk, events, inbound, instance, queue, relay, webhook};
use relevo_clock::Clock;
use relevo_domain::{InstanceId, Secret};

use auth::Keyring;
use body::MemoryBudget;
use rate_limit::RequestLimiter;
use stream::slots::StreamSlots;

pub use router::router;
pub use server::serve;

/// What the HTTP front end needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// The key that callers present. `None` only when authentication was switched off explicitly.
    pub api_key: Option<Secret>,
    /// The key may also come as `?api_key=` under `/api`.
    pub query_key: bool,
    /// Programs on this machine need no key under `/api`.
    pub open_api_on_loopback: bool,
    /// The instance of routes that name none. It may not exist yet.
    pub default_instance: Option<InstanceId>,
    /// Largest body of ordinary JSON requests, in bytes.
    pub json_body_limit: usize,
    /// Largest body of requests that may carry base64 media, in bytes.
    pub media_body_limit: usize,
    /// Largest file of recipients, in bytes.
    pub upload_limit: usize,
    /// How long a caller of `/api` who sends to many without the queue waits for the end.
    pub broadcast_wait: Duration,
    /// Requests served at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Readers of events that may be connected at once, beside those requests; more are answered with 503.
    pub max_streams: usize,
    /// A reader that takes nothing for this long is disconnected.
    pub stream_patience: Duration,
    /// How long a request may take to arrive, and how long a connection may stay idle between two requests.
    pub read_timeout: Duration,
    /// Requests a second with the key, and as many at once after a pause; more are answered with 429. `None`: as
    /// many as come.
    pub rate_limit: Option<NonZeroU32>,
    /// Origins that browsers may call from; `*` is any.
    pub cors_origins: Vec<String>,
}

/// What an instance on the Cloud API gets where the request that creates it says nothing.
#[derive(Debug, Clone)]
pub struct CloudDefaults {
    pub base_url: Url,
    /// `v25.0` and the like.
    pub api_version: String,
    pub app_secret: Option<Secret>,
    /// Also answers Meta's verification of the webhook for instances that have a word of their own.
    pub verify_token: Option<Secret>,
}

/// How the parts that every request depends on are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeHealth {
    /// The store failed and the node needs a restart.
    pub store_failed: bool,
    /// Too little space is left to accept messages.
    pub disk_full: bool,
}

/// Tells the health at the moment it is asked. Must not block.
pub type HealthProbe = Box<dyn Fn() -> NodeHealth + Send + Sync>;

/// Tells the metrics in the text format of OpenMetrics. May read the disk: called on a blocking thread.
pub type MetricsProbe = Box<dyn Fn() -> String + Send + Sync>;

/// The lower rooms, as handlers reach them.
pub struct Services {
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
    pub health: HealthProbe,
    pub metrics: MetricsProbe,
}

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<AppStateInner>);

/// What is behind an [`AppState`].
pub struct AppStateInner {
    options: Options,
    cloud_defaults: CloudDefaults,
    services: Services,
    keyring: Keyring,
    request_limiter: RequestLimiter,
    /// Memory for bodies that are too large to be taken for granted.
    memory_budget: MemoryBudget,
    stream_slots: StreamSlots,
    /// The OpenAPI document as it is served; set once by [`router`].
    openapi_document: OnceLock<Bytes>,
}

impl AppState {
    pub fn new(options: Options, cloud_defaults: CloudDefaults, services: Services) -> Self {
        let keyring = Keyring::new(options.api_key.as_ref());
        let pace = RequestLimiter::new(options.rate_limit);
        let room = MemoryBudget::new(options.media_body_limit);
        let streams = StreamSlots::new(options.max_streams);
        let document = OnceLock::new();
        let shared = AppStateInner {
            options,
            cloud_defaults,
            services,
            keyring,
            request_limiter: pace,
            memory_budget: room,
            stream_slots: streams,
            openapi_document: document,
        };
        Self(Arc::new(shared))
    }
}

impl Deref for AppState {
    type Target = AppStateInner;
    fn deref(&self) -> &AppStateInner {
        &self.0
    }
}
