//! What all requests share.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::ids::Ids;
use crate::journal::Journal;
use crate::media_store::MediaStore;
use crate::pace::Throughput;
use crate::stats::Stats;
use crate::webhooks::{Courier, Tracked};
use crate::{Options, Result};
use relevo_clock::Clock;

/// Uploads that are held in memory at once, each up to the largest document; further ones wait.
const UPLOADS_AT_ONCE: usize = 8;

#[derive(Debug)]
pub struct Shared {
    pub options: Options,
    pub clock: Clock,
    pub ids: Ids,
    pub stats: Arc<Stats>,
    pub journal: Journal,
    pub faults: Faults,
    pub media: MediaStore,
    pub uploads: Semaphore,
    pub throughput: Throughput,
    pub courier: Courier,
    /// Cancelled when the server stops: whoever holds a request back lets go.
    pub closing: CancellationToken,
}

impl Shared {
    /// The state, and the end of the queue from which accepted messages are followed by their statuses.
    pub fn new(options: Options, clock: Clock) -> Result<(Self, mpsc::Receiver<Tracked>)> {
        let stats = Arc::new(Stats::default());
        let (courier, accepted) = Courier::new(&options, Arc::clone(&stats))?;
        let shared = Self {
            clock,
            ids: Ids::new(rand::random()),
            stats,
            journal: Journal::new(options.keep_messages, options.keep_bytes),
            faults: Faults::default(),
            media: MediaStore::new(options.media_bytes),
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
            throughput: Throughput::new(options.messages_per_second),
            courier,
            closing: CancellationToken::new(),
            options,
        };
        Ok((shared, accepted))
    }

    /// As new, apart from the receiver of webhooks: journal, counters, faults, media and waiting statuses go.
    pub fn reset(&self) {
        self.courier.forget();
        self.faults.disarm(None);
        self.media.clear();
        self.journal.clear();
        self.stats.clear();
    }
}
