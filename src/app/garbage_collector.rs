//! Forgetting files that nobody needs any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::media::MediaCache;
use crate::queue;
use relevo_clock::Clock;
use relevo_store as store;
use relevo_store::{BlobSet, Blobs, SweepReport};

/// The first look at the blobs, soon enough for nodes that are restarted every day ...
const FIRST_DELAY: Duration = Duration::from_secs(15 * 60);

/// ... and the pause between two.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// A blob that was put more recently is kept: whoever put it may not have written down yet what needs it.
const GRACE_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Adds the blobs that a part of the node needs, beside those of the queue.
pub(super) type BlobReferences = Arc<dyn Fn(&mut BlobSet) -> Result<(), store::Error> + Send + Sync>;

/// The files of the node that come and go.
pub(super) struct GarbageCollector {
    pub blobs: Blobs,
    pub queue: queue::Handle,
    /// What bulk jobs need. Called on a blocking thread.
    pub references: BlobReferences,
    pub library: MediaCache,
    pub clock: Clock,
}

impl GarbageCollector {
    /// Tidies until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(
            self.library.clone().run_maintenance(stop.clone()),
            stop.run_until_cancelled(self.collect_blobs())
        );
    }

    async fn collect_blobs(&self) {
        let mut rounds = tokio::time::interval_at(Instant::now() + FIRST_DELAY, INTERVAL);
        loop {
            rounds.tick().await;
            match self.sweep().await {
                Ok(SweepReport { files: 0, .. }) => {}
                Ok(SweepReport { files, bytes }) => {
                    tracing::info!(files, bytes, "media that nobody needs is removed")
                }
                Err(cause) => tracing::warn!(%cause, "media that nobody needs stays until the next round"),
            }
        }
    }

    /// Marks what is needed, then removes the rest. An error before the end of the marking removes nothing.
    async fn sweep(&self) -> Result<SweepReport, queue::Error> {
        let before = self.clock.now() - GRACE_PERIOD;
        let mut needed = self.queue.referenced_blobs().await?;
        let (blobs, needs) = (self.blobs.clone(), self.references.clone());
        let sweeping = tokio::task::spawn_blocking(move || {
            needs(&mut needed)?;
            blobs.sweep(&needed, before)
        });
        Ok(sweeping.await.unwrap_or(Err(store::Error::Panicked))?)
    }
}
