//! The supervisor of the endpoint actors. It follows the records of endpoints, which `accounts` creates, changes and deletes
//! together with their instances, and writes all other changes of endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;

use crate::supervisor::{ActorSlot, Child, ChildExit, Incarnation, RestartPolicy};
use relevo_clock::{Clock, Random};
use relevo_domain::{InstanceId, InstanceNumber};
use relevo_egress::Egress;
use relevo_metrics::Metrics;
use relevo_store::Store;

use super::actor::{self, EndpointActor};
use super::delivery::Deliverer;
use super::endpoint::{
    CheckedConfig, Endpoint, EndpointId, EndpointRuntime, EndpointScope, EndpointUpdate, EndpointView,
};
use super::health::EndpointHealth;
use super::retry::Failures;
use super::storage;
use super::{Error, Handle, Options};

/// All instances, with the names that deliveries contain.
pub type InstanceIds = Arc<[(InstanceNumber, InstanceId)]>;

/// All endpoints, published for readers.
pub(super) type EndpointDirectory = BTreeMap<EndpointId, Arc<EndpointRuntime>>;

type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// Delay before the first restart of a crashed actor. Restarts never end, because the backlog must be delivered.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// Maximum delay before a restart.
const RESTART_MAX_DELAY: Duration = Duration::from_secs(30);

/// Messages of the supervisor. The replies to handles follow the commit of their change.
pub enum Msg {
    /// From `accounts`: follow the record of an endpoint that is new, changed or deleted.
    Reload(EndpointId, Reply<()>),
    /// Sets the primary endpoint of an instance; an existing one keeps its secret if this is true.
    SetPrimary(InstanceNumber, Box<CheckedConfig>, bool, Reply<EndpointView>),
    /// Creates an endpoint.
    Create(EndpointScope, Box<CheckedConfig>, Reply<EndpointView>),
    /// Changes an endpoint.
    Update(EndpointId, Box<EndpointUpdate>, Reply<EndpointView>),
    /// Deletes an endpoint.
    Delete(EndpointId, Reply<()>),
    /// Moves the cursors of an endpoint to these sequences.
    Rewind(EndpointId, Vec<(InstanceNumber, u64)>, Reply<()>),
    /// From `accounts`: the instance and its endpoints were deleted.
    ForgetInstance(InstanceNumber, Reply<()>),
    /// From the stopping node: reply when no attempt is in flight.
    Drain(RpcReplyPort<()>),
    /// From the actor of an endpoint, with its incarnation: the endpoint must be disabled.
    DisableEndpoint(EndpointId, Incarnation, InstanceNumber, DisableCause),
    /// From a timer, with the incarnation that crashed: the restart delay is over.
    Start(EndpointId, Incarnation),
}

/// The failures for which an endpoint is disabled; opaque outside this module.
pub struct DisableCause(Failures);

/// What all endpoint actors share.
#[derive(Clone)]
pub(super) struct EndpointContext {
    pub store: Store,
    pub clock: Clock,
    pub random: Random,
    pub egress: Egress,
    pub metrics: Metrics,
    pub options: Arc<Options>,
    pub instances: watch::Receiver<InstanceIds>,
}

impl EndpointContext {
    /// A deliverer with the options of the node.
    pub fn deliverer(&self) -> Deliverer {
        Deliverer {
            egress: self.egress.clone(),
            clock: self.clock,
            metrics: self.metrics.clone(),
            timeout: self.options.timeout,
        }
    }
}

/// The supervisor of the endpoint actors.
pub struct WebhookSupervisor;

/// Arguments of the supervisor.
#[derive(Clone)]
pub struct Arguments {
    pub(super) shared: EndpointContext,
    publish: Arc<watch::Sender<Arc<EndpointDirectory>>>,
}

impl Arguments {
    /// The arguments of the supervisor, and the handle. `instances` publishes the list of all instances; events of other
    /// instances are not delivered.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different part of the node, named once, in `app`"
    )]
    pub fn new(
        options: Options,
        store: Store,
        clock: Clock,
        random: Random,
        egress: Egress,
        metrics: Metrics,
        instances: watch::Receiver<InstanceIds>,
        slot: ActorSlot<Msg>,
    ) -> (Self, Handle) {
        let options = Arc::new(options);
        let shared = EndpointContext { store, clock, random, egress, metrics, options, instances };
        let publish = Arc::new(watch::Sender::new(Arc::new(EndpointDirectory::new())));
        let handle = Handle { slot, directory: publish.subscribe(), shared: shared.clone() };
        (Self { shared, publish }, handle)
    }
}

/// State of the supervisor.
pub struct State {
    pub(super) arguments: Arguments,
    pub(super) endpoints: HashMap<EndpointId, SupervisedEndpoint>,
    draining: bool,
}

/// An endpoint with its actor.
pub(super) struct SupervisedEndpoint {
    pub runtime: Arc<EndpointRuntime>,
    child: Child<actor::Msg>,
}

impl Actor for WebhookSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let mut state = State { arguments, endpoints: HashMap::new(), draining: false };
        for (id, endpoint) in storage::load(&state.arguments.shared.store)? {
            for kind in endpoint.events.unknown_kinds() {
                tracing::warn!(endpoint = %id, %kind, "webhook endpoint has an unknown event kind in its filter; kept");
            }
            state.register(id, endpoint)?;
            state.start(&me, id).await;
        }
        state.publish();
        tokio::spawn(purge_orphans(state.arguments.shared.store.clone()));
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Reload(id, reply) => drop(reply.send(state.reload(&me, id).await)),
            Msg::SetPrimary(instance, config, keeps_secret, reply) => {
                drop(reply.send(state.set_primary(&me, instance, *config, keeps_secret).await));
            }
            Msg::Create(scope, config, reply) => {
                drop(reply.send(state.create(&me, scope, false, *config).await));
            }
            Msg::Update(id, update, reply) => drop(reply.send(state.update(&me, id, *update).await)),
            Msg::Delete(id, reply) => drop(reply.send(state.delete(id).await)),
            Msg::Rewind(id, cursors, reply) => drop(reply.send(state.rewind(&me, id, cursors).await)),
            Msg::ForgetInstance(instance, reply) => {
                state.forget_instance(instance);
                drop(reply.send(Ok(())));
            }
            Msg::Drain(reply) => state.drain(reply),
            Msg::DisableEndpoint(id, incarnation, instance, DisableCause(failures)) => {
                if state.is_current(id, incarnation)
                    && let Err(error) = state.disable(id, instance, failures).await
                {
                    tracing::error!(endpoint = %id, %error, "webhook endpoint could not be disabled");
                }
            }
            Msg::Start(id, incarnation) => {
                if state.is_current(id, incarnation) {
                    state.start(&me, id).await;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(exit) = ChildExit::from_event(event) {
            state.on_child_exit(&me, exit);
        }
        Ok(())
    }
}

/// Purges endpoints whose deletion was interrupted by the end of the node.
async fn purge_orphans(store: Store) {
    let found = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || storage::orphans(&store)).await
    };
    for id in found.ok().and_then(Result::ok).unwrap_or_default() {
        purge(&store, id, None).await;
    }
}

/// Deletes the cursors and parked events of an endpoint. A failure is logged, and retried on the next start.
pub(super) async fn purge(store: &Store, id: EndpointId, instance: Option<InstanceNumber>) {
    if let Err(error) = storage::purge(store, id, instance).await {
        tracing::warn!(endpoint = %id, %error, "webhook endpoint purge failed; retried on the next start");
    }
}

impl State {
    /// The endpoint with this id.
    pub(super) fn entry(&self, id: EndpointId) -> Result<&SupervisedEndpoint, Error> {
        self.endpoints.get(&id).ok_or(Error::Unknown(id))
    }

    /// Whether the incarnation is the latest of this endpoint. The request of an actor to disable its endpoint counts also
    /// after the actor has crashed.
    fn is_current(&self, id: EndpointId, incarnation: Incarnation) -> bool {
        self.endpoints.get(&id).is_some_and(|entry| entry.child.is_current(incarnation))
    }

    /// Publishes the endpoints to readers.
    pub(super) fn publish(&self) {
        let directory = self.endpoints.iter().map(|(id, entry)| (*id, entry.runtime.clone())).collect();
        self.arguments.publish.send_replace(Arc::new(directory));
    }

    /// Adds an endpoint, or replaces its record. Starts no actor.
    pub(super) fn register(&mut self, id: EndpointId, endpoint: Endpoint) -> Result<(), Error> {
        match self.endpoints.get_mut(&id) {
            Some(entry) => {
                entry.runtime = Arc::new(EndpointRuntime::new(id, endpoint, entry.runtime.health.clone())?)
            }
            None => {
                let health = Arc::new(EndpointHealth::default());
                let runtime = Arc::new(EndpointRuntime::new(id, endpoint, health)?);
                let restarts = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
                self.endpoints.insert(id, SupervisedEndpoint { runtime, child: Child::new(restarts) });
            }
        }
        Ok(())
    }

    /// Restarts the actor of an endpoint with fresh failures and backoff.
    pub(super) async fn restart(&mut self, me: &ActorRef<Msg>, id: EndpointId, reason: &str) {
        self.stop(id, reason);
        if let Some(entry) = self.endpoints.get_mut(&id) {
            entry.child.reset_restarts();
            entry.runtime.health.clear_all_failures();
        }
        self.start(me, id).await;
    }

    /// Starts the actor of an endpoint, unless the endpoint is disabled or the supervisor is draining.
    pub(super) async fn start(&mut self, me: &ActorRef<Msg>, id: EndpointId) {
        let Some(entry) = self.endpoints.get_mut(&id) else { return };
        if entry.runtime.endpoint.disabled.is_some() || self.draining {
            return;
        }
        let incarnation = entry.child.begin();
        let supervisor = me.clone();
        let give_up = move |instance, failures| {
            drop(supervisor.cast(Msg::DisableEndpoint(id, incarnation, instance, DisableCause(failures))));
        };
        let arguments = actor::Arguments {
            runtime: entry.runtime.clone(),
            shared: self.arguments.shared.clone(),
            on_give_up: Box::new(give_up),
        };
        if let Err(error) = entry.child.spawn(EndpointActor, arguments, me.get_cell()).await {
            self.schedule_restart(me, id, &error.to_string());
        }
    }

    /// Stops the actor of an endpoint on purpose; this is not a crash.
    pub(super) fn stop(&mut self, id: EndpointId, reason: &str) {
        if let Some(entry) = self.endpoints.get_mut(&id) {
            entry.child.stop(reason);
        }
    }

    /// Handles the unexpected end of an actor.
    fn on_child_exit(&mut self, me: &ActorRef<Msg>, exit: ChildExit) {
        let found = self.endpoints.iter().find(|(_, entry)| entry.child.is(exit.actor));
        if let Some((&id, _)) = found {
            self.schedule_restart(me, id, &exit.reason.text("actor stopped"));
        }
    }

    fn schedule_restart(&mut self, me: &ActorRef<Msg>, id: EndpointId, cause: &str) {
        let Some(entry) = self.endpoints.get_mut(&id) else { return };
        let delay = entry.child.crashed().delay_or(RESTART_MAX_DELAY);
        tracing::error!(endpoint = %id, cause, restart_in = ?delay, "webhook endpoint actor stopped; restarting");
        entry.child.restart_after(delay, me, move |incarnation| Msg::Start(id, incarnation));
    }

    fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let running = self.endpoints.values().filter_map(|entry| entry.child.actor());
        let actors: Vec<_> = running.cloned().collect();
        tokio::spawn(async move {
            futures_util::future::join_all(actors.iter().map(|actor| actor.call(actor::Msg::Drain, None)))
                .await;
            let _ = reply.send(());
        });
    }
}
