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
use crate::supervisor::{ActorSlot, RestartPolicy};
use relevo_clock::Clock;
use relevo_domain::AmbiguousPolicy;
use relevo_store::Store;

use super::actor::{self, JobActor};
use super::folders::{JobDraft, JobFolders};
use super::handle::{JobDirectory, JobEntry, provider_id_lookup};
use super::job::{JobKind, NewJob, Plan};
use super::job_files::SuppressionCheck;
use super::senders::InstanceLister;
use super::storage::{self, Checkpoint, JobRecord};
use super::{Error, Handle, Options, deletion, senders};

type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// The pauses before a crashed actor is replaced. It is replaced for ever: a job is owed its end.
const RESTART_DELAY: Duration = Duration::from_millis(200);
const RESTART_MAX_DELAY: Duration = Duration::from_secs(30);

/// Outcomes that arrive within this time are noted together, unless so many arrive: the work that they make comes in
/// small pieces then.
const OUTCOME_BATCH_WAIT: Duration = Duration::from_millis(100);
const OUTCOME_BATCH_SIZE: u64 = 64;

/// How often finished jobs are looked at, while outcomes arrive.
const LATE_OUTCOME_INTERVAL: Duration = Duration::from_secs(1);

/// How often jobs are looked for that were kept long enough.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// What the supervisor is told.
pub enum Msg {
    /// From handles. When they are answered, what they asked for is durable.
    Create(Box<NewJob>, JobDraft, Reply<()>),
    Command(Uuid, JobCommand, Reply<()>),
    Delete(Uuid, Reply<()>),
    /// From the node as it stops: answer when no job does anything any more.
    Drain(RpcReplyPort<()>),
    /// From its own tasks: running jobs may have outcomes to note; these finished ones have.
    OutcomesAvailable,
    LateOutcomes(Vec<Uuid>),
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
pub enum JobCommand {
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
pub struct Dependencies {
    pub store: Store,
    pub clock: Clock,
    pub queue: queue::Handle,
    pub instances: InstanceLister,
    pub is_suppressed: SuppressionCheck,
    /// What becomes of rows whose outcome stays unknown, where their instance says nothing.
    pub on_ambiguous: AmbiguousPolicy,
}

/// What every job's actor needs.
#[derive(Clone)]
pub(super) struct JobContext {
    dependencies: Dependencies,
    pub folders: JobFolders,
    pub options: Arc<Options>,
}

impl Deref for JobContext {
    type Target = Dependencies;
    fn deref(&self) -> &Dependencies {
        &self.dependencies
    }
}

/// The parent of every job's actor.
pub struct BulkSupervisor;

#[derive(Clone)]
pub struct Arguments {
    pub(super) shared: JobContext,
    publish: Arc<watch::Sender<Arc<JobDirectory>>>,
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
        around: Dependencies,
        slot: ActorSlot<Msg>,
    ) -> Result<(Self, Handle), Error> {
        let jobs = JobFolders::open(data)?;
        let publish = Arc::new(watch::Sender::new(Arc::new(JobDirectory::new())));
        let handle = Handle {
            slot,
            directory: publish.subscribe(),
            store: around.store.clone(),
            folders: jobs.clone(),
            max_rows: options.max_rows,
            instances: around.instances.clone(),
        };
        around.queue.set_bulk_row_lookup(provider_id_lookup(publish.subscribe(), jobs.clone()));
        let shared = JobContext { dependencies: around, folders: jobs, options: Arc::new(options) };
        Ok((Self { shared, publish }, handle))
    }
}

pub struct State {
    arguments: Arguments,
    jobs: HashMap<Uuid, SupervisedJob>,
    /// Grows with every actor that is started or stopped; tells an incarnation from those before it.
    incarnations: u64,
    draining: bool,
    /// Those who listen for outcomes; they end with the supervisor.
    _outcome_watchers: [AbortOnDropHandle<()>; 2],
}

struct SupervisedJob {
    job: Arc<JobEntry>,
    kind: JobKind,
    child: Option<JobChild>,
    restart_policy: RestartPolicy,
    incarnation: u64,
    /// Commands that were passed on to this incarnation.
    commands_sent: u64,
    /// It is being deleted: nothing is started any more.
    deleting: bool,
}

struct JobChild {
    actor: ActorRef<actor::Msg>,
    id: ActorId,
    /// A look is on its way to it.
    poll_pending: Arc<AtomicBool>,
}

impl JobChild {
    fn poll(&self) {
        if !self.poll_pending.swap(true, Ordering::AcqRel) {
            let _ = self.actor.cast(actor::Msg::Poll);
        }
    }
}

impl Actor for BulkSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let changed = arguments.shared.queue.subscribe_outcomes();
        let listening = [
            tokio::spawn(watch_outcomes(changed.clone(), me.clone())),
            tokio::spawn(watch_late_outcomes(changed, arguments.clone(), me.clone())),
        ];
        let mut state = State {
            arguments,
            jobs: HashMap::new(),
            incarnations: 0,
            draining: false,
            _outcome_watchers: listening.map(AbortOnDropHandle::new),
        };
        for (slot, record, standing) in storage::load_all(&state.arguments.shared.store)? {
            let (id, is_finished) = (record.id, standing.status.is_finished());
            state.register(slot, &record, &standing);
            if !is_finished {
                state.start(&me, id).await;
            }
        }
        state.publish();
        state.delete_orphan_folders();
        me.send_interval(SWEEP_INTERVAL, || Msg::Sweep);
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
            Msg::OutcomesAvailable => {
                state.jobs.values().filter_map(|entry| entry.child.as_ref()).for_each(JobChild::poll);
            }
            Msg::LateOutcomes(ids) => {
                for id in ids {
                    state.start(&me, id).await;
                }
            }
            Msg::Idle(id, incarnation, done) => state.stop_if_idle(id, incarnation, done),
            Msg::Start(id, incarnation) => {
                if state.jobs.get(&id).is_some_and(|entry| entry.incarnation == incarnation) {
                    state.start(&me, id).await;
                }
            }
            Msg::Deleted(id, deletion) => state.finish_deletion(id, deletion),
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

/// Tells running jobs of outcomes, at a bounded rate.
async fn watch_outcomes(mut changed: watch::Receiver<u64>, supervisor: ActorRef<Msg>) {
    while changed.changed().await.is_ok() {
        let first = *changed.borrow_and_update();
        let enough = changed.wait_for(|count| count.saturating_sub(first) >= OUTCOME_BATCH_SIZE);
        let _ = tokio::time::timeout(OUTCOME_BATCH_WAIT, enough).await;
        if supervisor.cast(Msg::OutcomesAvailable).is_err() {
            return;
        }
    }
}

/// Finds finished jobs of which something became known that they have not noted.
async fn watch_late_outcomes(
    mut changed: watch::Receiver<u64>,
    arguments: Arguments,
    supervisor: ActorRef<Msg>,
) {
    let directory = arguments.publish.subscribe();
    loop {
        let (queue, known) = (arguments.shared.queue.clone(), directory.borrow().clone());
        let has_news = move |known: &&Arc<JobEntry>| {
            let finished = known.progress.borrow().status.is_finished();
            finished && queue.outcomes(known.slot, 1).is_ok_and(|outcomes| !outcomes.is_empty())
        };
        let find = move || known.values().filter(has_news).map(|known| known.id).collect::<Vec<_>>();
        let late = tokio::task::spawn_blocking(find).await.unwrap_or_default();
        if !late.is_empty() && supervisor.cast(Msg::LateOutcomes(late)).is_err() {
            return;
        }
        if changed.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(LATE_OUTCOME_INTERVAL).await;
    }
}

impl State {
    fn publish(&self) {
        let shown = self.jobs.iter().filter(|(_, entry)| !entry.deleting);
        let directory = shown.map(|(id, entry)| (*id, entry.job.clone())).collect();
        self.arguments.publish.send_replace(Arc::new(directory));
    }

    fn register(&mut self, slot: u16, record: &JobRecord, standing: &Checkpoint) {
        let progress = watch::Sender::new(standing.progress(record.total));
        let known = Arc::new(JobEntry { id: record.id, slot, created_at: record.created_at, progress });
        let patience = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
        let entry = SupervisedJob {
            job: known,
            kind: record.kind,
            child: None,
            restart_policy: patience,
            incarnation: 0,
            commands_sent: 0,
            deleting: false,
        };
        self.jobs.insert(record.id, entry);
    }

    /// Deletes the files of jobs that came to no record, or lost theirs.
    fn delete_orphan_folders(&self) {
        let files = &self.arguments.shared.folders;
        let known: HashSet<_> = self.jobs.keys().copied().collect();
        files.existing_ids().into_iter().filter(|id| !known.contains(id)).for_each(|id| files.remove(id));
    }

    async fn create(&mut self, me: &ActorRef<Msg>, job: NewJob, rows: JobDraft) -> Result<(), Error> {
        let JobContext {
            options,
            folders: jobs,
            dependencies: Dependencies { clock, store, instances: devices, .. },
        } = &self.arguments.shared;
        let id = job.id;
        if self.jobs.contains_key(&id) {
            return Err(Error::Exists(id));
        }
        let is_active = |entry: &&SupervisedJob| !entry.job.progress.borrow().status.is_finished();
        if self.draining || self.jobs.values().filter(is_active).count() >= options.max_active {
            return Err(Error::TooManyJobs { limit: options.max_active });
        }
        if rows.total > options.max_rows {
            return Err(Error::TooManyRows { limit: options.max_rows });
        }
        if let Plan::Text(text) = &job.plan {
            rows.format.template(text)?;
        }
        let senders = senders::initial_senders(&job.senders, &devices())?;
        let now = clock.now();
        let record = JobRecord::new(job, rows.format.clone(), rows.total, now);
        let standing = Checkpoint::new(record.format.start(), senders, now);
        let place = jobs.clone();
        let kept = tokio::task::spawn_blocking(move || rows.persist(&place, id)).await;
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
        self.register(slot, &record, &standing);
        self.publish();
        self.start(me, id).await;
        Ok(())
    }

    async fn command(&mut self, me: &ActorRef<Msg>, id: Uuid, command: JobCommand, reply: Reply<()>) {
        if !self.jobs.contains_key(&id) {
            return drop(reply.send(Err(Error::Unknown(id))));
        }
        self.start(me, id).await;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let Some(child) = &entry.child else {
            return drop(reply.send(Err(Error::Gone(crate::supervisor::ActorUnavailable))));
        };
        entry.commands_sent += 1;
        let _ = child.actor.cast(actor::Msg::Command(command, reply));
    }

    /// Starts a job's actor, unless it has one.
    async fn start(&mut self, me: &ActorRef<Msg>, id: Uuid) {
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if self.draining || entry.deleting || entry.child.is_some() {
            return;
        }
        (entry.incarnation, entry.commands_sent) = (incarnation, 0);
        let supervisor = me.clone();
        let idle = move |done| drop(supervisor.cast(Msg::Idle(id, incarnation, done)));
        let nudged = Arc::new(AtomicBool::new(false));
        let arguments = actor::Arguments {
            job: entry.job.clone(),
            shared: self.arguments.shared.clone(),
            poll_pending: nudged.clone(),
            on_idle: Box::new(idle),
        };
        match Actor::spawn_linked(None, JobActor, arguments, me.get_cell()).await {
            Ok((actor, _)) => {
                entry.child = Some(JobChild { id: actor.get_id(), actor, poll_pending: nudged })
            }
            Err(error) => self.schedule_restart(me, id, &error.to_string()),
        }
    }

    /// A job's actor has nothing to do; it ends, unless it was asked for something meanwhile.
    fn stop_if_idle(&mut self, id: Uuid, incarnation: u64, done: u64) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if entry.incarnation == incarnation
            && entry.commands_sent == done
            && let Some(child) = entry.child.take()
        {
            child.actor.stop(Some("the job has nothing to do".to_owned()));
        }
    }

    fn delete(&mut self, me: &ActorRef<Msg>, id: Uuid, reply: Option<Reply<()>>) {
        let found = self.jobs.get_mut(&id).filter(|entry| !entry.deleting).ok_or(Error::Unknown(id));
        let refused = found.and_then(|entry| {
            let status = entry.job.progress.borrow().status;
            if status.is_finished() {
                entry.deleting = true;
                Ok((entry.job.clone(), entry.child.take()))
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

    fn finish_deletion(&mut self, id: Uuid, Deletion { outcome, reply }: Deletion) {
        match &outcome {
            Ok(()) => drop(self.jobs.remove(&id)),
            Err(error) => {
                tracing::error!(job = %id, %error, "a bulk job could not be deleted");
                self.jobs.get_mut(&id).into_iter().for_each(|entry| entry.deleting = false);
                self.publish();
            }
        }
        reply.into_iter().for_each(|reply| drop(reply.send(outcome.clone())));
    }

    /// Deletes what was kept long enough.
    fn sweep(&mut self, me: &ActorRef<Msg>) {
        let JobContext { options, dependencies: around, .. } = &self.arguments.shared;
        let now = around.clock.now();
        let is_old = |entry: &SupervisedJob| {
            let keep = match entry.kind {
                JobKind::File => options.retention,
                JobKind::List => options.broadcast_retention,
            };
            let progress = entry.job.progress.borrow();
            progress.status.is_finished() && progress.ended_at.is_some_and(|ended| ended + keep <= now)
        };
        let old: Vec<_> = self.jobs.iter().filter(|(_, entry)| is_old(entry)).map(|(id, _)| *id).collect();
        for id in old {
            self.delete(me, id, None);
        }
    }

    /// A child's end that nobody asked for.
    fn on_child_exit(&mut self, me: &ActorRef<Msg>, child: ActorId, cause: &str) {
        let is_child = |entry: &SupervisedJob| entry.child.as_ref().is_some_and(|known| known.id == child);
        let found = self.jobs.iter().find(|(_, entry)| is_child(entry)).map(|(id, _)| *id);
        if let Some(id) = found {
            self.schedule_restart(me, id, cause);
        }
    }

    fn schedule_restart(&mut self, me: &ActorRef<Msg>, id: Uuid, cause: &str) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        entry.child = None;
        let pause = entry.restart_policy.record_crash().unwrap_or(RESTART_MAX_DELAY);
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
