//! The handle on the store: opening, submitting closures, and reading.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::sync::{oneshot, watch};

use relevo_metrics::Metrics;

use super::engine::Engine;
use super::scheduler::{Completion, Priority, Submitter, Task, scheduler_channel};
use super::startup_check::{Opened, open_database};
use super::tx::{KeyValue, ValueChange, batch, range_entry};
use super::writer::{Writer, WriterStatus};
use super::{DataFolder, Error, Key, Options, Space, Tx, large};

/// A handle on the store. Cheap to clone; dropping the last handle closes the database.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    submitter: Submitter,
    writer_status: Arc<WriterStatus>,
}

/// Completes when the writer thread has ended, which happens after every [`Store`] is dropped.
#[derive(Debug)]
pub struct WriterExit(oneshot::Receiver<()>);

impl Store {
    /// Opens the database in a locked data folder and starts the writer thread.
    ///
    /// Reads all of the database first, and refuses one that is not complete ([`Options::accept_loss`]).
    ///
    /// # Errors
    /// [`Error::Incomplete`] when something is missing from the database; nothing in the folder is changed then.
    /// [`Error::Damaged`] when sled cannot open the database, [`Error::Io`] when the file system refuses,
    /// [`Error::Failed`] when the writer thread cannot start.
    pub fn open(
        folder: &DataFolder,
        options: &Options,
        metrics: Metrics,
    ) -> Result<(Self, WriterExit), Error> {
        let Opened { engine, file, history } = open_database(folder, options)?;
        let (submitter, scheduler) = scheduler_channel();
        let writer_status = Arc::new(WriterStatus::default());
        // All contents are durable at this point.
        writer_status.tails_watch.publish(read_tails(&engine)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let writer = Writer {
            runtime: runtime.map_err(|cause| Error::Failed(cause.to_string()))?,
            engine: engine.clone(),
            history,
            file,
            scheduler,
            status: writer_status.clone(),
            min_free_space: options.min_free_space,
            metrics,
        };
        let (exit_tx, exit_rx) = oneshot::channel();
        let run = move || {
            writer.run();
            let _ = exit_tx.send(());
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(run);
        thread.map_err(|cause| Error::Failed(cause.to_string()))?;
        Ok((Self { engine, submitter, writer_status }, WriterExit(exit_rx)))
    }

    /// Runs `work` on the writer thread, and calls `done` when its changes are durable or have been rolled back.
    ///
    /// Returns when the closure is queued. Closures run in the order of the calls, after urgent ones. `done` runs on the
    /// writer thread and must not block. It is dropped without a call when the writer thread has ended.
    pub async fn submit<T, W, D>(&self, work: W, done: D)
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, Error> + Send + 'static,
        D: FnOnce(Result<T, Error>) + Send + 'static,
    {
        self.submit_with_priority(Priority::Normal, work, done).await;
    }

    /// [`submit`](Self::submit) with a priority other than [`Priority::Normal`].
    pub async fn submit_with_priority<T, W, D>(&self, priority: Priority, work: W, done: D)
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, Error> + Send + 'static,
        D: FnOnce(Result<T, Error>) + Send + 'static,
    {
        let run = move |tx: &mut Tx| -> Completion {
            let outcome = tx.run_closure(work);
            Box::new(move |failure| done(failure.map_or(outcome, Err)))
        };
        // When the writer has ended, `done` is dropped, and a caller that waits on it reports a closed store.
        self.submitter.submit(Task { priority, run: Box::new(run) }).await;
    }

    /// Runs `work` and waits until its changes are durable.
    ///
    /// # Errors
    /// The error of `work` (its changes were rolled back), [`Error::Panicked`] when `work` panicked, the error of a
    /// failed commit, or [`Error::Closed`] when the writer thread has ended.
    pub async fn write<T, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, Error> + Send + 'static,
    {
        let (outcome_tx, outcome_rx) = oneshot::channel();
        self.submit(work, move |outcome| drop(outcome_tx.send(outcome))).await;
        outcome_rx.await.unwrap_or(Err(Error::Closed))
    }

    /// Reads one value as the writer last applied it. The newest value may not be durable yet.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read, [`Error::Codec`] when a part of a large value is missing.
    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Error> {
        let Some(stored) = self.engine.get(key.as_slice())? else { return Ok(None) };
        if !key.is_large() {
            return Ok(Some(stored.to_vec()));
        }
        if large::part_count(&stored)? == 0 {
            return Ok(Some(large::first_part(&stored).to_vec()));
        }
        // Only a value with further parts needs the lock. The head is read again under it.
        let _joining = self.writer_status.apply_lock.read().unwrap_or_else(PoisonError::into_inner);
        let get_stored = |key: &Key| Ok(self.engine.get(key.as_slice())?.map(|stored| stored.to_vec()));
        let Some(head) = get_stored(key)? else { return Ok(None) };
        large::join(key, &head, get_stored).map(Some)
    }

    /// Whether a key exists, as the writer last applied it.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when sled cannot read.
    pub fn contains(&self, key: &Key) -> Result<bool, Error> {
        self.engine.contains(key.as_slice())
    }

    /// Entries from `start` (inclusive) to `end` (exclusive), in key order, read lazily. Blocks on the disk when pages
    /// are not cached: run long scans on a blocking thread.
    ///
    /// In the spaces of large values, each value of the range is cut to its first 4094 bytes; [`get`](Self::get) reads it
    /// whole.
    pub fn range(
        &self,
        start: &Key,
        end: &Key,
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, Error>> + use<> {
        self.engine.range(start, end).map(range_entry)
    }

    /// The durable tail of an event log: unlike [`get`](Self::get), never a value that a crash can undo. Reads only
    /// memory.
    pub fn durable_tail(&self, key: &Key) -> Option<Vec<u8>> {
        self.writer_status.tails_watch.get(key)
    }

    /// A receiver that is notified after every commit that changed this tail of an event log.
    pub fn watch_tail(&self, key: &Key) -> watch::Receiver<()> {
        self.writer_status.tails_watch.watch(key)
    }

    /// A receiver that is notified after every commit that changed the tail of any event log.
    pub fn watch_tails(&self) -> watch::Receiver<()> {
        self.writer_status.tails_watch.watch_all()
    }

    /// Applies changes without a sync, as a commit does before its sync. Tests check that readers of durable state do
    /// not see them.
    #[doc(hidden)]
    #[expect(clippy::unwrap_used, reason = "only tests call it")]
    pub fn apply_unsynced(&self, work: impl FnOnce(&mut Tx) -> Result<(), Error>) {
        let mut tx = Tx::new(&self.engine);
        tx.run_closure(work).unwrap();
        self.writer_status.apply(self.engine.db(), batch(tx.into_changes().unwrap())).unwrap();
    }

    /// Whether the disk has less free space than [`Options::min_free_space`].
    pub fn is_full(&self) -> bool {
        self.writer_status.full.load(Ordering::Relaxed)
    }

    /// Whether urgent tasks were run recently, as of the last commit. Callers use it as a hint for their page size:
    /// an urgent task waits until the running closure returns, so closures should be short while this is true.
    pub fn is_contended(&self) -> bool {
        self.writer_status.contended.load(Ordering::Relaxed)
    }

    /// Whether a commit failed; the store then accepts no changes before a restart.
    pub fn has_failed(&self) -> bool {
        self.writer_status.failed.load(Ordering::Relaxed)
    }

    /// Whether a read has met a damaged part of the database since the start. Each such read has failed with
    /// [`Error::Unreadable`]; the other entries stay readable.
    pub fn is_damaged(&self) -> bool {
        self.engine.has_failed_reads()
    }

    /// Number of commits made durable since the start.
    pub fn commits(&self) -> u64 {
        self.writer_status.commits.load(Ordering::Relaxed)
    }

    /// Number of bytes that the database occupies on disk.
    pub fn size_on_disk(&self) -> u64 {
        self.engine.db().size_on_disk().unwrap_or(0)
    }
}

/// The stored tails of all event logs.
fn read_tails(engine: &Engine) -> Result<Vec<(Vec<u8>, ValueChange)>, Error> {
    let prefix = Key::new(Space::EventTail);
    let entries = engine.range(&prefix, &prefix.clone().after_prefix());
    entries.map(|entry| entry.map(|(key, value)| (key.to_vec(), Some(value.to_vec())))).collect()
}

impl WriterExit {
    /// Waits until the writer has run all submitted closures and closed the database. It blocks no thread: a runtime
    /// that waits for its blocking threads could then not shut down while one of its tasks holds the last handle.
    pub async fn wait(self) {
        // An error means that the writer panicked, so it has ended too.
        let _ = self.0.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        Key::new(Space::NodeCounters).u64(n)
    }

    #[tokio::test]
    async fn acknowledged_write_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        {
            let folder = DataFolder::open(dir.path()).unwrap();
            let (store, closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
            store.write(|tx| tx.put(key(1), b"one".to_vec())).await.unwrap();
            drop(store);
            closing.wait().await;
        }
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        assert_eq!(store.get(&key(1)).unwrap().as_deref(), Some(&b"one"[..]));
    }

    #[tokio::test]
    async fn concurrent_writes_share_commits_and_see_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..500 {
            let store = store.clone();
            writers.spawn(async move {
                let count = move |tx: &mut Tx| {
                    let before =
                        tx.get(&key(0))?.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
                    tx.put(key(0), (before + 1).to_be_bytes().to_vec())
                };
                store.write(count).await.unwrap();
            });
        }
        writers.join_all().await;
        assert_eq!(store.get(&key(0)).unwrap().unwrap(), 500u64.to_be_bytes());
        assert!(store.commits() < 500, "{} commits for 500 concurrent writes", store.commits());
    }

    /// Submits an urgent closure while a normal one that writes 1 under `key(1)` and as a tail runs, and returns the
    /// outcome of the urgent one.
    async fn join_slow_commit<T, W>(store: &Store, late_work: W) -> Result<T, Error>
    where
        T: Send + std::fmt::Debug + 'static,
        W: FnOnce(&mut Tx) -> Result<T, Error> + Send + 'static,
    {
        let (begin_tx, begin_rx) = oneshot::channel();
        let (resume_tx, resume_rx) = std::sync::mpsc::channel();
        let (outcome_tx, outcome_rx) = oneshot::channel();
        let slow_store = store.clone();
        let slow_write = tokio::spawn(async move {
            let work = move |tx: &mut Tx| {
                begin_tx.send(()).unwrap();
                resume_rx.recv().unwrap();
                tx.put(tail(), vec![1])?;
                tx.put(key(1), vec![1])
            };
            slow_store.write(work).await.unwrap();
        });
        begin_rx.await.unwrap();
        let done = |outcome| outcome_tx.send(outcome).unwrap();
        store.submit_with_priority(Priority::Urgent, late_work, done).await;
        resume_tx.send(()).unwrap();
        slow_write.await.unwrap();
        outcome_rx.await.unwrap()
    }

    fn tail() -> Key {
        Key::new(Space::EventTail).u32(1)
    }

    #[tokio::test]
    async fn urgent_task_joins_the_commit_under_way_before_anything_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let reader = store.clone();
        let late_work = move |tx: &mut Tx| {
            let seen = (tx.get(&key(1))?, reader.get(&key(1))?, reader.durable_tail(&tail()));
            tx.put(tail(), vec![2])?;
            tx.put(key(1), vec![2])?;
            Ok(seen)
        };
        let seen = join_slow_commit(&store, late_work).await.unwrap();
        assert_eq!(seen, (Some(vec![1]), None, None), "the overlay has the change, sled has not");
        assert_eq!((store.get(&key(1)).unwrap(), store.commits()), (Some(vec![2]), 1));
        assert_eq!(store.durable_tail(&tail()), Some(vec![2]));
    }

    #[tokio::test]
    async fn failed_late_task_is_rolled_back_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let late_work = |tx: &mut Tx| {
            tx.put(tail(), vec![2])?;
            tx.put(key(1), vec![2])?;
            tx.put(key(2), vec![2])?;
            Err::<(), _>(Error::Full { what: "a test", limit: 1 })
        };
        assert!(join_slow_commit(&store, late_work).await.is_err());
        assert_eq!((store.get(&key(1)).unwrap(), store.get(&key(2)).unwrap()), (Some(vec![1]), None));
        assert_eq!((store.durable_tail(&tail()), store.commits()), (Some(vec![1]), 1));
    }

    #[test]
    fn runtime_shuts_down_while_a_task_holds_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let runtime = || tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let (store, closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let first = runtime();
        first.spawn(async move {
            let _store = store;
            std::future::pending::<()>().await;
        });
        let mut closed = Box::pin(closing.wait());
        assert!(futures_util::FutureExt::now_or_never(&mut closed).is_none());
        drop(first);
        runtime().block_on(closed);
    }

    #[tokio::test]
    async fn unfinished_snapshot_is_removed_on_open() {
        let dir = tempfile::tempdir().unwrap();
        {
            let folder = DataFolder::open(dir.path()).unwrap();
            let (store, closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
            store.write(|tx| tx.put(key(1), b"one".to_vec())).await.unwrap();
            drop(store);
            closing.wait().await;
        }
        std::fs::write(dir.path().join("db").join("snap.00000000FFFFFFFF.generating"), b"").unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        assert_eq!(store.get(&key(1)).unwrap().as_deref(), Some(&b"one"[..]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn readers_never_join_parts_of_two_values() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let large_key = || Key::new(Space::BulkJob).u8(1);
        let reader = store.clone();
        let (end_tx, end_rx) = std::sync::mpsc::channel::<()>();
        let reading = tokio::task::spawn_blocking(move || {
            let mut reads = 0u32;
            while end_rx.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                if let Some(value) = reader.get(&large_key()).unwrap() {
                    assert!(value.iter().all(|byte| *byte == value[0]), "a mixture of {} bytes", value.len());
                    reads += 1;
                }
            }
            reads
        });
        for round in 0..150u8 {
            let size = [30_000, 9_000, 30_000, 3_000][usize::from(round % 4)];
            let change = move |tx: &mut Tx| match round % 7 {
                6 => tx.delete(large_key()),
                _ => tx.put(large_key(), vec![round; size]),
            };
            store.write(change).await.unwrap();
        }
        drop(end_tx);
        assert!(reading.await.unwrap() > 0);
    }

    #[tokio::test]
    async fn full_disk_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let options = Options { min_free_space: u64::MAX, ..Options::default() };
        let (store, _closing) = Store::open(&folder, &options, Metrics::default()).unwrap();
        store.write(|tx| tx.put(key(1), vec![1])).await.unwrap();
        assert!(store.is_full());
    }
}
