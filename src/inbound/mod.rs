//! The one door in.
//!
//! What comes from WhatsApp, by Meta's webhook or on a linked device's connection, is verified (a webhook on its raw
//! bytes, a device's message by its own encryption), understood, freed of duplicates, and durable before it is
//! acknowledged: facts about messages move the ledger, everything else becomes an event in the log of its instance.
//! What one delivery brings beside facts about our own messages (events, notes of media, frames for the relay, marks
//! of what was seen, people who opt out) is one commit. What cannot be understood is kept as it came.

mod cloud_webhook;
mod commit;
mod dedupe;
mod frames;
mod ingest;
mod keywords;
mod linked_device;
mod message_event;
mod opt_out;
mod quarantine;
#[cfg(test)]
mod tests;
mod to_cloud_webhook;
mod verify;

use std::sync::Arc;

use crate::queue;
use crate::relay::FrameQueue;
use relevo_clock::Clock;
use relevo_domain::{ErrorKind, InstanceId, InstanceNumber, Secret};
use relevo_metrics::Metrics;
use relevo_store::{self as store, Store};

use keywords::Keywords;
use verify::Verifier;

pub use cloud_webhook::verify_subscription;
pub use linked_device::ReceivingDevice;
pub use quarantine::{QuarantineId, QuarantinedBody};

/// What users may write to be left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whoever writes one of these, and nothing else, is not written to unasked any more. Case and accents do not
    /// count.
    pub opt_out_keywords: Vec<String>,
    /// Whoever writes one of these may be written to again.
    pub opt_in_keywords: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        Self { opt_out_keywords: words(["BAJA", "STOP"]), opt_in_keywords: words(["ALTA", "START"]) }
    }
}

/// An account that Meta's webhooks may be about.
#[derive(Debug, Clone)]
pub struct WebhookAccount {
    pub instance: InstanceNumber,
    pub name: InstanceId,
    pub phone_number_id: String,
    /// Without it nobody can tell Meta's webhooks from forged ones.
    pub app_secret: Option<Secret>,
    /// The word that Meta repeats when it verifies the webhook's address.
    pub verify_token: Option<Secret>,
}

/// What one delivery held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryCounts {
    /// Facts about messages that were sent.
    pub statuses: usize,
    /// Everything that became an event here: messages, news of the account, facts that the ledger does not tell.
    pub events: usize,
    /// Parts that told nothing new, most often because they were delivered before.
    pub duplicates: usize,
    /// Parts that made no sense or concern no instance; the body was kept.
    pub unprocessable: usize,
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queue: queue::Handle,
    store: Store,
    clock: Clock,
    metrics: Metrics,
    relay: FrameQueue,
    keywords: Arc<Keywords>,
    verifier: Verifier,
}

impl Handle {
    pub fn new(
        queue: queue::Handle,
        store: Store,
        clock: Clock,
        metrics: Metrics,
        relay: FrameQueue,
        options: &Options,
    ) -> Self {
        Self {
            queue,
            store,
            clock,
            metrics,
            verifier: Verifier::new(relay.is_enabled()),
            relay,
            keywords: Arc::new(Keywords::new(options)),
        }
    }

    /// One that relays nothing and knows the usual words, for tests of other rooms.
    #[cfg(test)]
    pub(crate) fn for_tests(queue: queue::Handle, store: Store, clock: Clock) -> Self {
        Self::new(queue, store, clock, Metrics::default(), FrameQueue::disabled(), &Options::default())
    }
}

/// Why a delivery is not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// 403: it did not come from Meta, or the app secret is wrong.
    #[error(
        "the signature does not match this body; check the instance's app secret, and its name in the address"
    )]
    Signature,
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Signature => ErrorKind::Invalid,
            Error::Queue(error) => error.kind(),
            Error::Store(error) => error.kind(),
        }
    }
}
