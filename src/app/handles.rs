//! The handles of the node's modules, and the actors behind them.
//!
//! [`connect`] creates both before any actor runs: a handle reaches its actor through a slot that the root
//! supervisor fills.

use std::sync::Arc;

use crate::accounts::{self, AccountsActor};
use crate::address_book::AddressBook;
use crate::bulk::{self, BulkSupervisor};
use crate::config::Settings;
use crate::events::EventLog;
use crate::instance::{self, InstanceSupervisor};
use crate::media::MediaCache;
use crate::queue::{self, WorkNotifier};
use crate::relay::{self, RelaySupervisor};
use crate::retry::{self, RetrySupervisor};
use crate::supervisor::ActorSlot;
use crate::suppression::SuppressionList;
use crate::webhook::{self, WebhookSupervisor};
use crate::{http, inbound};
use relevo_clock::{Clock, Random};
use relevo_metrics::Metrics;
use relevo_provider::ProviderResources;
use relevo_store::Store;

use super::drain_schedule::DrainSchedule;
use super::root_supervisor::{Child, Children};
use super::{Error, gauges};

/// One handle for each module of the node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Handles {
    pub accounts: accounts::Handle,
    pub instances: instance::Handle,
    pub inbound: inbound::Handle,
    pub queue: queue::Handle,
    pub webhooks: webhook::Handle,
    pub events: EventLog,
    pub bulk: bulk::Handle,
    pub relay: relay::Handle,
    pub numbers: AddressBook,
    pub suppressions: SuppressionList,
}

impl Handles {
    /// Finishes work in flight, producers before consumers, until the deadlines of `schedule`.
    pub async fn drain(&self, schedule: &DrainSchedule) {
        self.bulk.drain(schedule.left_for_attempts()).await;
        self.instances.drain(schedule.left_for_attempts()).await;
        self.queue.drain(schedule.left()).await;
        self.webhooks.drain(schedule.left()).await;
        self.relay.drain(schedule.left()).await;
    }

    /// The services of the HTTP front end.
    pub fn services(&self, store: &Store, clock: Clock, random: Random, metrics: Metrics) -> http::Services {
        let health = {
            let store = store.clone();
            move || http::NodeHealth {
                store_failed: store.has_failed(),
                store_damaged: store.is_damaged(),
                disk_full: store.is_full(),
            }
        };
        let counters = metrics.clone();
        let metrics = {
            let (handles, store) = (self.clone(), store.clone());
            move || metrics.encode(gauges::collect(&handles, &store, clock.now()))
        };
        let Self {
            accounts,
            instances,
            inbound,
            queue,
            webhooks,
            events,
            bulk,
            relay,
            numbers,
            suppressions,
        } = self.clone();
        http::Services {
            accounts,
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
            random,
            health: Box::new(health),
            metrics: Box::new(metrics),
            counters,
        }
    }
}

/// Creates the handles, and the actors that the root supervisor starts behind them.
pub(super) fn connect(
    settings: &Settings,
    resources: ProviderResources,
    media_cache: MediaCache,
    metrics: &Metrics,
) -> Result<(Handles, Children), Error> {
    let (store, clock, random) = (resources.store.clone(), resources.clock, resources.random.clone());
    let (queue, retry) = queue_and_retry(settings, &store, clock, &random, metrics);
    let (relay, relay_child) = relay(settings, &store, clock, metrics)?;
    let inbound = inbound::Handle::new(
        queue.clone(),
        store.clone(),
        clock,
        random.clone(),
        metrics.clone(),
        relay.frame_queue(),
        &settings.inbound,
    );
    let egress = resources.egress.clone();
    let slot = ActorSlot::default();
    let (arguments, instances) = instance::Arguments::new(
        settings.instance.clone(),
        resources,
        media_cache,
        queue.clone(),
        retry::Handle::new(retry.slot.clone()),
        inbound.clone(),
        &settings.retry.transactional,
        metrics.clone(),
        slot.clone(),
    );
    let instance_child = Child { actor: InstanceSupervisor, arguments, slot };
    let suppressions = SuppressionList::new(store.clone(), clock);
    let (bulk, bulk_child) = bulk(settings, &store, clock, &queue, &instances, &suppressions)?;
    let slot = ActorSlot::default();
    let (arguments, webhooks) = webhook::Arguments::new(
        settings.webhook.clone(),
        store.clone(),
        clock,
        random,
        egress,
        metrics.clone(),
        instances.names(),
        slot.clone(),
    );
    let webhook_child = Child { actor: WebhookSupervisor, arguments, slot };
    let slot = ActorSlot::default();
    let (arguments, accounts) =
        accounts::Arguments::new(store.clone(), clock, instances.clone(), webhooks.clone(), slot.clone());
    let accounts_child = Child { actor: AccountsActor, arguments, slot };
    let handles = Handles {
        accounts,
        instances,
        inbound,
        queue,
        webhooks,
        events: EventLog::new(store.clone()),
        bulk,
        relay,
        numbers: AddressBook::new(store, clock),
        suppressions,
    };
    let children = Children {
        retry,
        accounts: accounts_child,
        instances: instance_child,
        webhooks: webhook_child,
        bulk: bulk_child,
        relay: relay_child,
    };
    Ok((handles, children))
}

/// The queue, and the retry supervisor that starts the queue's actor.
fn queue_and_retry(
    settings: &Settings,
    store: &Store,
    clock: Clock,
    random: &Random,
    metrics: &Metrics,
) -> (queue::Handle, Child<RetrySupervisor>) {
    let queue_slot = ActorSlot::default();
    let notifier = WorkNotifier::default();
    let queue = queue::Handle::new(queue_slot.clone(), store.clone(), notifier.clone());
    let arguments = retry::Arguments {
        options: settings.retry.clone(),
        random: random.clone(),
        queue: queue::Arguments {
            store: store.clone(),
            clock,
            options: settings.queue.clone(),
            run: random.value(),
            random: random.clone(),
            notifier,
            metrics: metrics.clone(),
        },
        queue_slot,
        queue_handle: queue.clone(),
    };
    (queue, Child { actor: RetrySupervisor, arguments, slot: ActorSlot::default() })
}

/// The relay; without a configured URL there is no actor behind its handle.
fn relay(
    settings: &Settings,
    store: &Store,
    clock: Clock,
    metrics: &Metrics,
) -> Result<(relay::Handle, Option<Child<RelaySupervisor>>), Error> {
    let slot = ActorSlot::default();
    let (arguments, relay) =
        relay::Arguments::new(&settings.relay, store.clone(), clock, metrics.clone(), slot.clone())?;
    let child = arguments.map(|arguments| Child { actor: RelaySupervisor, arguments, slot });
    Ok((relay, child))
}

/// The bulk jobs.
fn bulk(
    settings: &Settings,
    store: &Store,
    clock: Clock,
    queue: &queue::Handle,
    instances: &instance::Handle,
    suppressions: &SuppressionList,
) -> Result<(bulk::Handle, Child<BulkSupervisor>), Error> {
    let slot = ActorSlot::default();
    let suppressions = suppressions.clone();
    let dependencies = bulk::Dependencies {
        store: store.clone(),
        clock,
        queue: queue.clone(),
        instances: bulk::instance_lister(instances.clone(), settings.instance.clone()),
        is_suppressed: Arc::new(move |recipient| suppressions.contains(recipient)),
        on_ambiguous: settings.retry.bulk.on_ambiguous,
    };
    let (arguments, bulk) =
        bulk::Arguments::new(settings.bulk.clone(), &settings.data_dir, dependencies, slot.clone())?;
    Ok((bulk, Child { actor: BulkSupervisor, arguments, slot }))
}
