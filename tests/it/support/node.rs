//! A node in this process, and what it may not leave behind.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use relevo::app::{self, Node};
use relevo::config::Settings;
use relevo_clock::{Clock, Random};
use relevo_metrics::Metrics;
use relevo_store::{DataFolder, Key, Space, Store};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::POLL_INTERVAL;

/// How long the last tasks of a stopped node may take to end.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// A running node. It has a runtime of its own, whose tasks are therefore those of the node, with as many workers as the
/// runtime of the test.
///
/// Dropping it stops the node and waits for its end. It fails the test if the node has failed or left something behind:
/// a task or an actor that runs, an open file, an unfinished file, or the folder of a job that does not exist. In a test
/// that has already failed, it only stops the node.
pub struct Running {
    pub address: SocketAddr,
    stop: CancellationToken,
    runtime: Handle,
    /// `None` after the end.
    thread: Option<thread::JoinHandle<NodeEnd>>,
}

/// The end of a node.
struct NodeEnd {
    result: Result<(), app::Error>,
    leftovers: Vec<String>,
}

impl Running {
    /// Starts a node and waits until its address is bound.
    pub async fn start(settings: Settings, clock: Clock) -> Self {
        let (stop, (started, start)) = (CancellationToken::new(), oneshot::channel());
        let (until, workers) = (stop.clone(), Handle::current().metrics().num_workers());
        let thread = thread::spawn(move || {
            let mut runtime = match workers {
                1 => runtime::Builder::new_current_thread(),
                _ => runtime::Builder::new_multi_thread(),
            };
            let runtime = runtime.worker_threads(workers).enable_all().build().unwrap();
            runtime.block_on(run(settings, clock, started, until))
        });
        let (address, runtime) = start.await.expect("the node starts");
        Self { address, stop, runtime, thread: Some(thread) }
    }

    /// Stops the node, waits for its end and checks it.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        let thread = self.thread.take().expect("the node runs");
        check(tokio::task::spawn_blocking(|| thread.join()).await.unwrap());
    }

    /// The same, on the thread of the test. The other side of the node's connections must run on another thread.
    pub fn stop_blocking(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            check(thread.join());
        }
    }

    /// Moves the timers of the node forward. Requires that the runtime has one worker.
    pub async fn advance(&self, by: Duration) {
        let advance = async move {
            tokio::time::pause();
            tokio::time::advance(by).await;
            tokio::time::resume();
        };
        self.runtime.spawn(advance).await.unwrap();
    }

    /// The runtime of the node.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop_blocking();
    }
}

fn check(end: thread::Result<NodeEnd>) {
    let NodeEnd { result, leftovers } = end.expect("the thread of the node panicked");
    if let Err(error) = result {
        panic!("the node failed: {error}");
    }
    assert!(leftovers.is_empty(), "the node left behind: {}", leftovers.join(", "));
}

async fn run(
    settings: Settings,
    clock: Clock,
    started: oneshot::Sender<(SocketAddr, Handle)>,
    stop: CancellationToken,
) -> NodeEnd {
    let data = settings.data_dir.clone();
    let store_options = settings.store.clone();
    let node = Box::pin(Node::start(settings, clock, Random::system())).await.unwrap();
    let _ = started.send((node.local_addr().unwrap(), Handle::current()));
    let result = Box::pin(node.run(stop)).await;
    let mut leftovers = running(&data).await;
    leftovers.extend(unfinished_files(&data));
    leftovers.extend(orphaned_job_folders(&data, &store_options).await);
    NodeEnd { result, leftovers }
}

/// Waits until the runtime has no task and the process no open file of the data folder. Describes what remains.
async fn running(data: &Path) -> Vec<String> {
    let deadline = Instant::now() + LAST_TASKS;
    loop {
        let tasks = Handle::current().metrics().num_alive_tasks();
        let mut found = open_files(data);
        if tasks > 0 {
            found.push(format!("running tasks: {tasks}"));
        }
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The open files of this process that are in the data folder. Empty on systems without `/proc`.
fn open_files(data: &Path) -> Vec<String> {
    let descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|path| path.starts_with(data)).map(|path| format!("open {}", path.display())).collect()
}

/// Drafts of files and of jobs, and partial downloads.
fn unfinished_files(data: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            let is_partial = folder.ends_with("inbound-media/drafts");
            let is_draft = path.file_name().unwrap().to_string_lossy().starts_with(".draft-");
            if is_partial || is_draft {
                found.push(format!("unfinished {}", path.display()));
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// Compares the folders of jobs with the records of jobs.
async fn orphaned_job_folders(data: &Path, options: &relevo_store::Options) -> Option<String> {
    let folders = entries(&data.join("jobs")).len();
    if folders == 0 {
        return None;
    }
    let folder = DataFolder::open(data).unwrap();
    let (store, closing) = Store::open(&folder, options, Metrics::default()).unwrap();
    let all = Key::new(Space::BulkJob);
    // Each job has a record and a checkpoint.
    let jobs = store.range(&all, &all.clone().after_prefix()).count() / 2;
    drop(store);
    closing.wait().await;
    (folders != jobs).then(|| format!("job folders: {folders} of {jobs} jobs"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}
