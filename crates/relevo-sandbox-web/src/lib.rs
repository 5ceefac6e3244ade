//! A WhatsApp Web server of this project, for tests and trials of linked devices without WhatsApp.
//!
//! Unmodified clients connect over a real WebSocket: Noise handshake, pairing, login, end-to-end encryption, media.
//! The other participants are virtual phones ([`Phone`]): the first device of each account, which scans codes,
//! decrypts messages with real Signal keys, and replies. A control plane under `/_web/` offers operators and other
//! processes what [`WebHandle`] offers tests.
//!
//! The server guarantees:
//! - An acknowledged message reaches every device that it is for: it stays in the device's queue until the device
//!   acknowledges it, across lost connections and simulated restarts.
//! - A message that arrives again under its id is acknowledged again and delivered once, unless a fault requests
//!   otherwise. The journal records how often it arrived.
//! - Queues, outboxes, frames, sockets, media and the journal are bounded. An idle device costs one task and about
//!   20 KiB.
//! - A malformed frame closes its connection and is logged. No input of a client stops the server.
//!
//! The certificates of the server are unsigned. It listens on loopback only, and exists only in builds with the
//! feature `linked-sandbox`, whose clients accept the certificates and connect to this machine only.

mod account_signature;
mod accounts;
mod app_state;
mod control;
mod device_list;
mod faults;
mod frames;
mod group_members;
mod groups;
mod handle;
mod history;
mod iq;
mod journal;
mod keys;
mod link_code;
mod login;
mod media;
mod noise;
mod pairing;
mod phone;
mod phone_events;
mod phone_receive;
mod phone_send;
mod queue;
mod receipts;
mod registry;
mod router;
mod server;
mod server_state;
mod signal;
mod socket;
mod stanza;
mod stats;
mod usync;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use relevo_domain::ErrorKind;

pub use faults::{DeviceMatch, Fault, FaultRule};
pub use groups::Role;
pub use handle::{Disconnection, WebHandle, WebServer};
pub use journal::JournaledMessage;
pub use pairing::Error as PairingError;
pub use phone::{Error as PhoneError, Phone, PhoneEventStream};
pub use phone_events::{PhoneEvent, PhoneMessage};
pub use stats::{ConnectionRecord, ConnectionTransition};

/// Behaviour of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum number of open sockets; further ones are refused with 503.
    pub max_connections: usize,
    /// Maximum number of messages in the journal; older ones are evicted.
    pub keep_stanzas: usize,
    /// Maximum size of stored media, in bytes; the oldest files are evicted.
    pub media_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_connections: 4096, keep_stanzas: 100_000, media_bytes: 256 << 20 }
    }
}

/// Reason why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener's address is not a loopback address.
    #[error(
        "the WhatsApp Web sandbox refuses to listen on {0}: it is for this machine alone. Use a loopback address"
    )]
    NotLoopback(SocketAddr),
    /// The system does not report the listener's address.
    #[error("the listener has no address: {0}")]
    Listener(#[from] std::io::Error),
    /// `max_connections` is 0.
    #[error("max_connections must be at least 1")]
    ZeroConnections,
}

impl Error {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotLoopback(_) | Self::ZeroConnections => ErrorKind::Invalid,
            Self::Listener(_) => ErrorKind::Unavailable,
        }
    }
}

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
