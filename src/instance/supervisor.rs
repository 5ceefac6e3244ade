//! The parent of every instance's actor, and the owner of what is written down about instances.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;

use crate::media::MediaCache;
use crate::supervisor::{ActorSlot, RestartPolicy};
use crate::{inbound, queue, retry};
use relevo_clock::Clock;
use relevo_domain::{InstanceConfig, InstanceId, InstanceNumber, InstanceState, Reason, RetryPolicy};
use relevo_metrics::Metrics;
use relevo_provider::{self as provider, Provider};
use relevo_store::{self as store, Store, Tx};

use super::actor::{self, Report};
use super::directory::{
    self, DesiredState, DirectoryEntry, InstanceDirectory, InstanceRecord, InstanceView, StateView,
};
use super::health_check::Unresponsive;
use super::{Error, Handle, Options};

type InstanceReply<T> = RpcReplyPort<Result<T, Error>>;

/// What the supervisor is told.
pub enum Msg {
    /// From the HTTP front end.
    Create(Box<InstanceConfig>, InstanceReply<InstanceView>),
    Update(Box<InstanceConfig>, InstanceReply<InstanceView>),
    Delete(InstanceId, InstanceReply<()>),
    Connect(InstanceId, InstanceReply<InstanceView>),
    Disconnect(InstanceId, InstanceReply<InstanceView>),
    Restart(InstanceId, InstanceReply<InstanceView>),
    /// The link between its device and the account is to be ended; answered once that is written down.
    Logout(InstanceId, InstanceReply<InstanceView>),
    /// From the node as it stops: answer when no attempt is under way.
    Drain(RpcReplyPort<()>),
    /// From an instance's actor, with its incarnation.
    Reported(InstanceNumber, u64, ReportBox),
    /// From its own timer: a crashed instance, or one whose link could not be ended, has waited long enough; with the
    /// incarnation that it happened to.
    Start(InstanceNumber, u64),
    /// From the task that ends the link of an instance: it is ended, or it must be tried again.
    UnlinkDone(InstanceNumber, u64, bool),
    /// From its own timer: see whether every actor still answers.
    PingActors,
    /// From the watchdog's task: an actor did not answer in time (or did).
    PingResult(InstanceNumber, u64, bool),
}

/// A report on its way; opaque outside this room.
pub struct ReportBox(pub(super) Report);

/// The parent of every instance's actor.
pub struct InstanceSupervisor;

#[derive(Clone)]
pub struct Arguments {
    pub store: Store,
    pub clock: Clock,
    pub options: Options,
    pub queue: queue::Handle,
    pub retry: retry::Handle,
    pub inbound: inbound::Handle,
    pub metrics: Metrics,
    /// Makes clients. A test brings its own.
    pub(super) open_provider: OpenProvider,
    directory: Arc<watch::Sender<Arc<InstanceDirectory>>>,
    names: Arc<watch::Sender<InstanceNames>>,
}

/// Makes the client of an instance, not yet connected.
pub(super) type OpenProvider =
    Arc<dyn Fn(InstanceNumber, &InstanceConfig) -> Result<Arc<dyn Provider>, provider::Error> + Send + Sync>;

/// Every instance by its number, for those who follow all of them.
pub type InstanceNames = Arc<[(InstanceNumber, InstanceId)]>;

impl Arguments {
    /// What the supervisor is made of, and the handle that reads what it publishes.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the node, named once, in `app`")]
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
        let handle = Handle {
            slot,
            directory: publish.subscribe(),
            names: names.subscribe(),
            queue: queue.clone(),
            egress: shared.egress.clone(),
            blobs: shared.blobs.clone(),
            media_cache: library,
            sync_wait: options.sync_wait,
            on_ambiguous: policy.on_ambiguous,
        };
        let (store, clock) = (shared.store.clone(), shared.clock);
        let open =
            Arc::new(move |number, config: &InstanceConfig| crate::provider::open(number, config, &shared));
        (
            Self {
                store,
                clock,
                options,
                queue,
                retry,
                inbound,
                metrics,
                open_provider: open,
                directory: publish,
                names,
            },
            handle,
        )
    }
}

pub struct State {
    pub(super) arguments: Arguments,
    pub(super) instances: HashMap<InstanceNumber, InstanceEntry>,
    /// Grows with every actor that is started; tells an incarnation from those before it.
    pub(super) last_incarnation: u64,
    pub(super) draining: bool,
}

pub(super) struct InstanceEntry {
    pub(super) directory_entry: Arc<DirectoryEntry>,
    pub(super) state: watch::Sender<StateView>,
    /// The client of its actor, while it has one.
    pub(super) active_client: watch::Sender<Option<Arc<dyn Provider>>>,
    pub(super) child: Option<InstanceChild>,
    pub(super) restart_policy: RestartPolicy,
    pub(super) incarnation: u64,
    pub(super) missed_pings: u32,
}

pub(super) struct InstanceChild {
    pub(super) actor: ActorRef<actor::Msg>,
    pub(super) id: ActorId,
}

impl Actor for InstanceSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let mut state = State { arguments, instances: HashMap::new(), last_incarnation: 0, draining: false };
        for (number, record) in directory::load(&state.arguments.store)? {
            if record.wanted == DesiredState::Deleted {
                state.purge(number, &record);
                continue;
            }
            let id = record.config.id.clone();
            match state.register(number, record) {
                Ok(()) => state.reconcile(&me, number).await,
                Err(error) => {
                    tracing::error!(instance = %id, %error, "an instance is left out; what it has stays on the disk");
                }
            }
        }
        state.publish_directory();
        me.send_interval(state.arguments.options.probe_interval, || Msg::PingActors);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Create(config, reply) => drop(reply.send(state.create(&me, *config).await)),
            Msg::Update(config, reply) => drop(reply.send(state.update(&me, *config).await)),
            Msg::Delete(id, reply) => drop(reply.send(state.delete(&id).await)),
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
                if state.instances.get(&number).is_some_and(|entry| entry.incarnation == incarnation) {
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
        match event {
            SupervisionEvent::ActorFailed(cell, cause) => {
                let code = if cause.is::<Unresponsive>() { "zombie" } else { "restarting" };
                state.on_child_ended(&me, cell.get_id(), Reason::new(code, cause.to_string())).await;
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                let cause = reason.unwrap_or_else(|| "it stopped".to_owned());
                state.on_child_ended(&me, cell.get_id(), Reason::new("restarting", cause)).await;
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    pub(super) fn number_of(&self, id: &InstanceId) -> Result<InstanceNumber, Error> {
        let found = self.instances.iter().find(|(_, entry)| entry.directory_entry.record.config.id == *id);
        found.map(|(number, _)| *number).ok_or_else(|| Error::Unknown(id.clone()))
    }

    pub(super) fn publish_directory(&self) {
        let directory = InstanceDirectory::from_entries(
            self.instances.values().map(|entry| entry.directory_entry.clone()),
        );
        let names = directory.by_id.values().map(|known| (known.number, known.record.config.id.clone()));
        self.arguments.names.send_replace(names.collect());
        self.arguments.directory.send_replace(Arc::new(directory));
    }

    /// Makes an instance known, or known anew, without starting anything.
    pub(super) fn register(&mut self, number: InstanceNumber, record: InstanceRecord) -> Result<(), Error> {
        let checker = (self.arguments.open_provider)(number, &record.config)?;
        let options = &self.arguments.options;
        match self.instances.get_mut(&number) {
            Some(entry) => {
                let (state, at_work) = (entry.state.subscribe(), entry.active_client.subscribe());
                entry.directory_entry =
                    Arc::new(DirectoryEntry { number, record, checker, active_client: at_work, state });
            }
            None => {
                directory::warn_of_unsigned_webhooks(&record.config);
                let reason = Reason::new("created", "not asked to connect yet");
                let state = watch::Sender::new(StateView::new(InstanceState::Created, reason));
                let at_work = watch::Sender::new(None);
                let known = DirectoryEntry {
                    number,
                    record,
                    checker,
                    active_client: at_work.subscribe(),
                    state: state.subscribe(),
                };
                let patience = RestartPolicy::new(
                    options.restart_delay,
                    options.restart_max_delay,
                    options.restart_limit,
                );
                let (known, child, incarnation, missed) = (Arc::new(known), None, 0, 0);
                let entry = InstanceEntry {
                    directory_entry: known,
                    state,
                    active_client: at_work,
                    child,
                    restart_policy: patience,
                    incarnation,
                    missed_pings: missed,
                };
                self.instances.insert(number, entry);
            }
        }
        Ok(())
    }

    pub(super) async fn save_record(
        &mut self,
        number: InstanceNumber,
        record: InstanceRecord,
    ) -> Result<(), Error> {
        let bytes = store::encode(&record)?;
        let write = move |tx: &mut Tx| tx.put(directory::record_key(number), bytes);
        self.arguments.store.write(write).await?;
        self.register(number, record)
    }

    pub(super) fn entry(&self, number: InstanceNumber) -> Result<&InstanceEntry, Error> {
        self.instances.get(&number).ok_or(Error::Gone(crate::supervisor::ActorUnavailable))
    }
}
