//! Runs one supervised actor for every WhatsApp account.
//!
//! Guarantees:
//! - An instance reaches its desired state, across restarts of its actor and of the node.
//! - A client that crashes or stops answering is replaced, with a growing backoff. A client that keeps crashing is
//!   parked as failed, with the reason.
//! - An account whose credentials are rejected is paused. Its queue is kept.
//! - No instance waits for another.
//!
//! An actor runs exactly while its instance should be connected. A paused, disconnected or failed instance has no
//! actor, and its queue waits. A linked device is paired only on request. It never reconnects after WhatsApp has
//! rejected it, until an operator resumes it.

mod actor;
mod admission;
mod attempt;
mod commands;
mod connection;
mod directory;
mod handle;
mod health_check;
mod leasing;
mod lifecycle;
mod limiter;
mod link_state;
mod media;
mod pairing;
mod planner;
mod prefetch;
mod ready_queue;
mod record;
mod supervisor;
#[cfg(test)]
mod tests;
mod transitions;
mod unlink;
mod watchdog;

use std::num::NonZeroU32;
use std::time::Duration;

use crate::queue;
use crate::supervisor::ActorUnavailable;
use relevo_domain::{
    ErrorKind, Failure, FailureKind, InstanceId, InstanceState, ProviderKind, RateLimit, Reason,
    ValidationError,
};
use relevo_egress as egress;
use relevo_provider as provider;
use relevo_store as store;

pub use admission::{MessageChecker, SendRequest};
pub use directory::{InstanceView, QrCode, StateView};
pub use handle::{Handle, SyncSendOutcome};
pub use pairing::{PairingCode, ReadMessage};
pub use record::{create, exists, mark_deleted, replace_config};
pub use supervisor::{Arguments, InstanceNames, InstanceSupervisor, Msg};

/// Default settings of instances; the configuration of an instance can replace some of them.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum number of concurrent attempts of one instance.
    pub workers: NonZeroU32,
    /// Maximum number of concurrent attempts for bulk messages, so that transactional messages find a free worker.
    pub bulk_workers: NonZeroU32,
    /// Steady rate and burst of one instance. Meta's default throughput is 80 messages per second and number.
    pub rate_limit: RateLimit,
    /// Interval between messages to one recipient on the Cloud API. Meta allows one message every 6 s.
    pub pair_interval: Duration,
    /// Burst to one recipient before `pair_interval` applies. Meta allows up to 45 messages.
    pub pair_burst: NonZeroU32,
    /// Timeout of one attempt. After it the outcome of the attempt is unknown.
    pub send_timeout: Duration,
    /// Maximum time that a synchronous send waits for its outcome.
    pub sync_wait: Duration,
    /// Interval of the health check of clients and of the watchdog's pings to actors.
    pub probe_interval: Duration,
    /// Timeout of one probe. A client that misses three probes in a row is replaced.
    pub probe_timeout: Duration,
    /// Delay before the first restart. Each further restart doubles it.
    pub restart_delay: Duration,
    /// Maximum delay before a restart.
    pub restart_max_delay: Duration,
    /// Number of crashes within one minute after which the instance is parked as failed.
    pub restart_limit: u32,
    /// Settings that differ for linked devices.
    pub linked: LinkedDeviceOptions,
}

/// Settings of linked devices. Their sending rate resembles a person's, and their health check expects connections
/// that stop answering without being closed.
#[derive(Debug, Clone)]
pub struct LinkedDeviceOptions {
    /// Maximum number of concurrent attempts.
    pub workers: NonZeroU32,
    /// Steady rate and burst. The documented rate is 20 messages per minute.
    pub rate_limit: RateLimit,
    /// Maximum random extension of the interval between two messages, as a fraction of it, from 0 to 1.
    pub jitter: f64,
    /// Interval between two pings of a connection.
    pub probe_interval: Duration,
    /// Timeout of one ping. A client that misses two pings in a row is replaced.
    pub probe_timeout: Duration,
}

impl Default for LinkedDeviceOptions {
    fn default() -> Self {
        let number = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            workers: number(3),
            rate_limit: RateLimit { per_second: 20.0 / 60.0, burst: number(5) },
            jitter: 0.5,
            probe_interval: Duration::from_secs(20),
            probe_timeout: Duration::from_secs(8),
        }
    }
}

impl Options {
    /// The rate limit of an instance whose configuration sets none.
    pub fn rate_limit_of(&self, provider: ProviderKind) -> RateLimit {
        match provider {
            ProviderKind::CloudApi => self.rate_limit,
            ProviderKind::LinkedDevice => self.linked.rate_limit,
        }
    }

    fn workers_of(&self, provider: ProviderKind) -> NonZeroU32 {
        match provider {
            ProviderKind::CloudApi => self.workers,
            ProviderKind::LinkedDevice => self.linked.workers,
        }
    }

    fn jitter_of(&self, provider: ProviderKind) -> f64 {
        match provider {
            ProviderKind::CloudApi => 0.0,
            ProviderKind::LinkedDevice => self.linked.jitter,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        let number = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            workers: number(10),
            bulk_workers: number(10),
            rate_limit: RateLimit { per_second: 80.0, burst: number(80) },
            pair_interval: Duration::from_secs(6),
            pair_burst: number(45),
            send_timeout: Duration::from_secs(30),
            sync_wait: Duration::from_secs(30),
            probe_interval: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(10),
            restart_delay: Duration::from_secs(1),
            restart_max_delay: Duration::from_secs(300),
            restart_limit: 5,
            linked: LinkedDeviceOptions::default(),
        }
    }
}

/// Error of an operation on an instance.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No instance has this id.
    #[error("instance {0} does not exist")]
    Unknown(InstanceId),
    /// The id of a new instance is taken.
    #[error("instance {0} exists already")]
    Exists(InstanceId),
    /// The operation needs a connected instance, or the instance is being logged out.
    #[error("the instance is {} ({}): {}", .state.as_str(), .reason.code, .reason.text)]
    NotConnected { state: InstanceState, reason: Reason },
    /// The instance is linked to an account already.
    #[error("the instance is linked to {0}; log it out first to link it to another account")]
    AlreadyLinked(String),
    /// No QR code arrived within the timeout.
    #[error("WhatsApp sent no QR code in time; try again in a few seconds")]
    QrCodeTimeout,
    /// The provider has no link with a phone.
    #[error("{} has no link with a phone; only instances of the provider linked_device have one", .0.as_str())]
    NoLink(ProviderKind),
    /// The request to WhatsApp failed.
    #[error("{0}")]
    Failed(Failure),
    /// The data folder has no free instance number.
    #[error("all {0} instance numbers of this data folder are used; start a new data folder")]
    NumbersExhausted(u32),
    /// The provider would reject the message.
    #[error(transparent)]
    Refused(#[from] provider::CheckError),
    /// A link in the message leads to an address that is not allowed.
    #[error("{field}: {cause}")]
    UrlRefused { field: &'static str, cause: egress::Error },
    /// The provider's client could not be created.
    #[error(transparent)]
    Provider(#[from] provider::Error),
    /// Error of the queue.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// Error of the media cache.
    #[error(transparent)]
    Media(#[from] crate::media::Error),
    /// Error of the store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The supervisor is restarting or has stopped.
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
    /// The kind of the error, for the HTTP status.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Unknown(_) => ErrorKind::NotFound,
            Error::Exists(_) => ErrorKind::Conflict,
            Error::NotConnected { state, .. } => match state {
                InstanceState::Paused | InstanceState::Failed | InstanceState::Connecting => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Conflict,
            },
            Error::AlreadyLinked(_) => ErrorKind::Invalid,
            Error::QrCodeTimeout => ErrorKind::Unavailable,
            Error::NoLink(_) => ErrorKind::Unsupported,
            Error::Failed(failure) if failure.kind == FailureKind::Permanent => ErrorKind::Rejected,
            Error::Failed(_) => ErrorKind::Unavailable,
            Error::Refused(provider::CheckError::Invalid(_)) => ErrorKind::Invalid,
            Error::Refused(provider::CheckError::Unsupported { .. }) => ErrorKind::Unsupported,
            Error::UrlRefused { .. } => ErrorKind::Invalid,
            Error::Provider(provider::Error::Invalid(_)) => ErrorKind::Invalid,
            Error::Provider(provider::Error::NotBuilt(_)) => ErrorKind::Unsupported,
            Error::Queue(error) => error.kind(),
            Error::Media(error) => error.kind(),
            Error::Store(error) => error.kind(),
            Error::NumbersExhausted(_) | Error::Gone(_) => ErrorKind::Unavailable,
        }
    }

    /// The invalid field of the request, if the error is about one.
    pub fn invalid(&self) -> Option<&ValidationError> {
        match self {
            Error::Refused(provider::CheckError::Invalid(invalid)) => Some(invalid),
            Error::Provider(provider::Error::Invalid(invalid)) => Some(invalid),
            _ => None,
        }
    }
}
