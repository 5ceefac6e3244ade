//! The parent of every job's actor.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::queue;
use crate::supervision::{RestartPolicy, Slot};
use relevo_clock::Clock;
use relevo_domain::AmbiguousPolicy;
use relevo_store::Store;

use super::actor::{self, JobActor};
use super::book::Suppressed;
use super::devices::Probe;
use super::files::{Draft, Jobs};
use super::handle::{Directory, Known, noted_rows};
use super::job::{Kind, NewJob, Plan};
use super::storage::{self, Record, Standing};
use super::{Error, Handle, Options, deletion, devices};

type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// The pauses before a crashed actor is replaced. It is replaced for ever: a job is owed its end.
const RESTART_DELAY: Duration = Duration::from_millis(200);
const RESTART_MAX_DELAY: Duration = Duration::from_secs(30);

/// Outcomes that arrive within this time are noted together, unless so many arrive: the work that they make comes in
/// small pieces then.
const GATHER: Duration = Duration::from_millis(100);
const ENOUGH: u64 = 64;

/// How often finished jobs are looked at, while outcomes arrive.
const GATHER_LATE: Duration = Duration::from_secs(1);

/// How often jobs are looked for that were kept long enough.
const SWEEP: Duration = Duration::from_secs(3600);

/// What the supervisor is told.
pub enum Msg {
    /// From handles. When they are answered, what they asked for is durable.
    Create(Box<NewJob>, Draft, Reply<()>),
    Command(Uuid, Command, Reply<()>),
    Delete(Uuid, Reply<()>),
    /// From the node as it stops: answer when no job does anything any more.
    Drain(RpcReplyPort<()>),
    /// From its own tasks: running jobs may have outcomes to note; these finished ones have.
    Stirred,
    Late(Vec<Uuid>),
    /// From a job's actor, with its incarnation and the commands that it carried out: it has nothing to do.
    Idle(Uuid, u64, u64),
    /// From its own timer, with the incarnation that crashed: it has waited long enough.
    Start(Uuid, u64),
    /// From its own task: a job is deleted, or still there, with all that remains of it.
    Deleted(Uuid, Deletion),
    /// From its own timer.
    Sweep,
}

/// What a job can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Cancel,
    Pause,
    Resume,
    RetryFailed,
}

/// How a deletion ended, and who waits to hear.
pub struct Deletion {
    outcome: Result<(), Error>,
    reply: Option<Reply<()>>,
}

/// What jobs need of the rest of the node.
#[derive(Clone)]
pub struct Around {
    pub store: Store,
    pub clock: Clock,
    pub queue: queue::Handle,
    pub devices: Probe,
    pub suppressed: Suppressed,
    /// What becomes of rows whose outcome stays unknown, where their instance says nothing.
    pub on_ambiguous: AmbiguousPolicy,
}

/// What every job's actor needs.
#[derive(Clone)]
pub(super) struct Shared {
    around: Around,
    pub jobs: Jobs,
    pub options: Arc<Options>,
}

impl Deref for Shared {
    type Target = Around;
    fn deref(&self) -> &Around {
        &self.around
    }
}

/// The parent of every job's actor.
pub struct BulkSupervisor;

#[derive(Clone)]
pub struct Arguments {
    pub(super) shared: Shared,
    publish: Arc<watch::Sender<Arc<Directory>>>,
}

impl Arguments {
    /// What the supervisor is made of, and the handle that reads what it publishes. The jobs' files lie in `data`.
    ///
    /// # Errors
    ///
    /// The folder of jobs cannot be created or read.
    pub fn new(
        options: Options,
        data: &Path,
        around: Around,
        slot: Slot<Msg>,
    ) -> Result<(Self, Handle), Error> {
        let jobs = Jobs::open(data)?;
        let publish = Arc::new(watch::Sender::new(Arc::new(Directory::new())));
        let handle = Handle {
            slot,
            directory: publish.subscribe(),
            store: around.store.clone(),
            jobs: jobs.clone(),
            max_rows: options.max_rows,
            devices: around.devices.clone(),
        };
        around.queue.ask_for_noted_rows(noted_rows(publish.subscribe(), jobs.clone()));
        let shared = Shared { around, jobs, options: Arc::new(options) };
        Ok((Self { shared, publish }, handle))
    }
}

pub struct State {
    arguments: Arguments,
    jobs: HashMap<Uuid, Entry>,
    /// Grows with every actor that is started or stopped; tells an incarnation from those before it.
    incarnations: u64,
    draining: bool,
    /// Those who listen for outcomes; they end with the supervisor.
    _listening: [AbortOnDropHandle<()>; 2],
}

struct Entry {
    known: Arc<Known>,
    kind: Kind,
    child: Option<Child>,
    patience: RestartPolicy,
    incarnation: u64,
    /// Commands that were passed on to this incarnation.
    asked: u64,
    /// It is being deleted: nothing is started any more.
    ending: bool,
}

struct Child {
    actor: ActorRef<actor::Msg>,
    id: ActorId,
    /// A look is on its way to it.
    nudged: Arc<AtomicBool>,
}

impl Child {
    fn nudge(&self) {
        if !self.nudged.swap(true, Ordering::AcqRel) {
            let _ = self.actor.cast(actor::Msg::Look);
        }
    }
}

impl Actor for BulkSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let changed = arguments.shared.queue.outcomes_changed();
        let listening = [
            tokio::spawn(stir(changed.clone(), me.clone())),
            tokio::spawn(stir_late(changed, arguments.clone(), me.clone())),
        ];
        let mut state = State {
            arguments,
            jobs: HashMap::new(),
            incarnations: 0,
            draining: false,
            _listening: listening.map(AbortOnDropHandle::new),
        };
        for (slot, record, standing) in storage::load(&state.arguments.shared.store)? {
            let (id, is_finished) = (record.id, standing.status.is_finished());
            state.adopt(slot, &record, &standing);
            if !is_finished {
                state.start(&me, id).await;
            }
        }
        state.publish();
        state.clear_leftovers();
        me.send_interval(SWEEP, || Msg::Sweep);
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Create(job, rows, reply) => drop(reply.send(state.create(&me, *job, rows).await)),
            Msg::Command(id, command, reply) => state.command(&me, id, command, reply).await,
            Msg::Delete(id, reply) => state.delete(&me, id, Some(reply)),
            Msg::Drain(reply) => state.drain(reply),
            Msg::Stirred => {
                state.jobs.values().filter_map(|entry| entry.child.as_ref()).for_each(Child::nudge);
            }
            Msg::Late(ids) => {
                for id in ids {
                    state.start(&me, id).await;
                }
            }
            Msg::Idle(id, incarnation, done) => state.idle(id, incarnation, done),
            Msg::Start(id, incarnation) => {
                if state.jobs.get(&id).is_some_and(|entry| entry.incarnation == incarnation) {
                    state.start(&me, id).await;
                }
            }
            Msg::Deleted(id, deletion) => state.deleted(id, deletion),
            Msg::Sweep => state.sweep(&me),
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
            SupervisionEvent::ActorFailed(cell, cause) => state.lost(&me, cell.get_id(), &cause.to_string()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.lost(&me, cell.get_id(), reason.as_deref().unwrap_or("it stopped"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Tells running jobs of outcomes, at a bounded rate.
async fn stir(mut changed: watch::Receiver<u64>, supervisor: ActorRef<Msg>) {
    while changed.changed().await.is_ok() {
        let first = *changed.borrow_and_update();
        let enough = changed.wait_for(|count| count.saturating_sub(first) >= ENOUGH);
        let _ = tokio::time::timeout(GATHER, enough).await;
        if supervisor.cast(Msg::Stirred).is_err() {
            return;
        }
    }
}

/// Finds finished jobs of which something became known that they have not noted.
async fn stir_late(mut changed: watch::Receiver<u64>, arguments: Arguments, supervisor: ActorRef<Msg>) {
    let directory = arguments.publish.subscribe();
    loop {
        let (queue, known) = (arguments.shared.queue.clone(), directory.borrow().clone());
        let has_news = move |known: &&Arc<Known>| {
            let finished = known.progress.borrow().status.is_finished();
            finished && queue.outcomes(known.slot, 1).is_ok_and(|outcomes| !outcomes.is_empty())
        };
        let find = move || known.values().filter(has_news).map(|known| known.id).collect::<Vec<_>>();
        let late = tokio::task::spawn_blocking(find).await.unwrap_or_default();
        if !late.is_empty() && supervisor.cast(Msg::Late(late)).is_err() {
            return;
        }
        if changed.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(GATHER_LATE).await;
    }
}

impl State {
    fn publish(&self) {
        let shown = self.jobs.iter().filter(|(_, entry)| !entry.ending);
        let directory = shown.map(|(id, entry)| (*id, entry.known.clone())).collect();
        self.arguments.publish.send_replace(Arc::new(directory));
    }

    fn adopt(&mut self, slot: u16, record: &Record, standing: &Standing) {
        let progress = watch::Sender::new(standing.progress(record.total));
        let known = Arc::new(Known { id: record.id, slot, created_at: record.created_at, progress });
        let patience = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
        let entry = Entry {
            known,
            kind: record.kind,
            child: None,
            patience,
            incarnation: 0,
            asked: 0,
            ending: false,
        };
        self.jobs.insert(record.id, entry);
    }

    /// Deletes the files of jobs that came to no record, or lost theirs.
    fn clear_leftovers(&self) {
        let files = &self.arguments.shared.jobs;
        let known: HashSet<_> = self.jobs.keys().copied().collect();
        files.present().into_iter().filter(|id| !known.contains(id)).for_each(|id| files.remove(id));
    }

    async fn create(&mut self, me: &ActorRef<Msg>, job: NewJob, rows: Draft) -> Result<(), Error> {
        let Shared { options, jobs, around: Around { clock, store, devices, .. } } = &self.arguments.shared;
        let id = job.id;
        if self.jobs.contains_key(&id) {
            return Err(Error::Exists(id));
        }
        let is_active = |entry: &&Entry| !entry.known.progress.borrow().status.is_finished();
        if self.draining || self.jobs.values().filter(is_active).count() >= options.max_active {
            return Err(Error::TooManyJobs { limit: options.max_active });
        }
        if rows.total > options.max_rows {
            return Err(Error::TooManyRows { limit: options.max_rows });
        }
        if let Plan::Text(text) = &job.plan {
            rows.format.template(text)?;
        }
        let senders = devices::at_start(&job.senders, &devices())?;
        let now = clock.now();
        let record = Record::new(job, rows.format.clone(), rows.total, now);
        let standing = Standing::new(record.format.start(), senders, now);
        let place = jobs.clone();
        let kept = tokio::task::spawn_blocking(move || rows.become_job(&place, id)).await;
        kept.unwrap_or(Err(Error::Store(relevo_store::Error::Panicked)))?;
        let written = {
            let (record, standing) = (record.clone(), standing.clone());
            store.write(move |tx| storage::create(tx, &record, &standing)).await
        };
        let slot = match written {
            Ok(Some(slot)) => slot,
            Ok(None) | Err(_) => {
                jobs.remove(id);
                written?;
                return Err(Error::TooManyJobs { limit: usize::from(relevo_domain::BulkItem::JOBS) });
            }
        };
        tracing::info!(job = %id, rows = record.total, "a bulk job was created");
        self.adopt(slot, &record, &standing);
        self.publish();
        self.start(me, id).await;
        Ok(())
    }

    async fn command(&mut self, me: &ActorRef<Msg>, id: Uuid, command: Command, reply: Reply<()>) {
        if !self.jobs.contains_key(&id) {
            return drop(reply.send(Err(Error::Unknown(id))));
        }
        self.start(me, id).await;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let Some(child) = &entry.child else {
            return drop(reply.send(Err(Error::Gone(crate::supervision::Gone))));
        };
        entry.asked += 1;
        let _ = child.actor.cast(actor::Msg::Command(command, reply));
    }

    /// Starts a job's actor, unless it has one.
    async fn start(&mut self, me: &ActorRef<Msg>, id: Uuid) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if self.draining || entry.ending || entry.child.is_some() {
            return;
        }
        (entry.incarnation, entry.asked) = (incarnation, 0);
        let supervisor = me.clone();
        let idle = move |done| drop(supervisor.cast(Msg::Idle(id, incarnation, done)));
        let nudged = Arc::new(AtomicBool::new(false));
        let arguments = actor::Arguments {
            known: entry.known.clone(),
            shared: self.arguments.shared.clone(),
            nudged: nudged.clone(),
            idle: Box::new(idle),
        };
        match Actor::spawn_linked(None, JobActor, arguments, me.get_cell()).await {
            Ok((actor, _)) => entry.child = Some(Child { id: actor.get_id(), actor, nudged }),
            Err(error) => self.crashed(me, id, &error.to_string()),
        }
    }

    /// A job's actor has nothing to do; it ends, unless it was asked for something meanwhile.
    fn idle(&mut self, id: Uuid, incarnation: u64, done: u64) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if entry.incarnation == incarnation
            && entry.asked == done
            && let Some(child) = entry.child.take()
        {
            child.actor.stop(Some("the job has nothing to do".to_owned()));
        }
    }

    fn delete(&mut self, me: &ActorRef<Msg>, id: Uuid, reply: Option<Reply<()>>) {
        let found = self.jobs.get_mut(&id).filter(|entry| !entry.ending).ok_or(Error::Unknown(id));
        let refused = found.and_then(|entry| {
            let status = entry.known.progress.borrow().status;
            if status.is_finished() {
                entry.ending = true;
                Ok((entry.known.clone(), entry.child.take()))
            } else {
                Err(Error::State { status, why: "cancel it before it is deleted" })
            }
        });
        let (known, child) = match refused {
            Ok(found) => found,
            Err(error) => return reply.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
        };
        self.publish();
        let (shared, supervisor) = (self.arguments.shared.clone(), me.clone());
        tokio::spawn(async move {
            if let Some(child) = child {
                let _ = child.actor.stop_and_wait(Some("the job is deleted".to_owned()), None).await;
            }
            let outcome = deletion::delete(&shared, &known).await;
            let _ = supervisor.cast(Msg::Deleted(id, Deletion { outcome, reply }));
        });
    }

    fn deleted(&mut self, id: Uuid, Deletion { outcome, reply }: Deletion) {
        match &outcome {
            Ok(()) => drop(self.jobs.remove(&id)),
            Err(error) => {
                tracing::error!(job = %id, %error, "a bulk job could not be deleted");
                self.jobs.get_mut(&id).into_iter().for_each(|entry| entry.ending = false);
                self.publish();
            }
        }
        reply.into_iter().for_each(|reply| drop(reply.send(outcome.clone())));
    }

    /// Deletes what was kept long enough.
    fn sweep(&mut self, me: &ActorRef<Msg>) {
        let Shared { options, around, .. } = &self.arguments.shared;
        let now = around.clock.now();
        let is_old = |entry: &Entry| {
            let keep = match entry.kind {
                Kind::File => options.retention,
                Kind::List => options.broadcast_retention,
            };
            let progress = entry.known.progress.borrow();
            progress.status.is_finished() && progress.ended_at.is_some_and(|ended| ended + keep <= now)
        };
        let old: Vec<_> = self.jobs.iter().filter(|(_, entry)| is_old(entry)).map(|(id, _)| *id).collect();
        for id in old {
            self.delete(me, id, None);
        }
    }

    /// A child's end that nobody asked for.
    fn lost(&mut self, me: &ActorRef<Msg>, child: ActorId, cause: &str) {
        let is_child = |entry: &Entry| entry.child.as_ref().is_some_and(|known| known.id == child);
        let found = self.jobs.iter().find(|(_, entry)| is_child(entry)).map(|(id, _)| *id);
        if let Some(id) = found {
            self.crashed(me, id, cause);
        }
    }

    fn crashed(&mut self, me: &ActorRef<Msg>, id: Uuid, cause: &str) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        entry.child = None;
        let pause = entry.patience.crashed().unwrap_or(RESTART_MAX_DELAY);
        tracing::error!(job = %id, cause, ?pause, "a bulk job's actor ended and will be replaced");
        let incarnation = entry.incarnation;
        me.send_after(pause, move || Msg::Start(id, incarnation));
    }

    fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let children: Vec<_> = self.jobs.values_mut().filter_map(|entry| entry.child.take()).collect();
        tokio::spawn(async move {
            let ends = children.iter().map(|child| child.actor.stop_and_wait(None, None));
            futures_util::future::join_all(ends).await;
            let _ = reply.send(());
        });
    }
}
