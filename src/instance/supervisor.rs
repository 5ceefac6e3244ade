//! The supervisor of all instance actors. It follows the instance records: `accounts` writes what operators configure,
//! the supervisor writes the desired states and what the actors report.
//!
//! It handles commands from the API, reports from actors and ends of actors, one after another. It never waits for an
//! actor or for the network.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::media::MediaCache;
use crate::supervisor::{ActorSlot, Child, ChildExit, Incarnation, RestartPolicy};
use crate::{inbound, queue, retry};
use relevo_clock::{Clock, Random};
use relevo_domain::{
    InstanceConfig, InstanceId, InstanceNumber, InstanceState, Reason, ReasonCode, RetryPolicy,
};
use relevo_metrics::Metrics;
use relevo_provider::{self as provider, Provider};
use relevo_store::{Store, Tx};

use super::actor::{self, Report};
use super::directory::{DirectoryEntry, InstanceDirectory, InstanceView, StateView};
use super::record::{self, DesiredState, InstanceRecord};
use super::{Error, Handle, Options};

/// Reply of a command.
type InstanceReply<T> = RpcReplyPort<Result<T, Error>>;

/// Messages to the supervisor.
pub enum Msg {
    /// From `accounts`: follow a record that is new, has a new configuration, or is deleted. Replies when the directory is
    /// published; the data of a deleted instance is deleted later.
    Reload(InstanceNumber, InstanceReply<()>),
    /// From the API: connect the instance, also when it is paused.
    Connect(InstanceId, InstanceReply<InstanceView>),
    /// From the API: disconnect the instance.
    Disconnect(InstanceId, InstanceReply<InstanceView>),
    /// From the API: replace the actor and its client.
    Restart(InstanceId, InstanceReply<InstanceView>),
    /// From the API: end the link between the device and its account. Replies after the desired state is durable.
    Logout(InstanceId, InstanceReply<InstanceView>),
    /// From the node when it stops: reply when no attempt is in flight.
    Drain(RpcReplyPort<()>),
    /// From the actor of an instance, with its incarnation.
    Reported(InstanceNumber, Incarnation, ReportBox),
    /// From a timer: the delay of a restart, or of another try to unlink, has passed. With the incarnation for which the
    /// timer was started.
    Start(InstanceNumber, Incarnation),
    /// From the unlink task: `true` if the device is unlinked, `false` if unlinking must be tried again.
    UnlinkDone(InstanceNumber, Incarnation, bool),
    /// From a timer: ping every actor.
    PingActors,
    /// From the watchdog's task: whether an actor answered in time.
    PingResult(InstanceNumber, Incarnation, bool),
}

/// A report of an actor; opaque outside this module.
pub struct ReportBox(pub(super) Report);

/// The supervisor of all instance actors.
pub struct InstanceSupervisor;

/// Arguments of the supervisor.
#[derive(Clone)]
pub struct Arguments {
    pub store: Store,
    pub clock: Clock,
    pub random: Random,
    pub options: Options,
    pub queue: queue::Handle,
    pub retry: retry::Handle,
    pub inbound: inbound::Handle,
    pub metrics: Metrics,
    /// Creates clients. Tests replace it.
    pub(super) open_provider: OpenProvider,
    /// Cancelled when the supervisor ends. Attempts, probes and unlinks in flight end then; their outcome is unknown.
    pub(super) ended: CancellationToken,
    directory: Arc<watch::Sender<Arc<InstanceDirectory>>>,
    names: Arc<watch::Sender<InstanceNames>>,
}

/// Creates the client of an instance. The client is not connected yet.
pub(super) type OpenProvider =
    Arc<dyn Fn(InstanceNumber, &InstanceConfig) -> Result<Arc<dyn Provider>, provider::Error> + Send + Sync>;

/// Every instance by its number, for readers that follow all of them.
pub type InstanceNames = Arc<[(InstanceNumber, InstanceId)]>;

impl Arguments {
    /// Creates the arguments of the supervisor and the handle to it.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different part of the node, named once, in `app`"
    )]
    pub fn new(
        options: Options,
        shared: provider::ProviderResources,
        library: MediaCache,
        queue: queue::Handle,
        retry: retry::Handle,
        inbound: inbound::Handle,
        policy: &RetryPolicy,
        metrics: Metrics,
        slot: ActorSlot<Msg>,
    ) -> (Self, Handle) {
        let publish = Arc::new(watch::Sender::new(Arc::new(InstanceDirectory::default())));
        let names = Arc::new(watch::Sender::new(InstanceNames::default()));
        let (store, clock, random) = (shared.store.clone(), shared.clock, shared.random.clone());
        let (egress, blobs) = (shared.egress.clone(), shared.blobs.clone());
        let open: OpenProvider =
            Arc::new(move |number, config: &InstanceConfig| crate::provider::open(number, config, &shared));
        let handle = Handle {
            slot,
            directory: publish.subscribe(),
            names: names.subscribe(),
            queue: queue.clone(),
            egress,
            blobs,
            media_cache: library,
            sync_wait: options.sync_wait,
            on_ambiguous: policy.on_ambiguous,
            open_provider: open.clone(),
        };
        (
            Self {
                store,
                clock,
                random,
                options,
                queue,
                retry,
                inbound,
                metrics,
                open_provider: open,
                ended: CancellationToken::new(),
                directory: publish,
                names,
            },
            handle,
        )
    }
}

/// State of the supervisor.
pub struct State {
    pub(super) arguments: Arguments,
    pub(super) instances: HashMap<InstanceNumber, InstanceEntry>,
    pub(super) draining: bool,
    _ping_timer: AbortOnDropHandle<()>,
    _ended: DropGuard,
}

/// One instance: its published data and its actor.
pub(super) struct InstanceEntry {
    pub(super) directory_entry: Arc<DirectoryEntry>,
    pub(super) state: watch::Sender<StateView>,
    /// The client of the running actor.
    pub(super) active_client: watch::Sender<Option<Arc<dyn Provider>>>,
    pub(super) child: Child<actor::Msg>,
    pub(super) missed_pings: u32,
}

impl Actor for InstanceSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let ended = arguments.ended.clone().drop_guard();
        let ping_timer = me.send_interval(arguments.options.probe_interval, || Msg::PingActors);
        let mut state = State {
            arguments,
            instances: HashMap::new(),
            draining: false,
            _ended: ended,
            _ping_timer: AbortOnDropHandle::new(ping_timer),
        };
        for (number, record) in record::load(&state.arguments.store)? {
            let id = record.config.id.clone();
            if let Err(error) = state.follow(&me, number, record).await {
                tracing::error!(instance = %id, %error, "instance not loaded, its configuration is invalid; its data stays on the disk");
            }
        }
        state.publish_directory();
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Reload(number, reply) => drop(reply.send(state.reload(&me, number).await)),
            Msg::Connect(id, reply) => {
                drop(reply.send(state.set_desired_state(&me, &id, DesiredState::Connected, false).await))
            }
            Msg::Disconnect(id, reply) => {
                drop(reply.send(state.set_desired_state(&me, &id, DesiredState::Disconnected, true).await))
            }
            Msg::Restart(id, reply) => {
                drop(reply.send(state.set_desired_state(&me, &id, DesiredState::Connected, true).await))
            }
            Msg::Logout(id, reply) => drop(reply.send(state.logout(&me, &id).await)),
            Msg::UnlinkDone(number, incarnation, done) => {
                state.on_unlink_done(&me, number, incarnation, done).await
            }
            Msg::Drain(reply) => state.drain(reply),
            Msg::Reported(number, incarnation, report) => {
                state.on_report(number, incarnation, report.0).await
            }
            Msg::Start(number, incarnation) => {
                if state.instances.get(&number).is_some_and(|entry| entry.child.is_current(incarnation)) {
                    state.reconcile(&me, number).await;
                }
            }
            Msg::PingActors => state.ping_actors(&me),
            Msg::PingResult(number, incarnation, answered) => {
                state.on_ping_result(number, incarnation, answered)
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
            state.on_child_exit(&me, exit).await;
        }
        Ok(())
    }
}

impl State {
    /// The number of an instance.
    ///
    /// # Errors
    ///
    /// No instance has this id.
    pub(super) fn number_of(&self, id: &InstanceId) -> Result<InstanceNumber, Error> {
        let found = self.instances.iter().find(|(_, entry)| entry.directory_entry.record.config.id == *id);
        found.map(|(number, _)| *number).ok_or_else(|| Error::Unknown(id.clone()))
    }

    /// Publishes the directory and the names of all instances.
    pub(super) fn publish_directory(&self) {
        let directory = InstanceDirectory::from_entries(
            self.instances.values().map(|entry| entry.directory_entry.clone()),
        );
        let names = directory.by_id.values().map(|entry| (entry.number, entry.record.config.id.clone()));
        self.arguments.names.send_replace(names.collect());
        self.arguments.directory.send_replace(Arc::new(directory));
    }

    /// Adds an instance, or replaces its record. Stops an actor whose configuration has changed; starts nothing.
    ///
    /// # Errors
    ///
    /// The provider refuses the configuration.
    pub(super) fn register(&mut self, number: InstanceNumber, record: InstanceRecord) -> Result<(), Error> {
        let checker = (self.arguments.open_provider)(number, &record.config)?;
        let runs_with = self.instances.get(&number).map(|entry| &entry.directory_entry.record.config);
        if runs_with.is_some_and(|previous| concerns_actor(previous, &record.config)) {
            self.stop(number, "its configuration changed");
        }
        let options = &self.arguments.options;
        match self.instances.get_mut(&number) {
            Some(entry) => {
                let (state, active_client) = (entry.state.subscribe(), entry.active_client.subscribe());
                entry.directory_entry =
                    Arc::new(DirectoryEntry { number, record, checker, active_client, state });
            }
            None => {
                warn_of_unsigned_webhooks(&record.config);
                let reason = Reason::new(ReasonCode::Created, "not asked to connect yet");
                let state = watch::Sender::new(StateView::new(InstanceState::Created, reason));
                let active_client = watch::Sender::new(None);
                let directory_entry = DirectoryEntry {
                    number,
                    record,
                    checker,
                    active_client: active_client.subscribe(),
                    state: state.subscribe(),
                };
                let restarts = RestartPolicy::new(
                    options.restart_delay,
                    options.restart_max_delay,
                    options.restart_limit,
                );
                let entry = InstanceEntry {
                    directory_entry: Arc::new(directory_entry),
                    state,
                    active_client,
                    child: Child::new(restarts),
                    missed_pings: 0,
                };
                self.instances.insert(number, entry);
            }
        }
        Ok(())
    }

    /// Changes the stored record of an instance, then replaces it in memory.
    ///
    /// # Errors
    ///
    /// The instance was deleted, the commit failed, or the provider refuses the configuration.
    pub(super) async fn modify_record(
        &mut self,
        number: InstanceNumber,
        change: impl FnOnce(&mut InstanceRecord) + Send + 'static,
    ) -> Result<(), Error> {
        let id = self.entry(number)?.directory_entry.record.config.id.clone();
        let write = move |tx: &mut Tx| record::modify(tx, number, change);
        let record = self.arguments.store.write(write).await?.ok_or(Error::Unknown(id))?;
        self.register(number, record)
    }

    /// The entry of an instance.
    ///
    /// # Errors
    ///
    /// The instance was deleted meanwhile.
    pub(super) fn entry(&self, number: InstanceNumber) -> Result<&InstanceEntry, Error> {
        self.instances.get(&number).ok_or(Error::Gone(crate::supervisor::ActorUnavailable))
    }
}

/// Whether a new configuration concerns the running actor. A new name does not, and keeps the connection.
fn concerns_actor(previous: &InstanceConfig, config: &InstanceConfig) -> bool {
    InstanceConfig { name: previous.name.clone(), ..config.clone() } != *previous
}

/// Logs a warning if the instance accepts unsigned webhooks.
fn warn_of_unsigned_webhooks(config: &InstanceConfig) {
    if config.provider.cloud_api().is_some_and(|cloud| cloud.app_secret.is_none()) {
        tracing::warn!(
            instance = config.id.as_str(),
            "instance has no app_secret, webhook signatures not verified: a caller that knows the webhook URL can forge \
             messages and statuses; set cloud_api.app_secret to the secret of the Meta app"
        );
    }
}
