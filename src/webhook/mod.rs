//! Webhooks: durable, ordered, signed delivery of events to endpoints.
//!
//! Guarantees: every event that matches the filter of an endpoint is delivered to it at least once, and events of one
//! instance in the order of its log. The cursors are durable, so a receiver gets its backlog after an outage of the
//! receiver or a restart of the node. A failing or slow receiver delays no other one: every endpoint has an actor, and an
//! endpoint of all instances has one stream per instance. An event that is refused for good is parked, and the next one
//! follows. An endpoint that fails for days is disabled, with an event, and keeps its cursors. Streams read the log in
//! small pages, so memory is bounded.
//!
//! `retry` decides what follows an attempt; it is a pure function.

mod actor;
mod commands;
mod delivery;
mod delivery_status;
mod endpoint;
mod handle;
mod health;
mod log_reader;
mod primary;
mod retry;
mod signature;
mod storage;
mod supervisor;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::supervisor::ActorUnavailable;
use relevo_domain::{ErrorKind, ValidationError};
use relevo_egress as egress;
use relevo_store as store;

pub use crate::events::EventFilter as Events;
pub use delivery_status::{DeliveryState, DeliveryView, EventDelivery, EventDeliveryPage};
pub use endpoint::{
    CheckedConfig, DisabledInfo, EndpointConfig, EndpointId, EndpointScope, EndpointUpdate, EndpointView,
    FailuresView, SECRET_MASK,
};
pub use handle::{Handle, Lag, ParkedView, ReplayFrom, ReplayOutcome};
pub use health::{EndpointTotals, WebhookCounts};
pub use primary::PrimaryChange;
pub use storage::{EventRef, ParkReason, delete_endpoints, endpoints_of_instances};
pub use supervisor::{Arguments, InstanceIds, Msg, WebhookSupervisor};

/// Options of deliveries.
#[derive(Debug, Clone)]
pub struct Options {
    /// Timeout of one attempt. Standard Webhooks 1.0.0 ("Request timeouts") recommends 15 to 30 s.
    pub timeout: Duration,
    /// Delay after the first failed attempt, as in the example schedule of Standard Webhooks.
    pub first_delay: Duration,
    /// Factor by which each further delay grows. Jitter shortens every delay by up to a half.
    pub factor: u32,
    /// Maximum delay, and so the maximum time until a recovered receiver gets its backlog.
    pub max_delay: Duration,
    /// Time without success after which an endpoint is disabled. The example schedule of Standard Webhooks spans 75 h;
    /// less than a day would not outlast a night.
    pub give_up_after: Duration,
    /// Time of nothing but 410 (Gone) after which an endpoint is disabled.
    pub gone_after: Duration,
    /// Minimum number of failed attempts before an endpoint is disabled, so that downtime of the node does not count.
    pub give_up_attempts: u32,
    /// Number of permanent refusals after which an event is parked.
    pub refusals: u32,
    /// Maximum number of streams of one endpoint that run at once.
    pub streams: NonZeroUsize,
    /// Maximum number of endpoints of one instance, and of endpoints of all instances.
    pub max_endpoints: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            first_delay: Duration::from_secs(5),
            factor: 3,
            max_delay: Duration::from_secs(3600),
            give_up_after: Duration::from_secs(72 * 3600),
            gone_after: Duration::from_secs(24 * 3600),
            give_up_attempts: 20,
            refusals: 3,
            streams: NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN),
            max_endpoints: 32,
        }
    }
}

/// Why an operation on an endpoint failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The endpoint does not exist.
    #[error("there is no webhook endpoint {0}")]
    Unknown(EndpointId),
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The URL is refused.
    #[error("url: {0}")]
    Url(egress::Error),
    /// The scope has the maximum number of endpoints.
    #[error("there are already {limit} webhook endpoints of this scope, which is the limit; delete one")]
    TooMany { limit: usize },
    /// The event is not parked.
    #[error("the endpoint has no parked event {0}")]
    NotParked(EventRef),
    /// Retention has deleted the event.
    #[error("the event {0} is no longer in the log: retention has deleted it")]
    EventExpired(EventRef),
    /// The event was never delivered to the endpoint and is not pending.
    #[error("the event {0} was not delivered to the endpoint and is not pending; a replay delivers it")]
    NotDelivered(EventRef),
    /// The instance is outside the scope of the endpoint.
    #[error("the endpoint does not serve this instance")]
    NotServed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The supervisor of the webhooks does not run.
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
    /// The kind of the error, from which the API derives its answer.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Unknown(_)
            | Error::NotParked(_)
            | Error::EventExpired(_)
            | Error::NotDelivered(_)
            | Error::NotServed => ErrorKind::NotFound,
            Error::Invalid(_) | Error::Url(_) => ErrorKind::Invalid,
            Error::TooMany { .. } => ErrorKind::Conflict,
            Error::Store(error) => error.kind(),
            Error::Gone(_) => ErrorKind::Unavailable,
        }
    }

    /// The field of the request that is wrong, if the request caused the error.
    pub fn invalid(&self) -> Option<&ValidationError> {
        match self {
            Error::Invalid(invalid) => Some(invalid),
            _ => None,
        }
    }
}
