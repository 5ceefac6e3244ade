//! One supervised actor for every WhatsApp account.
//!
//! What it promises: an instance is what its owner wants it to be, over restarts of the actor and of the node; a
//! client that crashes or stops answering is replaced, with growing pauses, and one that keeps crashing is parked
//! with the reason; an account whose credentials are refused pauses instead of burning its queue; no instance ever
//! waits for another. An actor runs exactly while its instance should be connected: what is paused, disconnected
//! or failed has no actor, and its queue waits. A linked device is paired when somebody asks for it, never by itself,
//! and is nobody's hammer: once WhatsApp wants nothing of it, nothing is tried before somebody cares.

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
mod prefetch;
mod ready_queue;
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
pub use supervisor::{Arguments, InstanceNames, InstanceSupervisor, Msg};

/// How instances run, where their own configuration says nothing else.
#[derive(Debug, Clone)]
pub struct Options {
    /// Messages on their way at once.
    pub workers: NonZeroU32,
    /// Bulk messages of one instance that may be on their way at once, so that the others find a free worker.
    pub bulk_workers: NonZeroU32,
    /// The steady rate and burst of one instance; Meta's default throughput is 80 messages a second per number.
    pub rate_limit: RateLimit,
    /// The pace to one recipient on the Cloud API: Meta allows one message every 6 s ...
    pub pair_interval: Duration,
    /// ... after a burst of up to 45.
    pub pair_burst: NonZeroU32,
    /// One attempt may take this long; then its outcome is unknown.
    pub send_timeout: Duration,
    /// A synchronous caller waits this long at most.
    pub sync_wait: Duration,
    /// How often the watchdog looks whether the client still answers ...
    pub probe_interval: Duration,
    /// ... and how long it waits for the answer. Three misses, and the client is replaced.
    pub probe_timeout: Duration,
    /// The pause before the first restart; doubled by each that follows.
    pub restart_delay: Duration,
    /// No pause before a restart is longer.
    pub restart_max_delay: Duration,
    /// More panics than this within a minute, and the instance is parked as failed.
    pub restart_limit: u32,
    /// What is different for linked devices.
    pub linked: LinkedDeviceOptions,
}

/// How linked devices send and are watched: like people, and like connections that can go dead.
#[derive(Debug, Clone)]
pub struct LinkedDeviceOptions {
    /// Messages on their way at once.
    pub workers: NonZeroU32,
    /// 20 messages a minute is the documented pace.
    pub rate_limit: RateLimit,
    /// Each pause between two messages is longer by a random part of it, up to this; from 0 to 1.
    pub jitter: f64,
    /// How often a connection is pinged ...
    pub probe_interval: Duration,
    /// ... and how long the answer may take. Two misses, and the client is replaced.
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
    /// The rate of an instance that has none of its own.
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

/// Why an instance did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no instance is called {0}")]
    Unknown(InstanceId),
    #[error("an instance called {0} exists")]
    Exists(InstanceId),
    #[error("the instance is {} ({}): {}", .state.as_str(), .reason.code, .reason.text)]
    NotConnected { state: InstanceState, reason: Reason },
    /// It is somebody's device already.
    #[error("the instance is linked to {0}; log it out first to link it to another account")]
    AlreadyLinked(String),
    #[error("WhatsApp gave no code in time; try again in some seconds")]
    QrCodeTimeout,
    /// This road has no phone to be linked to.
    #[error("{} has no link with a phone; only instances of the provider linked_device have", .0.as_str())]
    NoLink(ProviderKind),
    /// What was asked of WhatsApp did not succeed.
    #[error("{0}")]
    Failed(Failure),
    #[error("all {0} instance numbers of this data folder are used up")]
    NumbersExhausted(u32),
    #[error(transparent)]
    Refused(#[from] provider::CheckError),
    #[error("{field}: {cause}")]
    UrlRefused { field: &'static str, cause: egress::Error },
    #[error(transparent)]
    Provider(#[from] provider::Error),
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error(transparent)]
    Media(#[from] crate::media::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
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

    /// The field of the request that is wrong, when one is.
    pub fn invalid(&self) -> Option<&ValidationError> {
        match self {
            Error::Refused(provider::CheckError::Invalid(invalid)) => Some(invalid),
            Error::Provider(provider::Error::Invalid(invalid)) => Some(invalid),
            _ => None,
        }
    }
}
