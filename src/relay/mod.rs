//! The relay: pushes inbound messages, in strict order, to one WebSocket server.
//!
//! Guarantees: a frame is queued in the commit that ingests its webhook, and is deleted after the peer has shown that it
//! read the frame. Frames arrive in the order of their commits; an unavailable peer blocks the queue until it is back. A
//! frame is pushed at least once: after an attempt with an unknown outcome it is pushed again. Memory holds one frame,
//! whatever the backlog. A full queue refuses webhooks, which Meta repeats for days, instead of dropping frames.
//!
//! The node is the client of the WebSocket. The protocol of the documented consumer has no acknowledgement; `websocket`
//! defines what counts as one. Bytes in a socket buffer do not.

mod actor;
mod frame;
mod frame_queue;
mod handle;
mod pusher;
mod storage;
mod supervisor;
#[cfg(test)]
mod tests;
mod websocket;

use std::time::Duration;

use url::Url;

use crate::supervisor::ActorUnavailable;
use relevo_domain::ErrorKind;
use relevo_store as store;

pub use frame_queue::FrameQueue;
pub use handle::{Handle, RelayHealth};
pub use supervisor::{Arguments, Msg, RelaySupervisor};

/// Options of the relay.
#[derive(Debug, Clone)]
pub struct Options {
    /// A `ws://` or `wss://` URL. `None` disables the relay: nothing runs, and no frames are stored.
    pub url: Option<Url>,
    /// Timeout of one attempt: connection, TLS, push and confirmation. The documented system waited 15 s for its
    /// connection.
    pub timeout: Duration,
    /// Delay after a failed attempt, as in the documented system.
    pub retry_delay: Duration,
    /// Maximum length of the queue.
    pub capacity: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: None,
            timeout: Duration::from_secs(15),
            retry_delay: Duration::from_secs(5),
            capacity: 1_000_000,
        }
    }
}

/// Why an operation on the relay failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The relay is disabled.
    #[error("nothing is relayed: relay.url is not set")]
    Disabled,
    /// TLS or the URL could not be set up.
    #[error("the relay could not be set up: {0}")]
    Setup(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The supervisor of the relay does not run.
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
    /// The kind of the error, from which the API derives its answer.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Disabled | Error::Gone(_) => ErrorKind::Unavailable,
            Error::Setup(_) => ErrorKind::Internal,
            Error::Store(error) => error.kind(),
        }
    }
}
