//! A running node: start, service, shutdown.
//!
//! [`Node::start`] opens the data folder, starts the actors and binds the address; [`Node::run`] serves and then
//! drains in reverse order. The process exits with an error when the store or a supervisor fails for good.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Settings};
use crate::media::MediaCache;
use crate::{accounts, http};
use relevo_clock::{Clock, Random};
use relevo_domain::Secret;
use relevo_egress::Egress;
use relevo_metrics::Metrics;
use relevo_provider::{DirectClient, LoginGate, ProviderResources};
use relevo_store::{BlobSet, Blobs, DataFolder, Store, WriterExit};

use super::Error;
use super::drain_schedule::DrainSchedule;
use super::garbage_collector::GarbageCollector;
use super::handles::{self, Handles};
use super::root_supervisor::RootSupervisor;

/// Interval at which the node checks that its store still works.
const STORE_CHECK: Duration = Duration::from_millis(500);

/// Minimum time that the shutdown gives all actors to stop, after their work in flight has ended or was given up, and the
/// store to close, although its time is over.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time that the shutdown waits for the last clone of the store to be dropped.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A started node: its address is bound and its instances run.
pub struct Node {
    folder: DataFolder,
    store: Store,
    writer_exit: WriterExit,
    root: ActorRef<()>,
    /// Cancelled when the store or a supervisor has failed for good.
    failed: CancellationToken,
    handles: Handles,
    listener: TcpListener,
    http_state: http::AppState,
    garbage_collector: GarbageCollector,
    drain: Duration,
    new_api_key: Option<Secret>,
}

impl Node {
    /// Opens the data folder, starts all actors and binds the address.
    ///
    /// # Errors
    ///
    /// The data folder is in use or unusable, a setting is refused, an actor does not start, or the address cannot
    /// be bound.
    pub async fn start(mut settings: Settings, clock: Clock, random: Random) -> Result<Self, Error> {
        let folder = DataFolder::open(&settings.data_dir)?;
        let resolved = config::resolve_api_key(&settings.auth, &folder, &random)?;
        settings.http.api_key.clone_from(&resolved.key);
        let metrics = Metrics::default();
        settings.store.clock = clock;
        let (store, writer_exit) = Store::open(&folder, &settings.store, metrics.clone())?;
        let blobs = Blobs::open(&folder)?;
        let egress = Egress::new(&settings.egress)?;
        let media_cache = MediaCache::open(&folder, store.clone(), clock, settings.media.clone())?;
        let resources = ProviderResources {
            egress,
            blobs: blobs.clone(),
            store: store.clone(),
            clock,
            random: random.clone(),
            linked: settings.linked.clone(),
            login_gate: LoginGate::default(),
            direct_client: DirectClient::default(),
        };

        let failed = CancellationToken::new();
        let (handles, children) = handles::connect(&settings, resources, media_cache.clone(), &metrics)?;
        // The arguments of all actors are in this future: it is too large for the stack of the caller.
        let root = Box::pin(Actor::spawn(None, RootSupervisor, (children, failed.clone())));
        let (root, _) = root.await.map_err(|error| Error::Start(error.to_string()))?;
        if let Some(config) = settings.bootstrap_instance.take() {
            handles.accounts.ensure(config).await?;
        }

        let garbage_collector = collector(&handles, blobs, media_cache, clock);
        let address = settings.http.listen;
        let listener = http::listen(address).map_err(|cause| Error::Listen { address, cause })?;
        let http_state = http_state(&settings, &handles, &store, clock, random, metrics);
        Ok(Self {
            folder,
            store,
            writer_exit,
            root,
            failed,
            handles,
            listener,
            http_state,
            garbage_collector,
            drain: settings.shutdown_drain,
            new_api_key: resolved.key.filter(|_| resolved.generated_now),
        })
    }

    /// The bound address, with the port that the system chose when the configured one is 0.
    ///
    /// # Errors
    ///
    /// The system refuses to report the address of the socket.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The API key, if this start has generated it.
    pub fn new_api_key(&self) -> Option<&Secret> {
        self.new_api_key.as_ref()
    }

    /// The handle of the accounts, for programs that run a node in their own process.
    pub fn accounts(&self) -> &accounts::Handle {
        &self.handles.accounts
    }

    /// Serves until `shutdown` is cancelled or the store or a supervisor fails for good; then drains.
    ///
    /// # Errors
    ///
    /// [`Error::ComponentFailed`]: the store or a supervisor has failed. Accepted messages are on the disk.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = shutdown.child_token();
        let store_watch = tokio::spawn(watch_store(self.store.clone(), self.failed.clone(), stop.clone()));
        let collection = tokio::spawn(self.garbage_collector.run(stop.clone()));
        if let Ok(address) = self.listener.local_addr() {
            tracing::info!(%address, "listening");
        }
        let requests = DrainSchedule::for_requests(self.drain);
        let serving = http::serve(self.listener, self.http_state, stop.clone(), requests);
        let stopping = async {
            stop.cancelled().await;
            DrainSchedule::new(Instant::now(), self.drain)
        };
        let ((), schedule) = tokio::join!(serving, stopping);
        let failed = self.failed.is_cancelled();

        if !failed {
            self.handles.drain(&schedule).await;
        }
        let _ = tokio::join!(store_watch, collection);
        let ending = self.root.stop_and_wait(None, Some(schedule.left().max(STOP_TIMEOUT)));
        if matches!(ending.await, Err(ractor::RactorErr::Timeout)) {
            tracing::warn!("actors did not stop in time; accepted messages are on the disk");
        }
        drop((self.handles, self.store));
        close(self.writer_exit, self.folder, schedule.left().clamp(STOP_TIMEOUT, STORE_CLOSE_TIMEOUT)).await;
        tracing::info!("stopped");
        if failed { Err(Error::ComponentFailed("the log names it".to_owned())) } else { Ok(()) }
    }
}

/// The garbage collector over the references of the queue and of the bulk jobs.
fn collector(handles: &Handles, blobs: Blobs, media_cache: MediaCache, clock: Clock) -> GarbageCollector {
    let bulk = handles.bulk.clone();
    let references = move |found: &mut BlobSet| bulk.referenced_blobs(found);
    GarbageCollector {
        blobs,
        queue: handles.queue.clone(),
        references: Arc::new(references),
        media_cache,
        clock,
    }
}

/// The state of the HTTP front end.
fn http_state(
    settings: &Settings,
    handles: &Handles,
    store: &Store,
    clock: Clock,
    random: Random,
    metrics: Metrics,
) -> http::AppState {
    let cloud = &settings.cloud_api;
    let defaults = http::CloudDefaults {
        base_url: cloud.base_url.clone(),
        api_version: cloud.api_version.clone(),
        verify_token: cloud.verify_token.clone(),
        app_secret: cloud.app_secret.clone(),
    };
    let services = handles.services(store, clock, random, metrics);
    http::AppState::new(settings.http.clone(), defaults, services)
}

/// Cancels `stop` when the store or an actor that cannot be replaced has failed.
async fn watch_store(store: Store, failed: CancellationToken, stop: CancellationToken) {
    let mut checks = tokio::time::interval(STORE_CHECK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = failed.cancelled() => break,
            _ = checks.tick() => if store.has_failed() { break },
        }
    }
    failed.cancel();
    stop.cancel();
}

/// Waits until the writer has committed all transactions that it received. Tasks that outlive their actors may hold
/// the store for a moment, so the wait is bounded; every acknowledged change is on the disk in either case.
async fn close(writer_exit: WriterExit, folder: DataFolder, limit: Duration) {
    if tokio::time::timeout(limit, writer_exit.wait()).await.is_err() {
        tracing::warn!("store still in use at shutdown; accepted messages are on the disk");
    }
    drop(folder);
}
