use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use relevo_metrics::Metrics;

use super::scheduler::{Completion, Priority, Submitter, Task, scheduler_channel};
use super::tx::{KeyValue, ValueChange, from_sled};
use super::writer::{Writer, WriterStatus};
use super::{DataFolder, Error, Key, Options, Space, Tx};

/// A handle on the store. Cheap to clone; the last one to go closes the database.
#[derive(Clone)]
pub struct Store {
    db: sled::Db,
    submitter: Submitter,
    writer_status: Arc<WriterStatus>,
}

/// Tells of the end of the writer's thread, after every [`Store`] is dropped.
#[derive(Debug)]
pub struct WriterExit(oneshot::Receiver<()>);

impl Store {
    /// Opens the database in a folder that this process holds.
    pub fn open(
        folder: &DataFolder,
        options: &Options,
        metrics: Metrics,
    ) -> Result<(Self, WriterExit), Error> {
        let path = folder.path().join("db");
        remove_unfinished_snapshots(&path)?;
        let config = sled::Config::new().path(&path).cache_capacity(options.cache_capacity);
        let db = match open_with_retry(&config) {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(cause))) => return Err(Error::io("cannot open", path, cause)),
            Ok(Err(cause)) => return Err(Error::Damaged { path, cause: cause.to_string() }),
            Err(_) => return Err(Error::Damaged { path, cause: "it could not be parsed".to_owned() }),
        };
        // The first flush creates the file; until it is synced with its folder, a power cut could forget it.
        db.flush().map_err(from_sled)?;
        let file = File::open(path.join("db")).map_err(|cause| Error::io("cannot open", &path, cause))?;
        let sync = |file: &File| file.sync_all().map_err(|cause| Error::io("cannot sync", &path, cause));
        sync(&file)?;
        for dir in [path.as_path(), folder.path()] {
            sync(&File::open(dir).map_err(|cause| Error::io("cannot open", dir, cause))?)?;
        }
        let (entrance, lanes) = scheduler_channel();
        let gauges = Arc::new(WriterStatus::default());
        // Everything that was found is on the disk by now.
        gauges.tails_watch.publish(read_tails(&db)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let writer = Writer {
            runtime: runtime.map_err(|cause| Error::Failed(cause.to_string()))?,
            db: db.clone(),
            file,
            scheduler: lanes,
            status: gauges.clone(),
            min_free_space: options.min_free_space,
            metrics,
        };
        let (ended, closing) = oneshot::channel();
        let run = move || {
            writer.run();
            let _ = ended.send(());
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(run);
        thread.map_err(|cause| Error::Failed(cause.to_string()))?;
        Ok((Self { db, submitter: entrance, writer_status: gauges }, WriterExit(closing)))
    }

    /// Runs `work` on the writer's thread and calls `done` once everything it changed is durable, or nothing is.
    ///
    /// Returns as soon as the closure has its place in line: closures run in the order in which this was called, after
    /// those that go first.
    /// `done` runs on the writer's thread and must not block.
    pub async fn submit<T, W, D>(&self, work: W, done: D)
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, Error> + Send + 'static,
        D: FnOnce(Result<T, Error>) + Send + 'static,
    {
        self.submit_with_priority(Priority::Normal, work, done).await;
    }

    /// [`submit`](Self::submit), for what is to be durable sooner or later than others.
    pub async fn submit_with_priority<T, W, D>(&self, haste: Priority, work: W, done: D)
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, Error> + Send + 'static,
        D: FnOnce(Result<T, Error>) + Send + 'static,
    {
        let run = move |tx: &mut Tx| -> Completion {
            let outcome = tx.run_closure(work);
            Box::new(move |failure| done(failure.map_or(outcome, Err)))
        };
        // Where the writer is gone, `done` is dropped: whoever waits on it sees the store closed.
        self.submitter.submit(Task { priority: haste, run: Box::new(run) }).await;
    }

    /// Runs `work` and waits until what it changed is durable.
    pub async fn write<T, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&mut Tx) -> Result<T, Error> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.submit(work, move |outcome| drop(answer.send(outcome))).await;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// One value, as the writer last applied it; the newest may still be on its way to the disk.
    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.db.get(key).map_err(from_sled)?.map(|value| value.to_vec()))
    }

    /// Entries from `start` up to but not including `end`, in key order, lazily. Reads the disk when pages are not
    /// cached: long scans belong on a blocking thread.
    pub fn range(
        &self,
        start: &Key,
        end: &Key,
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, Error>> + use<> {
        let entries = self.db.range(start.as_slice()..end.as_slice());
        entries.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(from_sled))
    }

    /// The tail of an event log as it is on the disk: unlike [`get`](Self::get), nothing that a crash could take back.
    /// Looks at memory only.
    pub fn durable_tail(&self, key: &Key) -> Option<Vec<u8>> {
        self.writer_status.tails_watch.get(key)
    }

    /// Changes after every commit that moved this tail of an event log.
    pub fn watch_tail(&self, key: &Key) -> watch::Receiver<()> {
        self.writer_status.tails_watch.watch(key)
    }

    /// Changes after every commit that moved the tail of an event log, whichever.
    pub fn watch_tails(&self) -> watch::Receiver<()> {
        self.writer_status.tails_watch.watch_all()
    }

    /// Changes the database as a commit does before it is synced. For tests: readers must not take it for durable.
    #[doc(hidden)]
    #[expect(clippy::unwrap_used, reason = "tests alone call it")]
    pub fn apply_unsynced(&self, work: impl FnOnce(&mut Tx) -> Result<(), Error>) {
        let mut tx = Tx::new(&self.db);
        tx.run_closure(work).unwrap();
        self.db.apply_batch(tx.into_batch().unwrap()).unwrap();
    }

    /// Whether the disk is too full to accept anything new.
    pub fn is_full(&self) -> bool {
        self.writer_status.full.load(Ordering::Relaxed)
    }

    /// Whether something goes first now and then, as of the last commit: it waits for whole closures, which should be
    /// short then.
    pub fn is_contended(&self) -> bool {
        self.writer_status.contended.load(Ordering::Relaxed)
    }

    /// Whether a commit failed; nothing can be written before a restart.
    pub fn has_failed(&self) -> bool {
        self.writer_status.failed.load(Ordering::Relaxed)
    }

    /// Commits made durable since the start.
    pub fn commits(&self) -> u64 {
        self.writer_status.commits.load(Ordering::Relaxed)
    }

    /// Bytes that the database occupies.
    pub fn size_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

/// The tails of the event logs.
fn read_tails(db: &sled::Db) -> Result<Vec<(Vec<u8>, ValueChange)>, Error> {
    let entries = db.scan_prefix(Key::new(Space::EventTail));
    entries
        .map(|entry| entry.map(|(key, value)| (key.to_vec(), Some(value.to_vec()))))
        .collect::<Result<_, _>>()
        .map_err(from_sled)
}

/// sled's own threads may hold on to its file for a moment after the last user of the database in this process has gone.
/// Nobody else can have it, because we hold the folder, so it is worth waiting for.
fn open_with_retry(config: &sled::Config) -> std::thread::Result<sled::Result<sled::Db>> {
    let mut looks = 0;
    loop {
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| config.open()));
        match &opened {
            Ok(Err(sled::Error::Io(cause))) if is_locked(cause) && looks < OPEN_RETRIES => looks += 1,
            _ => return opened,
        }
        std::thread::sleep(OPEN_RETRY_DELAY);
    }
}

/// How often, and after which pause, a database that is held is tried again: 5 s in all.
const OPEN_RETRIES: u32 = 500;
const OPEN_RETRY_DELAY: Duration = Duration::from_millis(10);

/// sled wraps the cause in a text of its own (0.34.7, `config.rs`, `try_lock`).
fn is_locked(cause: &std::io::Error) -> bool {
    cause.kind() == std::io::ErrorKind::WouldBlock || cause.to_string().contains("could not acquire lock")
}

/// sled writes a snapshot as `snap.<lsn>.generating` and renames it when it is whole. A start that was cut short or
/// found no space leaves such a file, and the next one takes it for the newest snapshot and calls the database
/// corrupt (0.34.7, `pagecache/snapshot.rs`). It is unfinished by its name, and everything in it is in the log.
fn remove_unfinished_snapshots(db: &Path) -> Result<(), Error> {
    let entries = match std::fs::read_dir(db) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(Error::io("cannot read", db, cause)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %name, "an unfinished snapshot of the database is removed");
            std::fs::remove_file(entry.path())
                .map_err(|cause| Error::io("cannot remove", entry.path(), cause))?;
        }
    }
    Ok(())
}

impl WriterExit {
    /// Waits until the writer has committed everything it was given and the database is closed. No thread waits with it:
    /// a runtime could not end before that thread, and may itself hold the task that is the last to use the store.
    pub async fn wait(self) {
        // A writer that panicked has ended as well.
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

    #[tokio::test]
    async fn urgent_task_joins_the_commit_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let (begin, begun) = oneshot::channel();
        let (go, gone) = std::sync::mpsc::channel();
        let (answer, answered) = oneshot::channel();
        let slow = store.clone();
        let slow = tokio::spawn(async move {
            let work = move |tx: &mut Tx| {
                begin.send(()).unwrap();
                gone.recv().unwrap();
                tx.put(key(1), vec![1])
            };
            slow.write(work).await.unwrap();
        });
        begun.await.unwrap();
        let seen = |tx: &mut Tx| Ok((tx.get(&key(1))?, tx.put(key(1), vec![2])?));
        store.submit_with_priority(Priority::Urgent, seen, |outcome| answer.send(outcome).unwrap()).await;
        go.send(()).unwrap();
        slow.await.unwrap();
        assert_eq!(answered.await.unwrap().unwrap().0, Some(vec![1]));
        assert_eq!((store.get(&key(1)).unwrap(), store.commits()), (Some(vec![2]), 1));
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
    async fn an_unfinished_snapshot_does_not_make_the_database_look_damaged() {
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

    #[tokio::test]
    async fn a_full_disk_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let options = Options { min_free_space: u64::MAX, ..Options::default() };
        let (store, _closing) = Store::open(&folder, &options, Metrics::default()).unwrap();
        store.write(|tx| tx.put(key(1), vec![1])).await.unwrap();
        assert!(store.is_full());
    }
}
