//! The writer thread: runs closures in groups and makes each group durable.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;

use relevo_metrics::Metrics;

use super::commit_history::CommitHistory;
use super::engine::Engine;
use super::scheduler::{Completion, Scheduler};
use super::tx::{batch, from_sled};
use super::watch::TailWatch;
use super::{Error, Key, Space, Tx};

/// Minimum time between two checks of the disk's free space. The writer checks it only before commits.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// State of the writer that the handles read.
#[derive(Debug, Default)]
pub(super) struct WriterStatus {
    /// Commits made durable since the start.
    pub commits: AtomicU64,
    /// The disk has less free space than configured.
    pub full: AtomicBool,
    /// A commit failed; the store accepts no changes before a restart.
    pub failed: AtomicBool,
    /// Urgent tasks were run recently ([`Store::is_contended`](super::Store::is_contended)).
    pub contended: AtomicBool,
    /// Held by the writer while it applies a batch, and by readers while they join the parts of a large value, so that no
    /// reader joins parts of two values.
    pub apply_lock: RwLock<()>,
    /// The durable tails of the event logs.
    pub tails_watch: TailWatch,
}

impl WriterStatus {
    /// Applies a batch atomically for all readers.
    pub fn apply(&self, db: &sled::Db, batch: sled::Batch) -> Result<(), Error> {
        let _applying = self.apply_lock.write().unwrap_or_else(PoisonError::into_inner);
        db.apply_batch(batch).map_err(from_sled)
    }
}

/// The state of the writer thread, the only thread that writes to sled.
pub(super) struct Writer {
    /// Runs the thread's timers and channel waits.
    pub runtime: Runtime,
    pub engine: Engine,
    pub history: CommitHistory,
    /// sled's data file, opened once: `fdatasync` on it makes a flush durable.
    pub file: File,
    pub scheduler: Scheduler,
    pub status: Arc<WriterStatus>,
    pub min_free_space: u64,
    pub metrics: Metrics,
}

impl Writer {
    /// Commits until every handle is dropped and all submitted tasks have run.
    pub fn run(mut self) {
        let mut failure: Option<Error> = None;
        let mut space_checked_at: Option<Instant> = None;
        while self.runtime.block_on(self.scheduler.wait()) {
            if space_checked_at.is_none_or(|checked_at| checked_at.elapsed() >= SPACE_CHECK_INTERVAL) {
                self.check_space();
                space_checked_at = Some(Instant::now());
            }
            let began = Instant::now();
            let mut completions = Vec::new();
            let outcome = self.commit(&mut completions, failure.is_none());
            if let Err(cause) = outcome {
                tracing::error!(%cause, "commit failed; the store accepts no changes until the node restarts");
                self.status.failed.store(true, Ordering::Relaxed);
                failure = Some(cause);
            }
            let took = began.elapsed();
            self.metrics.record_commit(completions.len(), took);
            for completion in completions {
                completion(failure.clone());
            }
            self.scheduler.record_commit(took);
        }
        self.history.close();
    }

    /// Runs closures over one transaction and makes their changes durable. Adds the completion of every closure that ran
    /// to `completions`, also when the commit fails. Writes nothing when an earlier commit failed (`writable` is false).
    fn commit(&mut self, completions: &mut Vec<Completion>, writable: bool) -> Result<(), Error> {
        let mut tx = Tx::new(&self.engine);
        completions.extend(self.scheduler.run(&mut tx));
        // Urgent tasks that arrived meanwhile read and extend the same changes; nothing is applied yet.
        completions.extend(self.scheduler.run_late_urgent(&mut tx));
        self.status.contended.store(self.scheduler.is_contended(), Ordering::Relaxed);
        if !writable {
            return Ok(());
        }
        let tails = tx.changes_under(&Key::new(Space::EventTail));
        let Some(mut changes) = tx.into_changes() else { return Ok(()) };
        self.history.record(&mut changes, &self.engine)?;
        self.status.apply(self.engine.db(), batch(changes))?;
        self.engine.db().flush().map_err(from_sled)?;
        self.file.sync_data().map_err(|cause| Error::Failed(cause.to_string()))?;
        self.history.write_witness();
        self.status.commits.fetch_add(1, Ordering::Relaxed);
        self.status.tails_watch.publish(tails);
        Ok(())
    }

    fn check_space(&self) {
        if let Ok(disk) = rustix::fs::fstatvfs(&self.file) {
            let full = disk.f_bavail.saturating_mul(disk.f_frsize) < self.min_free_space;
            if full != self.status.full.swap(full, Ordering::Relaxed) {
                tracing::warn!(
                    full,
                    min_free_space = self.min_free_space,
                    "free disk space crossed the limit; while full, the node accepts no new messages"
                );
            }
        }
    }
}
