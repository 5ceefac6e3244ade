use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use relevo_metrics::Metrics;

use super::scheduler::{Completion, Scheduler};
use super::tx::{ValueChange, from_sled};
use super::watch::TailWatch;
use super::{Error, Key, Space, Tx};

/// How often the free space of the disk is looked at while there is writing.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What others may see of the writer.
#[derive(Debug, Default)]
pub(super) struct WriterStatus {
    /// Commits made durable since the start.
    pub commits: AtomicU64,
    /// The disk has less free space than configured.
    pub full: AtomicBool,
    /// A commit failed; nothing can be written before a restart.
    pub failed: AtomicBool,
    /// Something went first now and then, lately.
    pub contended: AtomicBool,
    /// The tails of the event logs as they are on the disk.
    pub tails_watch: TailWatch,
}

/// The one thread that writes.
pub(super) struct Writer {
    /// What this thread waits with.
    pub runtime: Runtime,
    pub db: sled::Db,
    /// sled's own file, opened once: `fdatasync` on it is what makes a flush durable.
    pub file: File,
    pub scheduler: Scheduler,
    pub status: Arc<WriterStatus>,
    pub min_free_space: u64,
    pub metrics: Metrics,
}

impl Writer {
    /// Works until every handle is gone.
    pub fn run(mut self) {
        let mut failure: Option<Error> = None;
        let mut space_checked: Option<Instant> = None;
        while self.runtime.block_on(self.scheduler.wait()) {
            if space_checked.is_none_or(|at| at.elapsed() >= SPACE_CHECK_INTERVAL) {
                self.check_space();
                space_checked = Some(Instant::now());
            }
            let began = Instant::now();
            let mut answers = Vec::new();
            let outcome = self.commit(&mut answers, failure.is_none());
            if let Err(cause) = outcome {
                tracing::error!(%cause, "a commit failed; nothing more is accepted until the node restarts");
                self.status.failed.store(true, Ordering::Relaxed);
                failure = Some(cause);
            }
            let took = began.elapsed();
            self.metrics.record_commit(answers.len(), took);
            for answer in answers {
                answer(failure.clone());
            }
            self.scheduler.record_commit(took);
        }
    }

    /// Runs closures and makes what they changed durable. `answers` has one for each that was run, whatever becomes of
    /// the commit. Where an earlier one failed, nothing is written.
    fn commit(&mut self, answers: &mut Vec<Completion>, writable: bool) -> Result<(), Error> {
        let mut tx = Tx::new(&self.db);
        answers.extend(self.scheduler.run(&mut tx));
        let mut tails = Vec::new();
        let applied = if writable { self.apply(tx, &mut tails) } else { Ok(false) };
        // What goes first and came meanwhile is in time for the same sync.
        let mut late = Tx::new(&self.db);
        answers.extend(self.scheduler.run_late_urgent(&mut late));
        self.status.contended.store(self.scheduler.is_contended(), Ordering::Relaxed);
        let is_changed = applied?;
        if (writable && self.apply(late, &mut tails)?) || is_changed {
            self.db.flush().map_err(from_sled)?;
            self.file.sync_data().map_err(|cause| Error::Failed(cause.to_string()))?;
            self.status.commits.fetch_add(1, Ordering::Relaxed);
            self.status.tails_watch.publish(tails);
        }
        Ok(())
    }

    /// Tells whether anything was changed, and of the changed tails in `tails`.
    fn apply(&self, tx: Tx, tails: &mut Vec<(Vec<u8>, ValueChange)>) -> Result<bool, Error> {
        tails.extend(tx.changes_under(&Key::new(Space::EventTail)));
        let Some(batch) = tx.into_batch() else { return Ok(false) };
        self.db.apply_batch(batch).map_err(from_sled)?;
        Ok(true)
    }

    fn check_space(&self) {
        if let Ok(disk) = rustix::fs::fstatvfs(&self.file) {
            let full = disk.f_bavail.saturating_mul(disk.f_frsize) < self.min_free_space;
            if full != self.status.full.swap(full, Ordering::Relaxed) {
                tracing::warn!(
                    full,
                    min_free_space = self.min_free_space,
                    "the disk's free space crossed the limit"
                );
            }
        }
    }
}
