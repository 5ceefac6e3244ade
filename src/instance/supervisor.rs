//! The parent of every instance's actor, and the owner of what is written down about instances.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use serde_json::json;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::domain::{
    InstanceConfig, InstanceId, InstanceNumber, InstanceState, ProviderKind, Reason, RetryPolicy,
};
use crate::events::{self, Event};
use crate::media::Library;
use crate::metrics::Metrics;
use crate::provider;
use crate::store::{self, Store, Tx};
use crate::supervision::{RestartPolicy, Slot};
use crate::{queue, retry};

use super::actor::{self, InstanceActor, Report};
use super::directory::{self, Directory, InstanceView, Known, Record, StateView, Wanted};
use super::{Error, Handle, Options};

type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// What the supervisor is told.
pub enum Msg {
    /// From the HTTP front end.
    Create(Box<InstanceConfig>, Reply<InstanceView>),
    Update(Box<InstanceConfig>, Reply<InstanceView>),
    Delete(InstanceId, Reply<()>),
    Connect(InstanceId, Reply<InstanceView>),
    Disconnect(InstanceId, Reply<InstanceView>),
    Restart(InstanceId, Reply<InstanceView>),
    /// From the node as it stops: answer when no attempt is under way.
    Drain(RpcReplyPort<()>),
    /// From an instance's actor, with its incarnation.
    Reported(InstanceNumber, u64, ReportBox),
    /// From its own timer: a crashed instance has waited long enough; with the incarnation that crashed.
    Start(InstanceNumber, u64),
    /// From its own timer: see whether every actor still answers.
    Watch,
    /// From the watchdog's task: an actor did not answer in time (or did).
    Watched(InstanceNumber, u64, bool),
}

/// A report on its way; opaque outside this room.
pub struct ReportBox(Report);

/// The parent of every instance's actor.
pub struct InstanceSupervisor;

#[derive(Clone)]
pub struct Arguments {
    pub store: Store,
    pub clock: Clock,
    pub options: Options,
    pub shared: provider::Shared,
    pub queue: queue::Handle,
    pub retry: retry::Handle,
    pub metrics: Metrics,
    publish: Arc<watch::Sender<Arc<Directory>>>,
    names: Arc<watch::Sender<Names>>,
}

/// Every instance by its number, for those who follow all of them.
pub type Names = Arc<[(InstanceNumber, InstanceId)]>;

impl Arguments {
    /// What the supervisor is made of, and the handle that reads what it publishes.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the node, named once, in `app`")]
    pub fn new(
        options: Options,
        shared: provider::Shared,
        library: Library,
        queue: queue::Handle,
        retry: retry::Handle,
        policy: &RetryPolicy,
        metrics: Metrics,
        slot: Slot<Msg>,
    ) -> (Self, Handle) {
        let publish = Arc::new(watch::Sender::new(Arc::new(Directory::default())));
        let names = Arc::new(watch::Sender::new(Names::default()));
        let handle = Handle {
            slot,
            directory: publish.subscribe(),
            names: names.subscribe(),
            queue: queue.clone(),
            egress: shared.egress.clone(),
            blobs: shared.blobs.clone(),
            library,
            sync_wait: options.sync_wait,
            on_ambiguous: policy.on_ambiguous,
        };
        let (store, clock) = (shared.store.clone(), shared.clock);
        (Self { store, clock, options, shared, queue, retry, metrics, publish, names }, handle)
    }
}

pub struct State {
    pub(super) arguments: Arguments,
    pub(super) instances: HashMap<InstanceNumber, Entry>,
    /// Grows with every actor that is started; tells an incarnation from those before it.
    pub(super) incarnations: u64,
    pub(super) draining: bool,
}

pub(super) struct Entry {
    pub(super) known: Arc<Known>,
    state: watch::Sender<StateView>,
    pub(super) child: Option<Child>,
    patience: RestartPolicy,
    pub(super) incarnation: u64,
    pub(super) missed: u32,
}

pub(super) struct Child {
    pub(super) actor: ActorRef<actor::Msg>,
    id: ActorId,
}

impl Actor for InstanceSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let mut state = State { arguments, instances: HashMap::new(), incarnations: 0, draining: false };
        for (number, record) in directory::load(&state.arguments.store)? {
            if record.wanted == Wanted::Deleted {
                state.forget(number);
                continue;
            }
            state.adopt(number, record)?;
            state.follow_wish(&me, number).await;
        }
        state.publish();
        me.send_interval(state.arguments.options.probe_interval, || Msg::Watch);
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
            Msg::Connect(id, reply) => drop(reply.send(state.wish(&me, &id, Wanted::Connected, false).await)),
            Msg::Disconnect(id, reply) => {
                drop(reply.send(state.wish(&me, &id, Wanted::Disconnected, true).await))
            }
            Msg::Restart(id, reply) => drop(reply.send(state.wish(&me, &id, Wanted::Connected, true).await)),
            Msg::Drain(reply) => state.drain(reply),
            Msg::Reported(number, incarnation, report) => state.reported(number, incarnation, report.0).await,
            Msg::Start(number, incarnation) => {
                if state.instances.get(&number).is_some_and(|entry| entry.incarnation == incarnation) {
                    state.follow_wish(&me, number).await;
                }
            }
            Msg::Watch => state.watch(&me),
            Msg::Watched(number, incarnation, answered) => state.watched(number, incarnation, answered),
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
                state.lost(&me, cell.get_id(), &cause.to_string()).await
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.lost(&me, cell.get_id(), reason.as_deref().unwrap_or("it stopped")).await;
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    fn number_of(&self, id: &InstanceId) -> Result<InstanceNumber, Error> {
        let found = self.instances.iter().find(|(_, entry)| entry.known.record.config.id == *id);
        found.map(|(number, _)| *number).ok_or_else(|| Error::Unknown(id.clone()))
    }

    fn publish(&self) {
        let directory = Directory::of(self.instances.values().map(|entry| entry.known.clone()));
        let names = directory.by_id.values().map(|known| (known.number, known.record.config.id.clone()));
        self.arguments.names.send_replace(names.collect());
        self.arguments.publish.send_replace(Arc::new(directory));
    }

    /// Makes an instance known, or known anew, without starting anything.
    fn adopt(&mut self, number: InstanceNumber, record: Record) -> Result<(), Error> {
        let checker = provider::open(number, &record.config, &self.arguments.shared)?;
        let options = &self.arguments.options;
        match self.instances.get_mut(&number) {
            Some(entry) => {
                let state = entry.state.subscribe();
                entry.known = Arc::new(Known { number, record, checker, state });
            }
            None => {
                directory::warn_of_unsigned_webhooks(&record.config);
                let reason = Reason::new("created", "not asked to connect yet");
                let state =
                    watch::Sender::new(StateView { state: InstanceState::Created, reason, restarts: 0 });
                let known = Arc::new(Known { number, record, checker, state: state.subscribe() });
                let patience = RestartPolicy::new(
                    options.restart_delay,
                    options.restart_max_delay,
                    options.restart_limit,
                );
                self.instances
                    .insert(number, Entry { known, state, child: None, patience, incarnation: 0, missed: 0 });
            }
        }
        Ok(())
    }

    async fn create(&mut self, me: &ActorRef<Msg>, config: InstanceConfig) -> Result<InstanceView, Error> {
        if self.number_of(&config.id).is_ok() {
            return Err(Error::Exists(config.id));
        }
        // Opening does nothing but check; which number it is for does not matter to that.
        provider::open(InstanceNumber::FIRST, &config, &self.arguments.shared)?;
        let wanted = match config.provider {
            ProviderKind::CloudApi => Wanted::Connected,
            ProviderKind::LinkedDevice => Wanted::Created,
        };
        let now = self.arguments.clock.now();
        let record = Record { config, wanted, created_at: now, updated_at: now, last_connected_at: None };
        let bytes = store::encode(&record)?;
        let write = move |tx: &mut Tx| {
            let number = directory::next_number(tx)?;
            if let Some(number) = number {
                store::put_large(tx, directory::record_key(number), &bytes)?;
            }
            Ok(number)
        };
        let number = self.arguments.store.write(write).await?.ok_or(Error::NoNumbers(0xFF_FFFF))?;
        self.adopt(number, record)?;
        self.follow_wish(me, number).await;
        self.publish();
        tracing::info!(instance = %self.entry(number)?.known.record.config.id, "instance created");
        Ok(self.entry(number)?.known.view())
    }

    async fn update(&mut self, me: &ActorRef<Msg>, config: InstanceConfig) -> Result<InstanceView, Error> {
        let number = self.number_of(&config.id)?;
        provider::open(number, &config, &self.arguments.shared)?;
        let before = self.entry(number)?.known.record.clone();
        let mut record = Record { config, updated_at: self.arguments.clock.now(), ..before.clone() };
        let credentials_changed = record.config.cloud_api != before.config.cloud_api;
        if credentials_changed && matches!(record.wanted, Wanted::Paused(_)) {
            record.wanted = Wanted::Connected;
        }
        self.write(number, record).await?;
        self.stop(number, "its configuration changed");
        self.follow_wish(me, number).await;
        self.publish();
        Ok(self.entry(number)?.known.view())
    }

    /// Changes what an instance should be; `anew` also replaces an actor that already does it.
    async fn wish(
        &mut self,
        me: &ActorRef<Msg>,
        id: &InstanceId,
        wanted: Wanted,
        anew: bool,
    ) -> Result<InstanceView, Error> {
        let number = self.number_of(id)?;
        let record = self.entry(number)?.known.record.clone();
        if record.wanted != wanted {
            self.write(number, Record { wanted, updated_at: self.arguments.clock.now(), ..record }).await?;
        }
        if anew {
            self.stop(number, "its owner asked for it");
        }
        if let Some(entry) = self.instances.get_mut(&number) {
            entry.patience.reset();
        }
        self.follow_wish(me, number).await;
        self.publish();
        Ok(self.entry(number)?.known.view())
    }

    async fn delete(&mut self, id: &InstanceId) -> Result<(), Error> {
        let number = self.number_of(id)?;
        let record = self.entry(number)?.known.record.clone();
        self.write(number, Record { wanted: Wanted::Deleted, ..record }).await?;
        self.stop(number, "it is deleted");
        self.instances.remove(&number);
        self.publish();
        self.forget(number);
        tracing::info!(instance = %id, "instance deleted");
        Ok(())
    }

    /// Clears away what a deleted instance left. Its number is never given again, so this may take its time; its
    /// record goes last, so that a crash in between only begins this again.
    fn forget(&self, number: InstanceNumber) {
        let (queue, store) = (self.arguments.queue.clone(), self.arguments.store.clone());
        tokio::spawn(async move {
            let purged = queue.purge(number).await;
            let remove = move |tx: &mut Tx| store::delete_large(tx, directory::record_key(number));
            let removed = match purged {
                Ok(()) => store.write(remove).await.map_err(Error::from),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, "what a deleted instance left is cleared away after the next start");
            }
        });
    }

    async fn write(&mut self, number: InstanceNumber, record: Record) -> Result<(), Error> {
        let bytes = store::encode(&record)?;
        let write = move |tx: &mut Tx| store::put_large(tx, directory::record_key(number), &bytes);
        self.arguments.store.write(write).await?;
        self.adopt(number, record)
    }

    fn entry(&self, number: InstanceNumber) -> Result<&Entry, Error> {
        self.instances.get(&number).ok_or(Error::Gone(crate::supervision::Gone))
    }

    /// Starts or leaves alone, as the instance's record wants it.
    async fn follow_wish(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) {
        let Some(entry) = self.instances.get(&number) else { return };
        let (state, reason) = match &entry.known.record.wanted {
            Wanted::Created => (InstanceState::Created, Reason::new("created", "not asked to connect yet")),
            Wanted::Disconnected => {
                (InstanceState::Disconnected, Reason::new("requested", "asked to disconnect"))
            }
            Wanted::Paused(reason) => (InstanceState::Paused, reason.clone()),
            Wanted::Deleted => return,
            Wanted::Connected if entry.child.is_some() => return,
            Wanted::Connected => (InstanceState::Connecting, Reason::new("starting", "connecting")),
        };
        let start = state == InstanceState::Connecting && !self.draining;
        self.show(number, state, reason).await;
        if start {
            self.start(me, number).await;
        }
    }

    async fn start(&mut self, me: &ActorRef<Msg>, number: InstanceNumber) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let Some(entry) = self.instances.get_mut(&number) else { return };
        entry.incarnation = incarnation;
        entry.missed = 0;
        let supervisor = me.clone();
        let report =
            move |report| drop(supervisor.cast(Msg::Reported(number, incarnation, ReportBox(report))));
        let arguments = actor::Arguments {
            number,
            config: entry.known.record.config.clone(),
            options: self.arguments.options.clone(),
            clock: self.arguments.clock,
            shared: self.arguments.shared.clone(),
            queue: self.arguments.queue.clone(),
            retry: self.arguments.retry.clone(),
            metrics: self.arguments.metrics.clone(),
            report: Box::new(report),
        };
        match Actor::spawn_linked(None, InstanceActor, arguments, me.get_cell()).await {
            Ok((actor, _)) => entry.child = Some(Child { id: actor.get_id(), actor }),
            Err(error) => self.crashed(me, number, &error.to_string()).await,
        }
    }

    /// Ends an instance's actor on purpose: its end is no crash. Attempts under way report for themselves.
    fn stop(&mut self, number: InstanceNumber, reason: &str) {
        if let Some(entry) = self.instances.get_mut(&number)
            && let Some(child) = entry.child.take()
        {
            self.incarnations += 1;
            entry.incarnation = self.incarnations;
            child.actor.stop(Some(reason.to_owned()));
        }
    }

    /// A child's end that nobody asked for.
    async fn lost(&mut self, me: &ActorRef<Msg>, child: ActorId, cause: &str) {
        let is_child = |entry: &Entry| entry.child.as_ref().is_some_and(|known| known.id == child);
        let Some(number) =
            self.instances.iter().find(|(_, entry)| is_child(entry)).map(|(number, _)| *number)
        else {
            return;
        };
        self.crashed(me, number, cause).await;
    }

    async fn crashed(&mut self, me: &ActorRef<Msg>, number: InstanceNumber, cause: &str) {
        let Some(entry) = self.instances.get_mut(&number) else { return };
        entry.child = None;
        let id = entry.known.record.config.id.clone();
        match entry.patience.crashed() {
            Some(pause) => {
                entry.state.send_modify(|view| view.restarts += 1);
                tracing::error!(instance = %id, cause, ?pause, "an instance's client ended and will be replaced");
                self.incarnations += 1;
                let incarnation = self.incarnations;
                if let Some(entry) = self.instances.get_mut(&number) {
                    entry.incarnation = incarnation;
                }
                self.show(number, InstanceState::Connecting, Reason::new("restarting", cause)).await;
                me.send_after(pause, move || Msg::Start(number, incarnation));
            }
            None => {
                tracing::error!(instance = %id, cause, "an instance's client keeps ending; it is parked");
                let text =
                    format!("it ended too often within a minute, the last time because: {cause}; restart it");
                self.show(number, InstanceState::Failed, Reason::new("restart_limit", text)).await;
            }
        }
    }

    async fn reported(&mut self, number: InstanceNumber, incarnation: u64, report: Report) {
        let Some(entry) = self.instances.get(&number).filter(|entry| entry.incarnation == incarnation) else {
            return;
        };
        let record = entry.known.record.clone();
        let now = self.arguments.clock.now();
        match report {
            Report::State(state, reason) => {
                if state == InstanceState::Connected {
                    let record = Record { last_connected_at: Some(now), ..record };
                    if let Err(error) = self.write(number, record).await {
                        tracing::warn!(%error, "the moment of connecting could not be written down");
                    }
                    self.publish();
                }
                self.show(number, state, reason).await;
            }
            Report::Pause(reason) => {
                tracing::warn!(instance = %record.config.id, reason = %reason.text, "instance paused; its queue is kept");
                self.stop(number, "it is paused");
                let record = Record { wanted: Wanted::Paused(reason.clone()), updated_at: now, ..record };
                if let Err(error) = self.write(number, record).await {
                    tracing::warn!(%error, "a pause could not be written down and will be found out again");
                }
                self.publish();
                self.show(number, InstanceState::Paused, reason).await;
            }
        }
    }

    /// Publishes what an instance is doing, and announces it when readers of events would want to know.
    async fn show(&mut self, number: InstanceNumber, state: InstanceState, reason: Reason) {
        let Some(entry) = self.instances.get(&number) else { return };
        let before = entry.state.borrow().state;
        entry.state.send_modify(|view| {
            view.state = state;
            view.reason = reason.clone();
        });
        if before == state {
            return;
        }
        tracing::info!(instance = %entry.known.record.config.id, state = state.as_str(), reason = reason.code, "instance state");
        let word = match state {
            InstanceState::Connected => "connected",
            InstanceState::LoggedOut => "logged_out",
            InstanceState::Connecting if before != InstanceState::Connected => return,
            InstanceState::Created => return,
            _ => "disconnected",
        };
        let data =
            json!({ "status": word, "state": state.as_str(), "reason": reason.code, "detail": reason.text });
        let event = Event { kind: "status".to_owned(), at: self.arguments.clock.now(), data };
        self.arguments.store.submit(move |tx| events::append(tx, number, &event), |_| {}).await;
    }
}
