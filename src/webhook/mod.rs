//! Events, delivered: every endpoint gets every event that it wants, in order, until it has taken it.
//!
//! What it promises: an endpoint is told of an event at least once, and of the events of one instance in the order
//! of that instance's log; its place in every log is durable, so a receiver that was down gets what it missed,
//! over restarts of the node too. A receiver that is down, slow or silent holds back nobody else: every endpoint
//! is an actor of its own, and an endpoint for all instances serves each of them as a stream of its own. An event
//! that is refused for good is parked and the next one follows; an endpoint that fails for days is disabled, with
//! an event, and keeps its place. Nothing is pushed into memory: streams pull their log in small pages.
//!
//! What an attempt means for the event is decided in `verdict`, a pure function.

mod actor;
mod commands;
mod delivery;
mod delivery_status;
mod endpoint;
mod handle;
mod health;
mod log_reader;
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
    DisabledInfo, EndpointConfig, EndpointId, EndpointScope, EndpointUpdate, EndpointView, FailuresView,
    SECRET_MASK,
};
pub use handle::{Handle, Lag, ParkedView, ReplayFrom, ReplayOutcome};
pub use health::{EndpointTotals, WebhookCounts};
pub use storage::{EventRef, ParkReason};
pub use supervisor::{Arguments, InstanceIds, Msg, WebhookSupervisor};

/// How events are delivered.
#[derive(Debug, Clone)]
pub struct Options {
    /// A receiver has this long to answer. Standard Webhooks 1.0.0 ("Request timeouts") recommends 15 to 30 s.
    pub timeout: Duration,
    /// The pause after the first failed attempt, as in the example schedule of Standard Webhooks.
    pub first_delay: Duration,
    /// Each further pause is this many times the last. Of every pause between half and all is waited.
    pub factor: u32,
    /// No pause is longer, so that a receiver that is back waits no longer than this for its events.
    pub max_delay: Duration,
    /// An endpoint that took nothing for this long is disabled. The example schedule of Standard Webhooks spans
    /// 75 h; less than a day would not outlast a night.
    pub give_up_after: Duration,
    /// ... but not before this many attempts, so that a night in which the node itself was off does not count.
    pub give_up_attempts: u32,
    /// So many refusals for good, and the event is parked.
    pub refusals: u32,
    /// Instances that an endpoint for all of them serves at once.
    pub streams: NonZeroUsize,
    /// Endpoints that one instance may have, and that may serve all instances.
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
            give_up_attempts: 20,
            refusals: 3,
            streams: NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN),
            max_endpoints: 32,
        }
    }
}

/// Why something about an endpoint could not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no webhook endpoint is called {0}")]
    Unknown(EndpointId),
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    #[error("url: {0}")]
    Url(egress::Error),
    #[error("there are {limit} webhook endpoints here already, which is the limit; delete one")]
    TooMany { limit: usize },
    #[error("the endpoint has no parked event {0}")]
    NotParked(EventRef),
    #[error("the event {0} is no longer in the log; it was kept as long as events are kept")]
    EventExpired(EventRef),
    #[error("the endpoint was not told of the event {0}, and will not be, unless a replay brings it there")]
    NotDelivered(EventRef),
    #[error("the endpoint does not serve this instance")]
    NotServed,
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
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

    /// The field of the request that is wrong, when one is.
    pub fn invalid(&self) -> Option<&ValidationError> {
        match self {
            Error::Invalid(invalid) => Some(invalid),
            _ => None,
        }
    }
}
