//! Ingestion of everything that WhatsApp sends, by Meta's webhooks or on the connection of a linked device.
//!
//! A delivery is verified (a webhook by the signature over its raw bytes, a message of a linked device by its
//! encryption), parsed, deduplicated, and durable before it is acknowledged. Statuses of sent messages go to the ledger;
//! everything else becomes an event in the log of its instance. All changes of one delivery except those of the ledger
//! (events, media locations, relay frames, dedupe keys, suppressions) are one commit. A body that cannot be parsed is
//! quarantined unchanged.

mod cloud_webhook;
mod commit;
mod dedupe;
mod frames;
mod ingest;
mod keywords;
mod linked_device;
mod message_event;
mod opt_out;
mod plain_words;
mod quarantine;
#[cfg(test)]
mod tests;
mod to_cloud_webhook;
mod verify;

use std::sync::Arc;

use crate::queue;
use crate::relay::FrameQueue;
use relevo_clock::{Clock, Random};
use relevo_domain::{ErrorKind, InstanceId, InstanceNumber, Secret};
use relevo_metrics::Metrics;
use relevo_store::{self as store, Store};

use keywords::Keywords;
use verify::Verifier;

pub use cloud_webhook::verify_subscription;
pub use linked_device::ReceivingDevice;
pub use quarantine::{QuarantineId, QuarantinedBody};
pub use verify::{SignatureCheck, SignedBody};

/// Options of ingestion: the consent keywords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A user whose whole message is one of these is added to the suppression list. Case, accents, width, punctuation,
    /// emoji, invisible marks and formatting are ignored.
    pub opt_out_keywords: Vec<String>,
    /// A user whose whole message is one of these is removed from the suppression list.
    pub opt_in_keywords: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        Self { opt_out_keywords: words(["BAJA", "STOP"]), opt_in_keywords: words(["ALTA", "START"]) }
    }
}

/// An account that receives webhooks of Meta.
#[derive(Debug, Clone)]
pub struct WebhookAccount {
    /// The instance of the account.
    pub instance: InstanceNumber,
    /// The name of the instance.
    pub name: InstanceId,
    /// Meta's id of the phone number.
    pub phone_number_id: String,
    /// Secret that signs webhooks. Without it, forged webhooks cannot be detected.
    pub app_secret: Option<Secret>,
    /// Token that Meta sends when it verifies the webhook URL.
    pub verify_token: Option<Secret>,
}

/// Numbers of the parts of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryCounts {
    /// Statuses of sent messages.
    pub statuses: usize,
    /// Parts that became events: messages, changes of the account, and statuses that the ledger does not announce.
    pub events: usize,
    /// Parts without news, usually because they were delivered before.
    pub duplicates: usize,
    /// Parts that cannot be parsed or belong to no instance; the body was quarantined.
    pub unprocessable: usize,
}

/// The handle of ingestion. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queue: queue::Handle,
    store: Store,
    clock: Clock,
    random: Random,
    metrics: Metrics,
    relay: FrameQueue,
    keywords: Arc<Keywords>,
    verifier: Verifier,
}

impl Handle {
    /// A handle that ingests into `store` and pushes frames to `relay`.
    pub fn new(
        queue: queue::Handle,
        store: Store,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        relay: FrameQueue,
        options: &Options,
    ) -> Self {
        Self {
            queue,
            store,
            clock,
            random,
            metrics,
            verifier: Verifier::new(relay.is_enabled()),
            relay,
            keywords: Arc::new(Keywords::new(options)),
        }
    }

    /// A handle without a relay and with the default keywords, for tests of other modules.
    #[cfg(test)]
    pub(crate) fn for_tests(queue: queue::Handle, store: Store, clock: Clock) -> Self {
        let random = Random::seeded(1);
        Self::new(
            queue,
            store,
            clock,
            random,
            Metrics::default(),
            FrameQueue::disabled(),
            &Options::default(),
        )
    }
}

/// Why a delivery was not ingested.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// 403: the delivery is not from Meta, or the app secret is wrong.
    #[error(
        "the signature does not match this body; check the app secret of the instance, and its name in the URL"
    )]
    Signature,
    /// The queue did not record the statuses.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The kind of the error, from which the API derives its answer.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Signature => ErrorKind::Invalid,
            Error::Queue(error) => error.kind(),
            Error::Store(error) => error.kind(),
        }
    }
}
