//! The supervisor of bulk jobs: creates and deletes jobs, starts and restarts their actors, and passes commands and signals
//! to them. It publishes the directory of jobs.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::supervisor::{ActorSlot, ActorUnavailable, Child, ChildExit, Incarnation, RestartPolicy};

use super::actor::{self, JobActor};
use super::commands::JobCommand;
use super::context::{Dependencies, JobContext};
use super::directory::{JobDirectory, JobEntry};
use super::drafts::JobDraft;
use super::folders::JobFolders;
use super::handle::Handle;
use super::job::{JobKind, NewJob, Plan};
use super::messages::{Deletion, Msg, Reply};
use super::provider_id_index::bulk_row_lookup;
use super::storage::{self, Checkpoint, JobRecord};
use super::{Error, Options, senders};

/// Delay before the first restart of a crashed actor. Restarts are not limited: every accepted job must end.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// Maximum delay before a restart.
const RESTART_MAX_DELAY: Duration = Duration::from_secs(30);

/// Outcomes that arrive within this time are recorded together.
const OUTCOME_BATCH_WAIT: Duration = Duration::from_millis(100);
/// Number of outcomes that end the wait early, so that a batch stays small.
const OUTCOME_BATCH_SIZE: u64 = 64;

/// Interval at which ended jobs are checked for late outcomes, while outcomes arrive.
const LATE_OUTCOME_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which jobs after their retention are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// The supervisor of the actors of all jobs.
pub struct BulkSupervisor;

/// The arguments of the supervisor.
#[derive(Clone)]
pub struct Arguments {
    context: JobContext,
    publish: Arc<watch::Sender<Arc<JobDirectory>>>,
}

impl Arguments {
    /// The arguments of the supervisor, and the handle of the jobs. `data` is the data folder.
    ///
    /// # Errors
    ///
    /// The folder `jobs` of the data folder cannot be created or read.
    pub fn new(
        options: Options,
        data: &Path,
        dependencies: Dependencies,
        slot: ActorSlot<Msg>,
    ) -> Result<(Self, Handle), Error> {
        let folders = JobFolders::open(data)?;
        let publish = Arc::new(watch::Sender::new(Arc::new(JobDirectory::new())));
        let handle = Handle {
            slot,
            directory: publish.subscribe(),
            store: dependencies.store.clone(),
            folders: folders.clone(),
            max_rows: options.max_rows,
            instances: dependencies.instances.clone(),
        };
        dependencies.queue.set_bulk_row_lookup(bulk_row_lookup(publish.subscribe(), folders.clone()));
        let context = JobContext { dependencies, folders, options: Arc::new(options) };
        Ok((Self { context, publish }, handle))
    }
}

/// The state of the supervisor.
pub struct State {
    arguments: Arguments,
    jobs: HashMap<Uuid, SupervisedJob>,
    draining: bool,
    /// Watch for outcomes; aborted with the supervisor.
    _outcome_watchers: [AbortOnDropHandle<()>; 2],
    _sweep_timer: AbortOnDropHandle<()>,
}

/// A job and its actor.
struct SupervisedJob {
    job: Arc<JobEntry>,
    kind: JobKind,
    /// Has no actor while the job is idle, its actor waits for a restart, or the job is being deleted.
    child: Child<actor::Msg>,
    /// Whether a [`Poll`](actor::Msg::Poll) is in the mailbox of the running actor.
    poll_pending: Arc<AtomicBool>,
    /// Number of commands that were sent to this incarnation.
    commands_sent: u64,
    /// The job is being deleted; no actor is started.
    deleting: bool,
}

impl SupervisedJob {
    /// Sends a poll to the running actor, unless one is pending.
    fn poll(&self) {
        if let Some(actor) = self.child.actor()
            && !self.poll_pending.swap(true, Ordering::AcqRel)
        {
            let _ = actor.cast(actor::Msg::Poll);
        }
    }
}

impl Actor for BulkSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let changed = arguments.context.queue.subscribe_outcomes();
        let watchers = [
            tokio::spawn(watch_outcomes(changed.clone(), me.clone())),
            tokio::spawn(watch_late_outcomes(changed, arguments.clone(), me.clone())),
        ];
        let mut state = State {
            arguments,
            jobs: HashMap::new(),
            draining: false,
            _outcome_watchers: watchers.map(AbortOnDropHandle::new),
            _sweep_timer: AbortOnDropHandle::new(me.send_interval(SWEEP_INTERVAL, || Msg::Sweep)),
        };
        for (slot, record, checkpoint) in storage::load_all(&state.arguments.context.store)? {
            let (id, is_finished) = (record.id, checkpoint.status.is_finished());
            state.register(slot, &record, &checkpoint);
            if !is_finished {
                state.start(&me, id).await;
            }
        }
        state.publish();
        state.delete_orphan_folders();
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
                state.jobs.values().for_each(SupervisedJob::poll);
            }
            Msg::LateOutcomes(ids) => {
                for id in ids {
                    state.start(&me, id).await;
                }
            }
            Msg::Idle { job, incarnation, commands_done } => {
                state.stop_if_idle(job, incarnation, commands_done);
            }
            Msg::Start(id, incarnation) => {
                if state.jobs.get(&id).is_some_and(|entry| entry.child.is_current(incarnation)) {
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
        if let Some(exit) = ChildExit::from_event(event) {
            state.on_child_exit(&me, exit);
        }
        Ok(())
    }
}

/// Signals outcomes to the supervisor, at a bounded rate.
async fn watch_outcomes(mut changed: watch::Receiver<u64>, supervisor: ActorRef<Msg>) {
    while changed.changed().await.is_ok() {
        let first = *changed.borrow_and_update();
        let batch_is_full = changed.wait_for(|count| count.saturating_sub(first) >= OUTCOME_BATCH_SIZE);
        let _ = tokio::time::timeout(OUTCOME_BATCH_WAIT, batch_is_full).await;
        if supervisor.cast(Msg::OutcomesAvailable).is_err() {
            return;
        }
    }
}

/// Finds ended jobs with outcomes that they have not recorded, and reports them to the supervisor.
async fn watch_late_outcomes(
    mut changed: watch::Receiver<u64>,
    arguments: Arguments,
    supervisor: ActorRef<Msg>,
) {
    let directory = arguments.publish.subscribe();
    loop {
        let (queue, jobs) = (arguments.context.queue.clone(), directory.borrow().clone());
        let has_outcomes = move |job: &&Arc<JobEntry>| {
            let is_finished = job.progress.borrow().status.is_finished();
            is_finished && queue.outcomes(job.slot, 1).is_ok_and(|outcomes| !outcomes.is_empty())
        };
        let find = move || jobs.values().filter(has_outcomes).map(|job| job.id).collect::<Vec<_>>();
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
        let visible = self.jobs.iter().filter(|(_, entry)| !entry.deleting);
        let directory = visible.map(|(id, entry)| (*id, entry.job.clone())).collect();
        self.arguments.publish.send_replace(Arc::new(directory));
    }

    fn register(&mut self, slot: u16, record: &JobRecord, checkpoint: &Checkpoint) {
        let progress = watch::Sender::new(checkpoint.progress(record.total));
        let job = Arc::new(JobEntry { id: record.id, slot, created_at: record.created_at, progress });
        let restarts = RestartPolicy::new(RESTART_DELAY, RESTART_MAX_DELAY, u32::MAX);
        let entry = SupervisedJob {
            job,
            kind: record.kind,
            child: Child::new(restarts),
            poll_pending: Arc::default(),
            commands_sent: 0,
            deleting: false,
        };
        self.jobs.insert(record.id, entry);
    }

    /// Deletes folders without a record: a crash interrupted the creation or the deletion of their jobs.
    fn delete_orphan_folders(&self) {
        let folders = &self.arguments.context.folders;
        let known: HashSet<_> = self.jobs.keys().copied().collect();
        for id in folders.existing_ids() {
            if !known.contains(&id) {
                folders.remove(id);
            }
        }
    }

    async fn create(&mut self, me: &ActorRef<Msg>, job: NewJob, rows: JobDraft) -> Result<(), Error> {
        let JobContext { options, folders, dependencies } = self.arguments.context.clone();
        let Dependencies { clock, store, instances, .. } = dependencies;
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
        let listed = instances();
        let senders = senders::initial_senders(&job.senders, &listed)?;
        // Said at once. The actor repeats it in its first round, unless that is later.
        let waits_for = senders::blocked_by(&senders, &listed).filter(|_| job.send_at.is_none());
        let now = clock.now();
        let record = JobRecord::new(job, rows.format.clone(), rows.total, rows.sha256, now);
        let checkpoint = Checkpoint::new(record.format.start(), senders, now);
        let target = folders.clone();
        let persisted = tokio::task::spawn_blocking(move || rows.persist(&target, id)).await;
        persisted.unwrap_or(Err(Error::Store(relevo_store::Error::Panicked)))?;
        let written = {
            let (record, checkpoint) = (record.clone(), checkpoint.clone());
            store.write(move |tx| storage::create(tx, &record, &checkpoint)).await
        };
        let slot = match written {
            Ok(Some(slot)) => slot,
            Ok(None) => {
                folders.remove(id);
                return Err(Error::TooManyJobs { limit: usize::from(relevo_domain::BulkItem::JOBS) });
            }
            Err(error) => {
                folders.remove(id);
                return Err(error.into());
            }
        };
        tracing::info!(job = %id, rows = record.total, "bulk job created");
        self.register(slot, &record, &checkpoint);
        if let Some(entry) = self.jobs.get(&id) {
            entry.job.progress.send_modify(|progress| progress.error = waits_for);
        }
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
        let Some(actor) = entry.child.actor() else {
            return drop(reply.send(Err(Error::Gone(ActorUnavailable))));
        };
        entry.commands_sent += 1;
        let _ = actor.cast(actor::Msg::Command(command, reply));
    }

    /// Starts a job's actor, unless it runs.
    async fn start(&mut self, me: &ActorRef<Msg>, id: Uuid) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if self.draining || entry.deleting || entry.child.actor().is_some() {
            return;
        }
        let incarnation = entry.child.begin();
        entry.commands_sent = 0;
        entry.poll_pending = Arc::default();
        let supervisor = me.clone();
        let on_idle = move |commands_done| {
            let _ = supervisor.cast(Msg::Idle { job: id, incarnation, commands_done });
        };
        let arguments = actor::Arguments {
            job: entry.job.clone(),
            context: self.arguments.context.clone(),
            poll_pending: entry.poll_pending.clone(),
            on_idle: Box::new(on_idle),
        };
        if let Err(error) = entry.child.spawn(JobActor, arguments, me.get_cell()).await {
            self.schedule_restart(me, id, &error.to_string());
        }
    }

    /// Stops an idle actor, unless a command was sent to it that it has not processed.
    fn stop_if_idle(&mut self, id: Uuid, incarnation: Incarnation, commands_done: u64) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if entry.child.is_running(incarnation) && entry.commands_sent == commands_done {
            entry.child.stop("the job is idle");
        }
    }

    /// Begins to delete an ended job. `reply` is `None` for a deletion by the retention.
    fn delete(&mut self, me: &ActorRef<Msg>, id: Uuid, reply: Option<Reply<()>>) {
        let (job, actor) = match self.mark_deleting(id) {
            Ok(found) => found,
            Err(error) => {
                if let Some(reply) = reply {
                    let _ = reply.send(Err(error));
                }
                return;
            }
        };
        self.publish();
        let (context, supervisor) = (self.arguments.context.clone(), me.clone());
        tokio::spawn(async move {
            if let Some(actor) = actor {
                let _ = actor.stop_and_wait(Some("the job is deleted".to_owned()), None).await;
            }
            let outcome = delete_job(&context, &job).await;
            let _ = supervisor.cast(Msg::Deleted(id, Deletion { outcome, reply }));
        });
    }

    /// Marks an ended job as being deleted; returns its entry and its actor.
    fn mark_deleting(&mut self, id: Uuid) -> Result<(Arc<JobEntry>, Option<ActorRef<actor::Msg>>), Error> {
        let entry = self.jobs.get_mut(&id).filter(|entry| !entry.deleting).ok_or(Error::Unknown(id))?;
        let status = entry.job.progress.borrow().status;
        if !status.is_finished() {
            return Err(Error::State { status, why: "cancel it before you delete it" });
        }
        entry.deleting = true;
        Ok((entry.job.clone(), entry.child.release()))
    }

    fn finish_deletion(&mut self, id: Uuid, Deletion { outcome, reply }: Deletion) {
        match &outcome {
            Ok(()) => {
                self.jobs.remove(&id);
            }
            Err(error) => {
                tracing::error!(job = %id, %error, "bulk job deletion failed");
                if let Some(entry) = self.jobs.get_mut(&id) {
                    entry.deleting = false;
                }
                self.publish();
            }
        }
        if let Some(reply) = reply {
            let _ = reply.send(outcome);
        }
    }

    /// Deletes jobs after their retention.
    fn sweep(&mut self, me: &ActorRef<Msg>) {
        let options = &self.arguments.context.options;
        let now = self.arguments.context.clock.now();
        let is_expired = |entry: &SupervisedJob| {
            let retention = match entry.kind {
                JobKind::File => options.retention,
                JobKind::List => options.broadcast_retention,
            };
            let progress = entry.job.progress.borrow();
            progress.status.is_finished() && progress.ended_at.is_some_and(|ended| ended + retention <= now)
        };
        let expired: Vec<_> =
            self.jobs.iter().filter(|(_, entry)| is_expired(entry)).map(|(id, _)| *id).collect();
        for id in expired {
            self.delete(me, id, None);
        }
    }

    /// Handles the end of an actor. Actors that the supervisor stopped are not children any more.
    fn on_child_exit(&mut self, me: &ActorRef<Msg>, exit: ChildExit) {
        let found = self.jobs.iter().find(|(_, entry)| entry.child.is(exit.actor));
        if let Some((&id, _)) = found {
            self.schedule_restart(me, id, &exit.reason.text("stopped"));
        }
    }

    fn schedule_restart(&mut self, me: &ActorRef<Msg>, id: Uuid, cause: &str) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let delay = entry.child.crashed().delay_or(RESTART_MAX_DELAY);
        tracing::error!(job = %id, cause, ?delay, "bulk job actor stopped; restarting");
        entry.child.restart_after(delay, me, move |incarnation| Msg::Start(id, incarnation));
    }

    fn drain(&mut self, reply: RpcReplyPort<()>) {
        self.draining = true;
        let actors: Vec<_> = self.jobs.values_mut().filter_map(|entry| entry.child.release()).collect();
        tokio::spawn(async move {
            let ends = actors.iter().map(|actor| actor.stop_and_wait(None, None));
            futures_util::future::join_all(ends).await;
            let _ = reply.send(());
        });
    }
}

/// Deletes a job whose actor has stopped: its slot in the queue, its record, its files. Each step can be repeated after a
/// crash. Without its record, the job is gone; leftover files are deleted at the next start.
async fn delete_job(context: &JobContext, job: &JobEntry) -> Result<(), Error> {
    let slot = job.slot;
    context.queue.delete_job(slot).await?;
    context.store.write(move |tx| storage::delete(tx, slot)).await?;
    let (folders, id) = (context.folders.clone(), job.id);
    let _ = tokio::task::spawn_blocking(move || folders.remove(id)).await;
    Ok(())
}
