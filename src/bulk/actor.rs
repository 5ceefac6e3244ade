//! One job at work: notes how its rows ended, and keeps its window of open rows filled.
//!
//! The actor alone writes the job's files and its checkpoint. Whatever it knows, it can read again: an error ends it,
//! and its successor begins with the files and the checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinHandle;

use crate::queue::ItemOutcome;
use relevo_domain::{InstanceNumber, MessageId, Timestamp};
use relevo_store as store;

use super::commands::JobCommand;
use super::context::JobContext;
use super::directory::JobEntry;
use super::job::{JobStatus, LastRow};
use super::job_files::{JobFiles, OpenRow};
use super::storage::{self, Checkpoint, JobRecord};
use super::{Error, planner};

/// Rows of one commit, when they are handed over and when it is noted how they ended, while single messages come that
/// somebody waits for: they may stand behind all of the rows, several times.
const CONTENDED_PAGE: usize = 32;

/// Rows of one commit while nobody waits: what a page costs is shared by more of them.
pub(super) const UNCONTENDED_PAGE: usize = 256;

/// How long a finished job's actor waits for facts that arrive late.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the actor is told.
pub(super) enum Msg {
    /// From its supervisor and its own timer: there may be something to do.
    Poll,
    /// From a handle: do this, and answer when it is durable.
    Command(JobCommand, RpcReplyPort<Result<(), Error>>),
}

pub(super) struct JobActor;

pub(super) struct Arguments {
    pub job: Arc<JobEntry>,
    pub context: JobContext,
    /// A look is on its way.
    pub poll_pending: Arc<AtomicBool>,
    /// Tells the supervisor that there is nothing to do, after so many commands.
    pub on_idle: Box<dyn Fn(u64) + Send + Sync>,
}

pub(super) struct State {
    pub me: ActorRef<Msg>,
    pub arguments: Arguments,
    pub record: Arc<JobRecord>,
    /// The checkpoint, as it was committed last.
    pub checkpoint: Checkpoint,
    /// The job's files; away while a blocking thread works on them.
    pub files: Option<JobFiles>,
    /// Rows that the queue has.
    pub open_rows: BTreeMap<u32, OpenRow>,
    /// Rows that have left the queue since others were put in their place.
    pub closed_since_fill: usize,
    /// Since when instances are not connected.
    pub disconnected_since: HashMap<InstanceNumber, Timestamp>,
    pub last_row: Option<LastRow>,
    /// What the job waits for, for people.
    pub waits_for: Option<String>,
    /// Commands that were carried out.
    commands_done: u64,
    /// Since when there is nothing to do.
    idle_since: Option<Timestamp>,
    timer: Option<JoinHandle<()>>,
}

/// What there was to note.
#[derive(Debug, PartialEq)]
enum OutcomePage {
    Empty,
    /// All that was there; what arrives meanwhile wakes the job again.
    Partial,
    /// A full page. There may be more.
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
        // Counting a large job takes a moment, and the supervisor waits for this to return.
        me.cast(Msg::Poll)?;
        let slot = arguments.job.slot;
        let store = &arguments.context.store;
        let (Some(record), Some(standing)) =
            (storage::load_record(store, slot)?, storage::load_checkpoint(store, slot)?)
        else {
            return Err("the job's record is gone".into());
        };
        Ok(Some(State {
            me,
            arguments,
            record: Arc::new(record),
            checkpoint: standing,
            files: None,
            open_rows: BTreeMap::new(),
            closed_since_fill: 0,
            disconnected_since: HashMap::new(),
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
                state.run_step().await?;
            }
            Msg::Command(command, reply) => {
                state.commands_done += 1;
                let outcome = state.command(command).await;
                let is_refusal = matches!(outcome, Ok(()) | Err(Error::State { .. }));
                // Whoever hears the answer looks at once.
                state.publish();
                let _ = reply.send(outcome.clone());
                if !is_refusal {
                    outcome?;
                }
                state.run_step().await?;
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

impl State {
    pub fn slot(&self) -> u16 {
        self.arguments.job.slot
    }

    pub fn now(&self) -> Timestamp {
        self.arguments.context.clock.now()
    }

    /// How many rows share a commit now.
    pub fn page_size(&self) -> usize {
        if self.arguments.context.store.is_contended() { CONTENDED_PAGE } else { UNCONTENDED_PAGE }
    }

    /// Opens the files, counts them, and finds the open rows in the queue.
    async fn load(&mut self) -> Result<(), Error> {
        if self.files.is_some() {
            return Ok(());
        }
        let files = self.arguments.context.folders.folder(self.record.id);
        let (record, standing) = (self.record.clone(), self.checkpoint.clone());
        let opened = tokio::task::spawn_blocking(move || JobFiles::open(record, files, &standing)).await;
        let (book, census) = opened.unwrap_or(Err(Error::Store(store::Error::Panicked)))?;
        self.checkpoint.counts = census.counts;
        self.checkpoint.errors_end = book.errors_end();
        self.open_rows = census.open_rows.into_iter().map(|row| (row, OpenRow::default())).collect();
        for row in &self.checkpoint.returned {
            self.open_rows.remove(row);
        }
        self.files = Some(book);
        if self.open_rows.is_empty() {
            return Ok(());
        }
        for sender in self.checkpoint.senders.clone() {
            let (mut after, queue) = (None, self.arguments.context.queue.clone());
            loop {
                let ids = queue.open_items(sender.number, self.slot(), after, UNCONTENDED_PAGE).await?;
                for &id in &ids {
                    let row = id.item().and_then(|item| self.open_rows.get_mut(&item.row));
                    row.into_iter().for_each(|open| open.message = Some(id));
                }
                after = ids.last().copied();
                if ids.len() < UNCONTENDED_PAGE {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Does what there is to do, tells how far the job is, and sees to it that it is looked at again.
    async fn run_step(&mut self) -> Result<(), Error> {
        let mut any_noted = false;
        let again = loop {
            let noted = self.record_outcomes().await?;
            any_noted |= noted != OutcomePage::Empty;
            // In the place of rows that have ended, others are handed over before more are noted.
            let again = match self.checkpoint.status {
                JobStatus::Pending | JobStatus::Processing => planner::advance(self).await?,
                JobStatus::Paused | JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => None,
            };
            self.publish();
            if noted != OutcomePage::Full {
                break again;
            }
        };
        let again = if self.checkpoint.status.is_finished() { self.check_idle(any_noted) } else { again };
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.timer = again.map(|after| {
            let me = self.me.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let _ = me.cast(Msg::Poll);
            })
        });
        Ok(())
    }

    /// A finished job stays in memory while facts about it arrive.
    fn check_idle(&mut self, noted: bool) -> Option<Duration> {
        let now = self.now();
        if noted || !self.open_rows.is_empty() {
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

    /// Notes a page of outcomes.
    async fn record_outcomes(&mut self) -> Result<OutcomePage, Error> {
        let page = self.page_size();
        let outcomes = self.arguments.context.queue.outcomes(self.slot(), page)?;
        if outcomes.is_empty() {
            return Ok(OutcomePage::Empty);
        }
        let noted = if outcomes.len() < page { OutcomePage::Partial } else { OutcomePage::Full };
        self.record_page(outcomes).await?;
        Ok(noted)
    }

    async fn record_page(&mut self, outcomes: Vec<ItemOutcome>) -> Result<(), Error> {
        let mut next = self.checkpoint.clone();
        next.updated_at = self.now();
        let phones = |outcome: &ItemOutcome| {
            let phone = self.open_rows.get(&outcome.item.row).map(|open| open.phone.clone());
            (outcome.clone(), phone.unwrap_or_default())
        };
        let known: Vec<_> = outcomes.iter().map(phones).collect();
        let (noted, next) = self
            .with_files(move |book| {
                let noted = book.record_outcomes(&known, &mut next)?;
                Ok((noted, next))
            })
            .await?;
        let (slot, commit) = (self.slot(), next.clone());
        self.arguments.context.queue.note_outcomes(outcomes, move |tx| commit.put(tx, slot)).await?;
        self.checkpoint = next;
        self.closed_since_fill += noted.closed.len();
        for row in noted.closed {
            self.open_rows.remove(&row);
        }
        if noted.last_row.is_some() {
            self.last_row = noted.last_row;
        }
        Ok(())
    }

    /// Lets a blocking thread work on the job's files. When it fails, the files are not used any more.
    pub async fn with_files<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut JobFiles) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(mut book) = self.files.take() else { return Err(Error::Store(store::Error::Closed)) };
        let task = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut book);
            (book, outcome)
        });
        let (book, outcome) = task.await.map_err(|_| Error::Store(store::Error::Panicked))?;
        self.files = Some(book);
        outcome
    }

    /// Makes `next` the checkpoint.
    pub async fn commit(&mut self, next: Checkpoint) -> Result<(), Error> {
        let (slot, commit) = (self.slot(), next.clone());
        self.arguments.context.store.write(move |tx| commit.put(tx, slot)).await?;
        self.checkpoint = next;
        Ok(())
    }

    pub fn publish(&self) {
        let mut progress = self.checkpoint.progress(self.record.total);
        progress.last.clone_from(&self.last_row);
        if progress.error.is_none() {
            progress.error.clone_from(&self.waits_for);
        }
        self.arguments.job.progress.send_if_modified(|shown| {
            let changed = *shown != progress;
            *shown = progress;
            changed
        });
    }

    /// Takes back what no attempt has begun for. What comes back is told as outcomes.
    pub async fn withdraw(&self, ids: Vec<MessageId>) -> Result<(), Error> {
        for page in ids.chunks(CONTENDED_PAGE) {
            self.arguments.context.queue.withdraw_items(page.to_vec()).await?;
        }
        Ok(())
    }

    pub fn open_messages(&self) -> Vec<MessageId> {
        self.open_rows.values().filter_map(|open| open.message).collect()
    }

    async fn command(&mut self, command: JobCommand) -> Result<(), Error> {
        // What is noted later must not be judged by the new status: a row that came back under the old one waits.
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
            self.withdraw(self.open_messages()).await?;
        }
        Ok(())
    }
}
