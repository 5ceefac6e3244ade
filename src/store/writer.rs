use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

use super::tails::Tails;
use super::tx::failed;
use super::{Error, Key, Space, Tx};

/// The most closures that share one commit, so that a flood cannot put off everybody's answer.
const MAX_GROUP: usize = 1024;

/// How often the free space of the disk is looked at while there is writing.
const SPACE_CHECK: Duration = Duration::from_millis(500);

/// How soon a change is to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// With the next commit: somebody waits.
    Now,
    /// Together with others: it can wait for as long as the last commit took. So what nobody waits for keeps the writer
    /// and the disk busy for half of the time at most, and shares its commits, which cost more than what is in them.
    Soon,
}

/// One closure with its caller: runs against the transaction, and answers once the fate of the commit is known.
pub(super) struct Task {
    pub haste: Haste,
    pub run: Box<dyn FnOnce(&mut Tx) -> Finish + Send>,
}

pub(super) type Finish = Box<dyn FnOnce(Option<Error>) + Send>;

/// What others may see of the writer.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Commits made durable since the start.
    pub commits: AtomicU64,
    /// The disk has less free space than configured.
    pub full: AtomicBool,
    /// A commit failed; nothing can be written before a restart.
    pub failed: AtomicBool,
    /// The tails of the event logs as they are on the disk.
    pub tails: Tails,
}

/// The one thread that writes.
pub(super) struct Writer {
    /// What this thread waits with.
    pub runtime: Runtime,
    pub db: sled::Db,
    /// sled's own file, opened once: `fdatasync` on it is what makes a flush durable.
    pub file: File,
    pub tasks: mpsc::Receiver<Task>,
    pub gauges: Arc<Gauges>,
    pub min_free_space: u64,
    pub metrics: Metrics,
}

impl Writer {
    /// Works until every handle is gone.
    pub fn run(mut self) {
        let mut failure: Option<Error> = None;
        let mut space_checked: Option<Instant> = None;
        let mut group = Vec::with_capacity(MAX_GROUP);
        let mut rested = Instant::now();
        while self.runtime.block_on(gather(&mut self.tasks, &mut group, rested)) {
            if space_checked.is_none_or(|at| at.elapsed() >= SPACE_CHECK) {
                self.check_space();
                space_checked = Some(Instant::now());
            }
            let mut tx = Tx::new(&self.db);
            let (changes, began) = (group.len(), Instant::now());
            let answers: Vec<Finish> = group.drain(..).map(|task| (task.run)(&mut tx)).collect();
            if failure.is_none() {
                failure = self.commit(tx).err();
                if let Some(cause) = &failure {
                    tracing::error!(%cause, "a commit failed; nothing more is accepted until the node restarts");
                    self.gauges.failed.store(true, Ordering::Relaxed);
                }
            }
            let took = began.elapsed();
            self.metrics.committed(changes, took);
            for answer in answers {
                answer(failure.clone());
            }
            rested = Instant::now() + took;
        }
    }

    fn commit(&self, tx: Tx) -> Result<(), Error> {
        let tails = tx.changes_under(&Key::new(Space::EventTail));
        let Some(batch) = tx.into_batch() else { return Ok(()) };
        self.db.apply_batch(batch).map_err(failed)?;
        self.db.flush().map_err(failed)?;
        self.file.sync_data().map_err(|cause| Error::Failed(cause.to_string()))?;
        self.gauges.commits.fetch_add(1, Ordering::Relaxed);
        self.gauges.tails.publish(tails);
        Ok(())
    }

    fn check_space(&self) {
        if let Ok(disk) = rustix::fs::fstatvfs(&self.file) {
            let full = disk.f_bavail.saturating_mul(disk.f_frsize) < self.min_free_space;
            if full != self.gauges.full.swap(full, Ordering::Relaxed) {
                tracing::warn!(
                    full,
                    min_free_space = self.min_free_space,
                    "the disk's free space crossed the limit"
                );
            }
        }
    }
}

/// Waits for closures: for the first ones, and while all of them can wait, for others until `rested`. `false` when every
/// handle is gone.
async fn gather(tasks: &mut mpsc::Receiver<Task>, group: &mut Vec<Task>, rested: Instant) -> bool {
    if tasks.recv_many(group, MAX_GROUP).await == 0 {
        return false;
    }
    let mut seen = 0;
    while group.len() < MAX_GROUP && group.iter().skip(seen).all(|task| task.haste == Haste::Soon) {
        seen = group.len();
        let more = tasks.recv_many(group, MAX_GROUP - seen);
        // Time is over, or nobody is left to ask for more.
        if !matches!(tokio::time::timeout_at(rested.into(), more).await, Ok(1..)) {
            break;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(haste: Haste) -> Task {
        Task { haste, run: Box::new(|_| Box::new(|_| {})) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_wait_waits_for_company_and_not_longer_than_the_writer_rests() {
        let (sender, mut tasks) = mpsc::channel(9);
        let began = tokio::time::Instant::now();
        let rest = Duration::from_millis(50);
        let rested = (began + rest).into_std();
        let mut group = Vec::new();
        // Nothing but time comes.
        sender.send(task(Haste::Soon)).await.unwrap();
        assert!(gather(&mut tasks, &mut group, rested).await);
        assert_eq!((group.len(), began.elapsed()), (1, rest));
        // The writer has rested.
        sender.send(task(Haste::Soon)).await.unwrap();
        assert!(gather(&mut tasks, &mut group, rested).await);
        assert_eq!((group.len(), began.elapsed()), (2, rest));
        // Somebody comes who does not wait, and takes along who does.
        let rested = (began + 10 * rest).into_std();
        sender.send(task(Haste::Soon)).await.unwrap();
        let hasty = tokio::spawn(async move {
            tokio::time::sleep(rest).await;
            sender.send(task(Haste::Now)).await.unwrap();
            sender
        });
        group.clear();
        assert!(gather(&mut tasks, &mut group, rested).await);
        assert_eq!((group.len(), began.elapsed()), (2, 2 * rest));
        // Nobody is left: what there was is done first.
        let sender = hasty.await.unwrap();
        sender.send(task(Haste::Soon)).await.unwrap();
        drop(sender);
        assert!(gather(&mut tasks, &mut group, rested).await);
        assert_eq!((group.len(), began.elapsed()), (3, 2 * rest));
        assert!(!gather(&mut tasks, &mut group, rested).await);
    }
}
