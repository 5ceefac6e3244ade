//! The parent of every endpoint's actor, and the one writer of endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;

use crate::supervisor::{ActorSlot, RestartPolicy};
use relevo_clock::Clock;
use relevo_domain::{InstanceId, InstanceNumber};
use relevo_egress::Egress;
use relevo_metrics::Metrics;
use relevo_store::Store;

use super::actor::{self, EndpointActor};
use super::delivery::Deliverer;
use super::endpoint::{
    Endpoint, EndpointConfig, EndpointId, EndpointRuntime, EndpointScope, EndpointUpdate, EndpointView,
};
use super::health::EndpointHealth;
use super::retry::Failures;
use super::storage;
use super::{Error, Handle, Options};

/// The instances that exist, with the names that deliveries carry.
pub type InstanceIds = Arc<[(InstanceNumber, InstanceId)]>;

/// Every endpoint, for readers.
pub(super) type EndpointDirectory = BTreeMap<EndpointId, Arc<EndpointRuntime>>;

type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// The pauses before a crashed actor is replaced. It is replaced for ever: an endpoint is owed its events.
const RESTART_DELAY: Duration = Duration::from_millis(100);
const RESTART_MAX_DELAY: Duration = Duration::from_secs(30);

/// What the dispatcher is told.
pub enum Msg {
    /// From handles. When they are answered, what they asked for is durable.
    SetPrimary(InstanceNumber, Box<EndpointConfig>, Reply<EndpointView>),
    Create(EndpointScope, Box<EndpointConfig>, Reply<EndpointView>),
    Update(EndpointId, Box<EndpointUpdate>, Reply<EndpointView>),
    Delete(EndpointId, Reply<()>),
    /// Cursors to put at these sequences.
    Rewind(EndpointId, Vec<(InstanceNumber, u64)>, Reply<()>),
    DeleteInstance(InstanceNumber, Reply<()>),
    /// From the node as it stops: answer when no attempt is under way.
    Drain(RpcReplyPort<()>),
    /// From an endpoint's actor, with its incarnation: its receiver took nothing for too long.
    DisableEndpoint(EndpointId, u64, InstanceNumber, DisableCause),
    /// From its own timer, with the incarnation that crashed: it has waited long enough.
    Start(EndpointId, u64),
}

/// What an endpoint met that is given up; opaque outside this room.
pub struct DisableCause(Failures);

/// What every endpoint's actor needs.
#[derive(Clone)]
pub(super) struct EndpointContext {
    pub store: Store,
    pub clock: Clock,
    pub egress: Egress,
    pub metrics: Metrics,
    pub options: Arc<Options>,
    pub instances: watch::Receiver<InstanceIds>,
}

impl EndpointContext {
    pub fn deliverer(&self) -> Deliverer {
        Deliverer {
            egress: self.egress.clone(),
            clock: self.clock,
            metrics: self.metrics.clone(),
            timeout: self.options.timeout,
        }
    }
}

/// The parent of every endpoint's actor.
pub struct WebhookSupervisor;

#[derive(Clone)]
pub struct Arguments {
    pub(super) shared: EndpointContext,
    publish: Arc<watch::Sender<Arc<EndpointDirectory>>>,
}

impl Arguments {
    /// What the dispatcher is made of, and the handle that reads what it publishes. `instances` is the list of
    /// those that exist; an instance that is not on it gets nothing delivered.
    pub fn new(
        options: Options,
        store: Store,
        clock: Clock,
        egress: Egress,
        metrics: Metrics,
        instances: watch::Receiver<InstanceIds>,
        slot: ActorSlot<Msg>,
    ) -> (Self, Handle) {
        let shared = EndpointContext { store, clock, egress, metrics, options: Arc::new(options), instances };
        let publish = Arc::new(watch::Sender::new(Arc::new(EndpointDirectory::new())));
        let handle = Handle { slot, directory: publish.subscribe(), shared: shared.clone() };
        (Self { shared, publish }, handle)
    }
}

pub struct State {
    pub(super) arguments: Arguments,
    pub(super) endpoints: HashMap<EndpointId, SupervisedEndpoint>,
    /// Grows with every actor that is started or stopped; tells an incarnation from those before it.
    incarnations: u64,
    draining: bool,
}

pub(super) struct SupervisedEndpoint {
    pub runtime: Arc<EndpointRuntime>,
    child: Option<EndpointChild>,
    restart_policy: RestartPolicy,
    incarnation: u64,
}

struct EndpointChild {
    actor: ActorRef<actor::Msg>,
    id: ActorId,
}

impl Actor for WebhookSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let mut state = State { arguments, endpoints: HashMap::new(), incarnations: 0, draining: false };
        for (id, endpoint) in storage::load(&state.arguments.shared.store)? {
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
            Msg::SetPrimary(instance, config, reply) => {
                drop(reply.send(state.set_primary(&me, instance, *config).await));
            }
            Msg::Create(scope, config, reply) => {
                drop(reply.send(state.create(&me, scope, false, *config).await));
            }
            Msg::Update(id, update, reply) => drop(reply.send(state.update(&me, id, *update).await)),
            Msg::Delete(id, reply) => drop(reply.send(state.delete(id).await)),
            Msg::Rewind(id, places, reply) => drop(reply.send(state.rewind(&me, id, places).await)),
            Msg::DeleteInstance(instance, reply) => drop(reply.send(state.delete_instance(instance).await)),
            Msg::Drain(reply) => state.drain(reply),
            Msg::DisableEndpoint(id, incarnation, instance, DisableCause(trouble)) => {
                if state.is_current(id, incarnation)
                    && let Err(error) = state.disable(id, instance, trouble).await
                {
                    tracing::error!(endpoint = %id, %error, "a webhook endpoint could not be disabled");
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
        match event {
            SupervisionEvent::ActorFailed(cell, cause) => {
                state.on_child_exit(&me, cell.get_id(), &cause.to_string())
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.on_child_exit(&me, cell.get_id(), reason.as_deref().unwrap_or("it stopped"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Clears away what endpoints left behind whose deletion the end of the node cut short.
async fn purge_orphans(store: Store) {
    let found = {
        let store = store.clone();
        tokio::task::spawn_blocking(move || storage::orphans(&store)).await
    };
    for id in found.ok().and_then(Result::ok).unwrap_or_default() {
        purge(&store, id, None).await;
    }
}

pub(super) async fn purge(store: &Store, id: EndpointId, instance: Option<InstanceNumber>) {
    if let Err(error) = storage::purge(store, id, instance).await {
        tracing::warn!(endpoint = %id, %error, "what a webhook endpoint left behind is deleted on the next start");
    }
}

impl State {
    pub(super) fn entry(&self, id: EndpointId) -> Result<&SupervisedEndpoint, Error> {
        self.endpoints.get(&id).ok_or(Error::Unknown(id))
    }

    fn is_current(&self, id: EndpointId, incarnation: u64) -> bool {
        self.endpoints.get(&id).is_some_and(|entry| entry.incarnation == incarnation)
    }

    pub(super) fn publish(&self) {
        let directory = self.endpoints.iter().map(|(id, entry)| (*id, entry.runtime.clone())).collect();
        self.arguments.publish.send_replace(Arc::new(directory));
    }

    /// Makes an endpoint known, or known anew, without starting anything.
    pub(super) fn register(&mut self, id: EndpointId, endpoint: Endpoint) -> Result<(), Error> {
        match self.endpoints.get_mut(&id) {
            Some(entry) => {
                entry.runtime = Arc::new(EndpointRuntime::new(id, endpoint, entry.runtime.health.clone())?)
            }
            None => {
                let health = Arc::new(EndpointHealth::default());
                let known = Arc::new(EndpointRuntime::new(id, endpoint, health)?);
                let patience = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
                self.endpoints.insert(
                    id,
                    SupervisedEndpoint {
                        runtime: known,
                        child: None,
                        restart_policy: patience,
                        incarnation: 0,
                    },
                );
            }
        }
        Ok(())
    }

    pub(super) async fn restart(&mut self, me: &ActorRef<Msg>, id: EndpointId, reason: &str) {
        self.stop(id, reason);
        if let Some(entry) = self.endpoints.get_mut(&id) {
            entry.restart_policy.reset();
            entry.runtime.health.clear_all_failures();
        }
        self.start(me, id).await;
    }

    /// Starts an endpoint's actor, if it should have one.
    pub(super) async fn start(&mut self, me: &ActorRef<Msg>, id: EndpointId) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let Some(entry) = self.endpoints.get_mut(&id) else { return };
        if entry.runtime.endpoint.disabled.is_some() || self.draining {
            return;
        }
        entry.incarnation = incarnation;
        let supervisor = me.clone();
        let give_up = move |instance, trouble| {
            drop(supervisor.cast(Msg::DisableEndpoint(id, incarnation, instance, DisableCause(trouble))));
        };
        let arguments = actor::Arguments {
            runtime: entry.runtime.clone(),
            shared: self.arguments.shared.clone(),
            on_give_up: Box::new(give_up),
        };
        match Actor::spawn_linked(None, EndpointActor, arguments, me.get_cell()).await {
            Ok((actor, _)) => entry.child = Some(EndpointChild { id: actor.get_id(), actor }),
            Err(error) => self.schedule_restart(me, id, &error.to_string()),
        }
    }

    /// Ends an endpoint's actor on purpose: its end is no crash.
    pub(super) fn stop(&mut self, id: EndpointId, reason: &str) {
        self.incarnations += 1;
        if let Some(entry) = self.endpoints.get_mut(&id) {
            entry.incarnation = self.incarnations;
            if let Some(child) = entry.child.take() {
                child.actor.stop(Some(reason.to_owned()));
            }
        }
    }

    /// A child's end that nobody asked for.
    fn on_child_exit(&mut self, me: &ActorRef<Msg>, child: ActorId, cause: &str) {
        let is_child =
            |entry: &SupervisedEndpoint| entry.child.as_ref().is_some_and(|known| known.id == child);
        let found = self.endpoints.iter().find(|(_, entry)| is_child(entry)).map(|(id, _)| *id);
        if let Some(id) = found {
            self.schedule_restart(me, id, cause);
        }
    }

    fn schedule_restart(&mut self, me: &ActorRef<Msg>, id: EndpointId, cause: &str) {
        let Some(entry) = self.endpoints.get_mut(&id) else { return };
        entry.child = None;
        let pause = entry.restart_policy.record_crash().unwrap_or(RESTART_MAX_DELAY);
        tracing::error!(endpoint = %id, cause, ?pause, "a webhook endpoint's actor ended and will be replaced");
        let incarnation = entry.incarnation;
        me.send_after(pause, move || Msg::Start(id, incarnation));
    }

    fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let children = self.endpoints.values().filter_map(|entry| entry.child.as_ref());
        let actors: Vec<_> = children.map(|child| child.actor.clone()).collect();
        tokio::spawn(async move {
            futures_util::future::join_all(actors.iter().map(|actor| actor.call(actor::Msg::Drain, None)))
                .await;
            let _ = reply.send(());
        });
    }
}
