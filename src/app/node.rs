use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::address_book::AddressBook;
use crate::bulk::{self, BulkSupervisor};
use crate::config::{self, Settings};
use crate::instance::{self, InstanceSupervisor};
use crate::media::MediaCache;
use crate::queue::{self, WorkNotifier};
use crate::relay::{self, RelaySupervisor};
use crate::retry::{self, RetrySupervisor};
use crate::supervisor::ActorSlot;
use crate::suppression::SuppressionList;
use crate::webhook::{self, WebhookSupervisor};
use crate::{events, http, inbound};
use relevo_clock::Clock;
use relevo_domain::{InstanceConfig, Secret};
use relevo_egress::Egress;
use relevo_metrics::Metrics;
use relevo_provider::{DirectClient, LoginGate, ProviderResources};
use relevo_store::{BlobSet, Blobs, DataFolder, Store, WriterExit};

use super::garbage_collector::GarbageCollector;
use super::{Error, gauges};

/// A node that has started: it listens, and its instances are at work.
pub struct Node {
    folder: DataFolder,
    store: Store,
    closing: WriterExit,
    root: ActorRef<()>,
    /// Cancelled with the reason when a part is lost that the node cannot do without.
    failed: CancellationToken,
    queue: queue::Handle,
    instances: instance::Handle,
    webhooks: webhook::Handle,
    bulk: bulk::Handle,
    relay: relay::Handle,
    listener: TcpListener,
    http_state: http::AppState,
    garbage_collector: GarbageCollector,
    drain: Duration,
    new_api_key: Option<Secret>,
}

/// How often the node looks whether its store still works.
const STORE_CHECK: Duration = Duration::from_millis(500);

impl Node {
    /// Opens the data folder, starts every part and binds the address.
    pub async fn start(mut settings: Settings, clock: Clock) -> Result<Self, Error> {
        let folder = DataFolder::open(&settings.data_dir)?;
        let resolved = config::resolve_api_key(&settings.auth, &folder)?;
        settings.http.api_key.clone_from(&resolved.key);
        let metrics = Metrics::default();
        let (store, closing) = Store::open(&folder, &settings.store, metrics.clone())?;
        let blobs = Blobs::open(&folder)?;
        let egress = Egress::new(&settings.egress)?;
        let library = MediaCache::open(&folder, store.clone(), clock, settings.media.clone())?;
        let shared = ProviderResources {
            egress,
            blobs: blobs.clone(),
            store: store.clone(),
            clock,
            linked: settings.linked.clone(),
            login_gate: LoginGate::default(),
            direct_client: DirectClient::default(),
        };

        let broken = CancellationToken::new();
        let parts = Parts::new(&settings, shared, library.clone(), &metrics)?;
        let (queue, instances) = (parts.queue.clone(), parts.instances.clone());
        let (webhooks, relay, bulk) = (parts.webhooks.clone(), parts.relay.clone(), parts.bulk.clone());
        let inbound = parts.inbound.clone();
        // Everything that is started lies in these arguments: too much for the stack of whoever waits for it.
        let starting = Box::pin(Actor::spawn(None, RootSupervisor, (parts, broken.clone())));
        let (root, _) = starting.await.map_err(|error| Error::Start(error.to_string()))?;
        if let Some(wanted) = settings.bootstrap_instance.take() {
            ensure_instance(&instances, wanted).await?;
        }

        let needs = {
            let bulk = bulk.clone();
            move |found: &mut BlobSet| bulk.referenced_blobs(found)
        };
        let tidying =
            GarbageCollector { blobs, queue: queue.clone(), references: Arc::new(needs), library, clock };
        let address = settings.http.listen;
        let listener = TcpListener::bind(address).await.map_err(|cause| Error::Listen { address, cause })?;
        let handles = Handles {
            instances: instances.clone(),
            inbound,
            queue: queue.clone(),
            webhooks: webhooks.clone(),
            bulk: bulk.clone(),
            relay: relay.clone(),
            numbers: AddressBook::new(store.clone(), clock),
            suppressions: SuppressionList::new(store.clone(), clock),
        };
        let front = http_state(&settings, handles, store.clone(), clock, metrics);
        let new_api_key = resolved.key.filter(|_| resolved.generated_now);
        let drain = settings.shutdown_drain;
        Ok(Self {
            folder,
            store,
            closing,
            root,
            failed: broken,
            queue,
            instances,
            webhooks,
            bulk,
            relay,
            listener,
            http_state: front,
            garbage_collector: tidying,
            drain,
            new_api_key,
        })
    }

    /// Where the node listens, with the port that it was given.
    ///
    /// # Errors
    ///
    /// The socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The API key, if this start made it.
    pub fn new_api_key(&self) -> Option<&Secret> {
        self.new_api_key.as_ref()
    }

    /// The instances, for those who start a node in their own process.
    pub fn instances(&self) -> &instance::Handle {
        &self.instances
    }

    /// Serves until `shutdown` is cancelled, or until a part is lost that the node cannot do without; then drains.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = shutdown.child_token();
        let watching = tokio::spawn(watch_store(self.store.clone(), self.failed.clone(), stop.clone()));
        let tidying = tokio::spawn(self.garbage_collector.run(stop.clone()));
        if let Ok(address) = self.listener.local_addr() {
            tracing::info!(%address, "listening");
        }
        http::serve(self.listener, self.http_state, stop.clone(), self.drain).await;
        let broken = self.failed.is_cancelled();
        stop.cancel();
        let _ = tokio::join!(watching, tidying);

        if !broken {
            self.bulk.drain(self.drain).await;
            self.instances.drain(self.drain).await;
            self.queue.drain(self.drain).await;
            self.webhooks.drain(self.drain).await;
            self.relay.drain(self.drain).await;
        }
        self.root.stop_and_wait(None, None).await.ok();
        drop((self.queue, self.instances, self.webhooks, self.bulk, self.relay, self.store));
        close(self.closing, self.folder).await;
        tracing::info!("stopped");
        if broken { Err(Error::ComponentFailed("see the log for its last words".to_owned())) } else { Ok(()) }
    }
}

/// Cancels `stop` when the store or an actor that cannot be replaced has failed.
async fn watch_store(store: Store, broken: CancellationToken, stop: CancellationToken) {
    let mut looks = tokio::time::interval(STORE_CHECK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = broken.cancelled() => break,
            _ = looks.tick() => if store.has_failed() { break },
        }
    }
    broken.cancel();
    stop.cancel();
}

/// Waits for the writer to commit what it was given. Tasks that outlive their actors may still hold the store for a
/// moment, so the wait is bounded; everything that was answered is on the disk in either case.
async fn close(closing: WriterExit, folder: DataFolder) {
    if tokio::time::timeout(Duration::from_secs(5), closing.wait()).await.is_err() {
        tracing::warn!("the store was still in use at the end; everything that was accepted is on the disk");
    }
    drop(folder);
}

/// Creates an instance that should exist, or brings its configuration up to date.
pub(super) async fn ensure_instance(
    instances: &instance::Handle,
    wanted: InstanceConfig,
) -> Result<(), Error> {
    match instances.get(&wanted.id) {
        Ok(view) if view.config == wanted => {}
        Ok(_) => drop(instances.update(wanted).await?),
        Err(_) => drop(instances.create(wanted).await?),
    }
    Ok(())
}

/// What the root supervisor starts, and the handles that lead to it.
struct Parts {
    retry_arguments: retry::Arguments,
    retry_slot: ActorSlot<retry::Msg>,
    instance_arguments: instance::Arguments,
    instance_slot: ActorSlot<instance::Msg>,
    webhook_arguments: webhook::Arguments,
    webhook_slot: ActorSlot<webhook::Msg>,
    /// `None` when nothing is to be relayed.
    relay_arguments: Option<relay::Arguments>,
    relay_slot: ActorSlot<relay::Msg>,
    queue: queue::Handle,
    instances: instance::Handle,
    bulk_arguments: bulk::Arguments,
    bulk_slot: ActorSlot<bulk::Msg>,
    webhooks: webhook::Handle,
    bulk: bulk::Handle,
    relay: relay::Handle,
    inbound: inbound::Handle,
}

impl Parts {
    fn new(
        settings: &Settings,
        shared: ProviderResources,
        library: MediaCache,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        let (queue_slot, retry_slot, supervisor_slot) =
            (ActorSlot::default(), ActorSlot::default(), ActorSlot::default());
        let nudges = WorkNotifier::default();
        let queue = queue::Handle::new(queue_slot.clone(), shared.store.clone(), nudges.clone());
        let retry = retry::Arguments {
            options: settings.retry.clone(),
            queue: queue::Arguments {
                store: shared.store.clone(),
                clock: shared.clock,
                options: settings.queue.clone(),
                run: rand::random(),
                notifier: nudges,
                metrics: metrics.clone(),
            },
            queue_slot,
            queue_handle: queue.clone(),
        };
        let relay_slot = ActorSlot::default();
        let (relaying, relay) = relay::Arguments::new(
            &settings.relay,
            shared.store.clone(),
            shared.clock,
            metrics.clone(),
            relay_slot.clone(),
        )?;
        let inbound = inbound::Handle::new(
            queue.clone(),
            shared.store.clone(),
            shared.clock,
            metrics.clone(),
            relay.frame_queue(),
            &settings.inbound,
        );
        let (supervisor, instances) = instance::Arguments::new(
            settings.instance.clone(),
            shared.clone(),
            library,
            queue.clone(),
            retry::Handle::new(retry_slot.clone()),
            inbound.clone(),
            &settings.retry.transactional,
            metrics.clone(),
            supervisor_slot.clone(),
        );
        let jobs_slot = ActorSlot::default();
        let suppressions = SuppressionList::new(shared.store.clone(), shared.clock);
        let (jobs, bulk) = bulk::Arguments::new(
            settings.bulk.clone(),
            &settings.data_dir,
            bulk::Dependencies {
                store: shared.store.clone(),
                clock: shared.clock,
                queue: queue.clone(),
                instances: bulk::instance_lister(instances.clone(), settings.instance.clone()),
                is_suppressed: Arc::new(move |who| suppressions.contains(who)),
                on_ambiguous: settings.retry.bulk.on_ambiguous,
            },
            jobs_slot.clone(),
        )?;
        let dispatcher_slot = ActorSlot::default();
        let (dispatcher, webhooks) = webhook::Arguments::new(
            settings.webhook.clone(),
            shared.store,
            shared.clock,
            shared.egress,
            metrics.clone(),
            instances.names(),
            dispatcher_slot.clone(),
        );
        Ok(Self {
            retry_arguments: retry,
            retry_slot,
            instance_arguments: supervisor,
            instance_slot: supervisor_slot,
            webhook_arguments: dispatcher,
            webhook_slot: dispatcher_slot,
            bulk_arguments: jobs,
            bulk_slot: jobs_slot,
            relay_arguments: relaying,
            relay_slot,
            queue,
            instances,
            webhooks,
            bulk,
            relay,
            inbound,
        })
    }
}

fn http_state(
    settings: &Settings,
    parts: Handles,
    store: Store,
    clock: Clock,
    metrics: Metrics,
) -> http::AppState {
    let cloud = &settings.cloud_api;
    let defaults = http::CloudDefaults {
        base_url: cloud.base_url.clone(),
        api_version: cloud.api_version.clone(),
        verify_token: cloud.verify_token.clone(),
        app_secret: cloud.app_secret.clone(),
    };
    let Handles { instances, inbound, queue, webhooks, bulk, relay, numbers, suppressions } = parts;
    let health = {
        let store = store.clone();
        move || http::NodeHealth { store_failed: store.has_failed(), disk_full: store.is_full() }
    };
    let events = events::EventLog::new(store.clone());
    let metrics = {
        let (instances, queue, webhooks) = (instances.clone(), queue.clone(), webhooks.clone());
        let (relay, bulk) = (relay.clone(), bulk.clone());
        move || {
            metrics.encode(gauges::collect(&instances, &queue, &webhooks, &relay, &bulk, &store, clock.now()))
        }
    };
    let services = http::Services {
        instances,
        inbound,
        queue,
        webhooks,
        events,
        bulk,
        relay,
        numbers,
        suppressions,
        clock,
        health: Box::new(health),
        metrics: Box::new(metrics),
    };
    http::AppState::new(settings.http.clone(), defaults, services)
}

/// The ways into the parts that the front end uses.
struct Handles {
    instances: instance::Handle,
    inbound: inbound::Handle,
    queue: queue::Handle,
    webhooks: webhook::Handle,
    bulk: bulk::Handle,
    relay: relay::Handle,
    numbers: AddressBook,
    suppressions: SuppressionList,
}

/// The root supervisor. Its children replace their own; when one of them gives up, the node does.
struct RootSupervisor;

impl Actor for RootSupervisor {
    type Msg = ();
    type State = CancellationToken;
    type Arguments = (Parts, CancellationToken);

    async fn pre_start(
        &self,
        me: ActorRef<()>,
        (parts, broken): Self::Arguments,
    ) -> Result<CancellationToken, ActorProcessingErr> {
        let (retry, _) =
            Actor::spawn_linked(None, RetrySupervisor, parts.retry_arguments, me.get_cell()).await?;
        parts.retry_slot.fill(retry);
        let (supervisor, _) =
            Actor::spawn_linked(None, InstanceSupervisor, parts.instance_arguments, me.get_cell()).await?;
        parts.instance_slot.fill(supervisor);
        let (dispatcher, _) =
            Actor::spawn_linked(None, WebhookSupervisor, parts.webhook_arguments, me.get_cell()).await?;
        parts.webhook_slot.fill(dispatcher);
        let (jobs, _) =
            Actor::spawn_linked(None, BulkSupervisor, parts.bulk_arguments, me.get_cell()).await?;
        parts.bulk_slot.fill(jobs);
        if let Some(relaying) = parts.relay_arguments {
            let (relay, _) = Actor::spawn_linked(None, RelaySupervisor, relaying, me.get_cell()).await?;
            parts.relay_slot.fill(relay);
        }
        Ok(broken)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        broken: &mut CancellationToken,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, cause) => {
                tracing::error!(actor = %cell.get_id(), %cause, "a supervisor failed; the node stops");
                broken.cancel();
            }
            SupervisionEvent::ActorTerminated(..) => broken.cancel(),
            _ => {}
        }
        Ok(())
    }
}
