//! The actor of one job: executes what the [`planner`] decides, records outcomes, and carries out commands.
//!
//! Only the actor writes the job's files and its checkpoint. It can load its whole state again: an error ends it, and the
//! supervisor starts a successor from the files and the checkpoint.

mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;

use crate::queue::ItemOutcome;
use relevo_domain::{MessageId, Timestamp};
use relevo_store as store;

use super::Error;
use super::commands::JobCommand;
use super::context::JobContext;
use super::directory::JobEntry;
use super::job::LastRow;
use super::job_files::JobFiles;
use super::planner::{self, CONTENDED_PAGE, OpenRow, Planner, UNCONTENDED_PAGE};
use super::storage::{self, Checkpoint, JobRecord};

/// How long the actor of an ended job waits for late outcomes before it is idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A message to the actor.
pub(super) enum Msg {
    /// From the supervisor and the actor's own timer: record outcomes and run a round of the planner.
    Poll,
    /// From a handle: carry out a command. Its effect is durable when this is answered.
    Command(JobCommand, RpcReplyPort<Result<(), Error>>),
}

/// The actor of one job.
pub(super) struct JobActor;

/// The arguments of the actor.
pub(super) struct Arguments {
    pub job: Arc<JobEntry>,
    pub context: JobContext,
    /// Whether a [`Msg::Poll`] of the supervisor is in the mailbox.
    pub poll_pending: Arc<AtomicBool>,
    /// Reports to the supervisor that the actor is idle, with the number of commands that it has processed.
    pub on_idle: Box<dyn Fn(u64) + Send + Sync>,
}

/// The state of the actor.
pub(super) struct State {
    me: ActorRef<Msg>,
    arguments: Arguments,
    record: Arc<JobRecord>,
    /// The checkpoint, as it was committed last.
    checkpoint: Checkpoint,
    planner: Planner,
    /// `None` before the first message, and while a blocking thread uses the files.
    files: Option<JobFiles>,
    /// The rows that are in the queue.
    open_rows: BTreeMap<u32, OpenRow>,
    last_row: Option<LastRow>,
    /// What the job waits for, as the API shows it.
    waits_for: Option<String>,
    /// Number of processed commands.
    commands_done: u64,
    /// Since when an ended job has no late outcomes.
    idle_since: Option<Timestamp>,
    timer: Option<JoinHandle<()>>,
}

/// How many outcomes were recorded.
#[derive(Debug, PartialEq)]
enum OutcomePage {
    Empty,
    /// All that were there. A later outcome causes another poll.
    Partial,
    /// A full page; there may be more.
    Full,
}

impl Actor for JobActor {
    type Msg = Msg;
    type State = Option<State>;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<Option<State>, ActorProcessingErr> {
        // The files are loaded with the first message: it takes time for a large job, and the supervisor waits for this.
        me.cast(Msg::Poll)?;
        let slot = arguments.job.slot;
        let store = &arguments.context.store;
        let (Some(record), Some(checkpoint)) =
            (storage::load_record(store, slot)?, storage::load_checkpoint(store, slot)?)
        else {
            return Err("the record of the job does not exist".into());
        };
        Ok(Some(State {
            me,
            arguments,
            record: Arc::new(record),
            checkpoint,
            planner: Planner::default(),
            files: None,
            open_rows: BTreeMap::new(),
            last_row: None,
            waits_for: None,
            commands_done: 0,
            idle_since: None,
            timer: None,
        }))
    }

    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        state: &mut Option<State>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(state) = state else { return Ok(()) };
        state.load().await?;
        match message {
            Msg::Poll => {
                state.arguments.poll_pending.store(false, Ordering::Release);
                state.poll().await?;
            }
            Msg::Command(command, reply) => {
                state.commands_done += 1;
                let outcome = state.command(command).await;
                let is_answer = matches!(outcome, Ok(()) | Err(Error::State { .. }));
                // The caller reads the progress when it receives the answer.
                state.publish();
                let _ = reply.send(outcome.clone());
                if !is_answer {
                    outcome?;
                }
                state.poll().await?;
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, state: &mut Option<State>) -> Result<(), ActorProcessingErr> {
        if let Some(timer) = state.as_ref().and_then(|state| state.timer.as_ref()) {
            timer.abort();
        }
        Ok(())
    }
}

/// Loading and the loop.
impl State {
    fn slot(&self) -> u16 {
        self.arguments.job.slot
    }

    fn now(&self) -> Timestamp {
        self.arguments.context.clock.now()
    }

    fn page_size(&self) -> usize {
        planner::page_size(self.arguments.context.store.is_contended())
    }

    /// Opens the files, counts the rows, and finds the messages of the open rows in the queue.
    async fn load(&mut self) -> Result<(), Error> {
        if self.files.is_some() {
            return Ok(());
        }
        let folder = self.arguments.context.folders.folder(self.record.id);
        let (record, checkpoint) = (self.record.clone(), self.checkpoint.clone());
        let opened = tokio::task::spawn_blocking(move || JobFiles::open(record, folder, &checkpoint)).await;
        let (files, summary) = opened.unwrap_or(Err(Error::Store(store::Error::Panicked)))?;
        self.checkpoint.counts = summary.counts;
        self.checkpoint.errors_end = files.errors_end();
        self.open_rows = summary.open_rows.into_iter().map(|row| (row, OpenRow::default())).collect();
        for row in &self.checkpoint.returned {
            self.open_rows.remove(row);
        }
        if !summary.uncommitted_rows.is_empty() {
            let mut next = self.checkpoint.clone();
            next.return_rows(summary.uncommitted_rows);
            self.commit(next).await?;
        }
        self.files = Some(files);
        if self.open_rows.is_empty() {
            return Ok(());
        }
        let (queue, slot) = (self.arguments.context.queue.clone(), self.slot());
        for sender in self.checkpoint.senders.clone() {
            let mut after = None;
            loop {
                let ids = queue.open_items(sender.number, slot, after, UNCONTENDED_PAGE).await?;
                for &id in &ids {
                    if let Some(item) = id.item()
                        && let Some(open) = self.open_rows.get_mut(&item.row)
                    {
                        open.message = Some(id);
                    }
                }
                after = ids.last().copied();
                if ids.len() < UNCONTENDED_PAGE {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Records outcomes, runs rounds of the planner, publishes the progress, and sets the timer for the next poll.
    async fn poll(&mut self) -> Result<(), Error> {
        let mut any_recorded = false;
        let next_poll = loop {
            let recorded = self.record_outcomes().await?;
            any_recorded |= recorded != OutcomePage::Empty;
            // New rows replace the closed ones before more outcomes are recorded.
            let next_poll = self.run_round().await?;
            self.publish();
            if recorded != OutcomePage::Full {
                break next_poll;
            }
        };
        let is_finished = self.checkpoint.status.is_finished();
        let next_poll = if is_finished { self.check_idle(any_recorded) } else { next_poll };
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.timer = next_poll.map(|delay| {
            let me = self.me.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = me.cast(Msg::Poll);
            })
        });
        Ok(())
    }

    /// The actor of an ended job stays until no late outcome arrives for [`IDLE_TIMEOUT`].
    fn check_idle(&mut self, any_recorded: bool) -> Option<Duration> {
        let now = self.now();
        if any_recorded || !self.open_rows.is_empty() {
            self.idle_since = None;
        }
        let since = *self.idle_since.get_or_insert(now);
        let idle = now.since(since);
        if idle < IDLE_TIMEOUT {
            return Some(IDLE_TIMEOUT.saturating_sub(idle));
        }
        (self.arguments.on_idle)(self.commands_done);
        None
    }

    fn publish(&self) {
        let mut progress = self.checkpoint.progress(self.record.total);
        progress.last.clone_from(&self.last_row);
        if progress.error.is_none() {
            progress.error.clone_from(&self.waits_for);
        }
        self.arguments.job.progress.send_if_modified(|published| {
            let is_changed = *published != progress;
            *published = progress;
            is_changed
        });
    }

    /// Runs `work` on a blocking thread. If the thread panics, the files are not used again.
    async fn with_files<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut JobFiles) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(mut files) = self.files.take() else { return Err(Error::Store(store::Error::Closed)) };
        let task = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut files);
            (files, outcome)
        });
        let (files, outcome) = task.await.map_err(|_| Error::Store(store::Error::Panicked))?;
        self.files = Some(files);
        outcome
    }

    /// Commits `next` as the checkpoint.
    async fn commit(&mut self, next: Checkpoint) -> Result<(), Error> {
        let (slot, checkpoint) = (self.slot(), next.clone());
        self.arguments.context.store.write(move |tx| checkpoint.put(tx, slot)).await?;
        self.checkpoint = next;
        Ok(())
    }

    /// Withdraws messages without an attempt. They come back as outcomes.
    async fn withdraw(&self, ids: Vec<MessageId>) -> Result<(), Error> {
        for page in ids.chunks(CONTENDED_PAGE) {
            self.arguments.context.queue.withdraw_items(page.to_vec()).await?;
        }
        Ok(())
    }
}

/// Outcomes and commands.
impl State {
    /// Records one page of outcomes.
    async fn record_outcomes(&mut self) -> Result<OutcomePage, Error> {
        let page_size = self.page_size();
        let outcomes = self.arguments.context.queue.outcomes(self.slot(), page_size)?;
        if outcomes.is_empty() {
            return Ok(OutcomePage::Empty);
        }
        let page = if outcomes.len() < page_size { OutcomePage::Partial } else { OutcomePage::Full };
        self.record_page(outcomes).await?;
        Ok(page)
    }

    async fn record_page(&mut self, outcomes: Vec<ItemOutcome>) -> Result<(), Error> {
        let mut next = Checkpoint { updated_at: self.now(), ..self.checkpoint.clone() };
        let phone_of = |outcome: &ItemOutcome| match self.open_rows.get(&outcome.item.row) {
            Some(open) => open.phone.clone(),
            None => String::new(),
        };
        let with_phones: Vec<_> =
            outcomes.iter().map(|outcome| (outcome.clone(), phone_of(outcome))).collect();
        let (recorded, next) = self
            .with_files(move |files| {
                let recorded = files.record_outcomes(&with_phones, &mut next)?;
                Ok((recorded, next))
            })
            .await?;
        let (slot, checkpoint) = (self.slot(), next.clone());
        self.arguments.context.queue.note_outcomes(outcomes, move |tx| checkpoint.put(tx, slot)).await?;
        self.checkpoint = next;
        self.planner.on_rows_closed(recorded.closed.len());
        for row in recorded.closed {
            self.open_rows.remove(&row);
        }
        if recorded.last_row.is_some() {
            self.last_row = recorded.last_row;
        }
        Ok(())
    }

    async fn command(&mut self, command: JobCommand) -> Result<(), Error> {
        // Earlier outcomes are recorded under the status in which they occurred: a row that came back to a running job is
        // handed over again, one that came back to a cancelled job is cancelled.
        while self.record_outcomes().await? == OutcomePage::Full {}
        let Some(mut next) = command.apply(&self.checkpoint, self.now())? else { return Ok(()) };
        match command {
            JobCommand::Pause | JobCommand::Resume => {}
            JobCommand::Cancel => {
                let rows = std::mem::take(&mut next.returned);
                next = self.with_files(move |files| files.cancel(&rows, &mut next).map(|()| next)).await?;
            }
            JobCommand::RetryFailed => {
                next = self.with_files(move |files| files.rebuild_index(&next).map(|()| next)).await?;
            }
        }
        self.commit(next).await?;
        if matches!(command, JobCommand::Pause | JobCommand::Cancel) {
            let open = self.open_rows.values().filter_map(|open| open.message).collect();
            self.withdraw(open).await?;
        }
        Ok(())
    }
}
