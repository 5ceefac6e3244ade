//! A WhatsApp Web server of our own, so that linked devices can be tried and tested without WhatsApp.
//!
//! Unmodified clients talk to it over a real WebSocket: Noise handshake, pairing, login, end-to-end encryption,
//! media. At the other end are virtual phones ([`Phone`]): each account's first device, which scans codes, opens
//! what it gets with real Signal keys, and answers. A control plane under `/_web/` does for people and other
//! processes what [`WebHandle`] does for tests.
//!
//! What is guaranteed:
//! - What was acknowledged to a sender reaches every device it was for: it stands in the device's line until the
//!   device acknowledges it, across lost connections and restarts of the server.
//! - A message that comes again under its id is acknowledged again and delivered to nobody twice, unless a fault
//!   says so. The journal tells how often it came.
//! - Everything is bounded: lines, outboxes, frames, sockets, media, the journal. An idle device costs one task and
//!   some 20 KiB.
//! - A malformed frame ends its connection with a line in the log. Nothing that a client sends ends the server.
//!
//! Its certificates are signed by nobody. It listens on loopback alone, and exists only in builds with the feature
//! `linked-sandbox`, whose clients believe it and speak to this machine alone.

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
mod routing;
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

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sockets served at once; further ones are turned away with 503.
    pub max_connections: usize,
    /// How many messages the journal knows; older ones are forgotten.
    pub keep_stanzas: usize,
    /// How many bytes of media are kept; the oldest makes room.
    pub media_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_connections: 4096, keep_stanzas: 100_000, media_bytes: 256 << 20 }
    }
}

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the sandbox's WhatsApp Web will not listen on {0}: it is for this machine alone. Use a loopback address"
    )]
    NotLoopback(SocketAddr),
    #[error("the listener has no address: {0}")]
    Listener(#[from] std::io::Error),
    #[error("max_connections must be at least 1")]
    ZeroConnections,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotLoopback(_) | Self::ZeroConnections => ErrorKind::Invalid,
            Self::Listener(_) => ErrorKind::Unavailable,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
