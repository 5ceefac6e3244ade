//! Deletion of files that no record of the store refers to.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::media::MediaCache;
use crate::queue;
use relevo_clock::Clock;
use relevo_store as store;
use relevo_store::{BlobSet, Blobs, SweepReport};

/// Delay of the first sweep after a start. A node that is restarted every day sweeps as well.
const FIRST_DELAY: Duration = Duration::from_secs(15 * 60);

/// Interval between two sweeps.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Minimum age of a blob that a sweep removes: the writer of a younger blob may not have committed the record that
/// refers to it.
const GRACE_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Adds the blobs that a module refers to, beside those of the queue.
pub(super) type BlobReferences = Arc<dyn Fn(&mut BlobSet) -> Result<(), store::Error> + Send + Sync>;

/// The periodic deletion of unreferenced blobs and of expired files of the media cache.
pub(super) struct GarbageCollector {
    pub blobs: Blobs,
    pub queue: queue::Handle,
    /// The references of bulk jobs. Called on a blocking thread.
    pub references: BlobReferences,
    pub media_cache: MediaCache,
    pub clock: Clock,
}

impl GarbageCollector {
    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(
            self.media_cache.clone().run_maintenance(stop.clone()),
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
                    tracing::info!(files, bytes, "unreferenced blobs deleted")
                }
                Err(cause) => tracing::warn!(%cause, "blob sweep failed; retrying at the next interval"),
            }
        }
    }

    /// Marks the referenced blobs, then removes the others. An error while marking removes nothing.
    async fn sweep(&self) -> Result<SweepReport, queue::Error> {
        let before = self.clock.now() - GRACE_PERIOD;
        let mut referenced = self.queue.referenced_blobs().await?;
        let (blobs, references) = (self.blobs.clone(), self.references.clone());
        let sweep = tokio::task::spawn_blocking(move || {
            references(&mut referenced)?;
            blobs.sweep(&referenced, before)
        });
        Ok(sweep.await.unwrap_or(Err(store::Error::Panicked))?)
    }
}
