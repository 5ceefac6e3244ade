//! The state that all requests share.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::ids::IdGenerator;
use crate::journal::Journal;
use crate::media_store::MediaStore;
use crate::rate_limit::ThroughputLimiter;
use crate::stats::Stats;
use crate::webhooks::{TrackedMessage, WebhookSender};
use crate::{Options, Result};
use relevo_clock::{Clock, Random};

/// Maximum number of concurrent uploads, each up to the size of the largest document; further ones wait.
const MAX_CONCURRENT_UPLOADS: usize = 8;

/// The state of a sandbox.
#[derive(Debug)]
pub struct SandboxState {
    pub options: Options,
    pub clock: Clock,
    pub ids: IdGenerator,
    pub stats: Arc<Stats>,
    pub journal: Journal,
    pub faults: Faults,
    pub media: MediaStore,
    pub upload_permits: Semaphore,
    pub throughput: ThroughputLimiter,
    pub webhook_sender: WebhookSender,
    /// Cancelled when the server stops: delayed and held requests end.
    pub closing: CancellationToken,
}

impl SandboxState {
    /// The state, and the queue of accepted messages for the webhook dispatcher.
    ///
    /// # Errors
    /// The HTTP client for webhooks cannot be built.
    pub fn new(
        options: Options,
        clock: Clock,
        random: Random,
    ) -> Result<(Self, mpsc::Receiver<TrackedMessage>)> {
        let stats = Arc::new(Stats::default());
        let ids = IdGenerator::new(random.value());
        let (webhook_sender, accepted) = WebhookSender::new(&options, random, Arc::clone(&stats))?;
        let shared = Self {
            clock,
            ids,
            stats,
            journal: Journal::new(options.keep_messages, options.keep_bytes),
            faults: Faults::default(),
            media: MediaStore::new(options.media_bytes),
            upload_permits: Semaphore::new(MAX_CONCURRENT_UPLOADS),
            throughput: ThroughputLimiter::new(options.messages_per_second),
            webhook_sender,
            closing: CancellationToken::new(),
            options,
        };
        Ok((shared, accepted))
    }

    /// Clears journal, counters, faults, media and pending statuses. The webhook receiver stays.
    pub fn reset(&self) {
        self.webhook_sender.discard_pending();
        self.faults.disarm(None);
        self.media.clear();
        self.journal.clear();
        self.stats.clear();
    }
}
