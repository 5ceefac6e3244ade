//! The one door in.
//!
//! What comes from WhatsApp is verified on its raw bytes, understood, freed of duplicates, and durable before it is
//! acknowledged: facts about messages move the ledger, everything else joins the event log of its instance. What
//! cannot be understood is kept as it came.

mod cloud_webhook;
mod seen;

use crate::clock::Clock;
use crate::domain::{ErrorKind, InstanceNumber, Invalid, Secret};
use crate::metrics::Metrics;
use crate::queue;
use crate::store::{self, Store};

pub use cloud_webhook::verify;

/// An account that Meta's webhooks may be about.
#[derive(Debug, Clone)]
pub struct Account {
    pub instance: InstanceNumber,
    pub phone_number_id: String,
    /// Without it nobody can tell Meta's webhooks from forged ones.
    pub app_secret: Option<Secret>,
    /// The word that Meta repeats when it verifies the webhook's address.
    pub verify_token: Option<Secret>,
}

/// What one delivery held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Facts about messages of ours.
    pub statuses: usize,
    /// Other events, new ones.
    pub events: usize,
    /// Events that were delivered before.
    pub duplicates: usize,
    /// Parts that made no sense or concern no instance; the body was kept.
    pub odd: usize,
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queue: queue::Handle,
    store: Store,
    clock: Clock,
    metrics: Metrics,
}

impl Handle {
    pub fn new(queue: queue::Handle, store: Store, clock: Clock, metrics: Metrics) -> Self {
        Self { queue, store, clock, metrics }
    }
}

/// Why a delivery is not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// 403: it did not come from Meta, or the app secret is wrong.
    #[error("the signature does not match this body; check the app secret of the instance")]
    Signature,
    #[error(transparent)]
    NotAWebhook(#[from] Invalid),
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Signature | Error::NotAWebhook(_) => ErrorKind::Invalid,
            Error::Queue(error) => error.kind(),
            Error::Store(error) => error.kind(),
        }
    }
}
