//! The strict-order push of inbound messages to one WebSocket.
//!
//! What it promises: a frame joins the line in the commit that takes its webhook in, and leaves it after the peer
//! has shown that it read it. Frames arrive in the order of their commits; nothing overtakes, so a peer that is down
//! holds the line up until it is back. A frame is pushed at least once: one whose end is not known is pushed again.
//! Memory holds one frame, whatever the backlog; a line that is full refuses webhooks, which Meta repeats for
//! days, instead of forgetting what was accepted.
//!
//! The node is the WebSocket's client, and the protocol of the documented consumer has no acknowledgement. What
//! counts as one is decided in `line`: bytes in a socket buffer do not.

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

/// Where inbound messages are pushed, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// `ws://` or `wss://`. `None`: nothing runs, and nothing is kept for it.
    pub url: Option<Url>,
    /// For one frame: connection, TLS, push and the peer's sign that it read it. The documented system waited 15 s
    /// for its connection.
    pub timeout: Duration,
    /// The pause after a failed attempt, as in the documented system.
    pub retry_delay: Duration,
    /// Frames that may wait.
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

/// Why something about the relay could not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("nothing is relayed: relay.url is not set")]
    Disabled,
    #[error("the relay could not be set up: {0}")]
    Setup(String),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Gone(#[from] ActorUnavailable),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Disabled | Error::Gone(_) => ErrorKind::Unavailable,
            Error::Setup(_) => ErrorKind::Internal,
            Error::Store(error) => error.kind(),
        }
    }
}
