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

use super::book::{Book, Open};
use super::handle::Known;
use super::job::{LastRow, Status};
use super::storage::{self, Record, Standing};
use super::supervisor::{Command, Shared};
use super::{Error, advance};

/// Rows of one commit, when they are handed over and when it is noted how they ended, while single messages come that
/// somebody waits for: they may stand behind all of the rows, several times.
const PAGE: usize = 32;

/// Rows of one commit while nobody waits: what a page costs is shared by more of them.
pub(super) const CALM_PAGE: usize = 256;

/// How long a finished job's actor waits for facts that arrive late.
const LINGER: Duration = Duration::from_secs(60);

/// What the actor is told.
pub(super) enum Msg {
    /// From its supervisor and its own timer: there may be something to do.
    Look,
    /// From a handle: do this, and answer when it is durable.
    Command(Command, RpcReplyPort<Result<(), Error>>),
}

pub(super) struct JobActor;

pub(super) struct Arguments {
    pub known: Arc<Known>,
    pub shared: Shared,
    /// A look is on its way.
    pub nudged: Arc<AtomicBool>,
    /// Tells the supervisor that there is nothing to do, after so many commands.
    pub idle: Box<dyn Fn(u64) + Send + Sync>,
}

pub(super) struct State {
    pub me: ActorRef<Msg>,
    pub arguments: Arguments,
    pub record: Arc<Record>,
    /// The checkpoint, as it was committed last.
    pub standing: Standing,
    /// The job's files; away while a blocking thread works on them.
    pub book: Option<Book>,
    /// Rows that the queue has.
    pub open: BTreeMap<u32, Open>,
    /// Rows that have left the queue since others were put in their place.
    pub ended: usize,
    /// Since when instances are not connected.
    pub absent: HashMap<InstanceNumber, Timestamp>,
    pub last: Option<LastRow>,
    /// What the job waits for, for people.
    pub waits_for: Option<String>,
    /// Commands that were carried out.
    done: u64,
    /// Since when there is nothing to do.
    idle_since: Option<Timestamp>,
    timer: Option<JoinHandle<()>>,
}

/// What there was to note.
#[derive(Debug, PartialEq)]
enum Noted {
    Nothing,
    /// All that was there; what arrives meanwhile wakes the job again.
    Rest,
    /// A full page. There may be more.
    Page,
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
        me.cast(Msg::Look)?;
        let slot = arguments.known.slot;
        let store = &arguments.shared.store;
        let (Some(record), Some(standing)) = (storage::record(store, slot)?, storage::standing(store, slot)?)
        else {
            return Err("the job's record is gone".into());
        };
        Ok(Some(State {
            me,
            arguments,
            record: Arc::new(record),
            standing,
            book: None,
            open: BTreeMap::new(),
            ended: 0,
            absent: HashMap::new(),
            last: None,
            waits_for: None,
            done: 0,
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
            Msg::Look => {
                state.arguments.nudged.store(false, Ordering::Release);
                state.work().await?;
            }
            Msg::Command(command, reply) => {
                state.done += 1;
                let outcome = state.command(command).await;
                let is_refusal = matches!(outcome, Ok(()) | Err(Error::State { .. }));
                // Whoever hears the answer looks at once.
                state.publish();
                let _ = reply.send(outcome.clone());
                if !is_refusal {
                    outcome?;
                }
                state.work().await?;
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
        self.arguments.known.slot
    }

    pub fn now(&self) -> Timestamp {
        self.arguments.shared.clock.now()
    }

    /// How many rows share a commit now.
    pub fn page(&self) -> usize {
        if self.arguments.shared.store.is_hurried() { PAGE } else { CALM_PAGE }
    }

    /// Opens the files, counts them, and finds the open rows in the queue.
    async fn load(&mut self) -> Result<(), Error> {
        if self.book.is_some() {
            return Ok(());
        }
        let files = self.arguments.shared.jobs.of(self.record.id);
        let (record, standing) = (self.record.clone(), self.standing.clone());
        let opened = tokio::task::spawn_blocking(move || Book::open(record, files, &standing)).await;
        let (book, census) = opened.unwrap_or(Err(Error::Store(store::Error::Panicked)))?;
        self.standing.counts = census.counts;
        self.standing.errors_end = book.errors_end();
        self.open = census.open.into_iter().map(|row| (row, Open::default())).collect();
        for row in &self.standing.returned {
            self.open.remove(row);
        }
        self.book = Some(book);
        if self.open.is_empty() {
            return Ok(());
        }
        for sender in self.standing.senders.clone() {
            let (mut after, queue) = (None, self.arguments.shared.queue.clone());
            loop {
                let ids = queue.open_items(sender.number, self.slot(), after, CALM_PAGE).await?;
                for &id in &ids {
                    let row = id.item().and_then(|item| self.open.get_mut(&item.row));
                    row.into_iter().for_each(|open| open.message = Some(id));
                }
                after = ids.last().copied();
                if ids.len() < CALM_PAGE {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Does what there is to do, tells how far the job is, and sees to it that it is looked at again.
    async fn work(&mut self) -> Result<(), Error> {
        let mut any_noted = false;
        let again = loop {
            let noted = self.note().await?;
            any_noted |= noted != Noted::Nothing;
            // In the place of rows that have ended, others are handed over before more are noted.
            let again = match self.standing.status {
                Status::Pending | Status::Processing => advance::advance(self).await?,
                Status::Paused | Status::Completed | Status::Failed | Status::Cancelled => None,
            };
            self.publish();
            if noted != Noted::Page {
                break again;
            }
        };
        let again = if self.standing.status.is_finished() { self.linger(any_noted) } else { again };
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.timer = again.map(|after| {
            let me = self.me.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let _ = me.cast(Msg::Look);
            })
        });
        Ok(())
    }

    /// A finished job stays in memory while facts about it arrive.
    fn linger(&mut self, noted: bool) -> Option<Duration> {
        let now = self.now();
        if noted || !self.open.is_empty() {
            self.idle_since = None;
        }
        let since = *self.idle_since.get_or_insert(now);
        let idle = now.since(since);
        if idle < LINGER {
            return Some(LINGER.saturating_sub(idle));
        }
        (self.arguments.idle)(self.done);
        None
    }

    /// Notes a page of outcomes.
    async fn note(&mut self) -> Result<Noted, Error> {
        let page = self.page();
        let outcomes = self.arguments.shared.queue.outcomes(self.slot(), page)?;
        if outcomes.is_empty() {
            return Ok(Noted::Nothing);
        }
        let noted = if outcomes.len() < page { Noted::Rest } else { Noted::Page };
        self.note_page(outcomes).await?;
        Ok(noted)
    }

    async fn note_page(&mut self, outcomes: Vec<ItemOutcome>) -> Result<(), Error> {
        let mut next = self.standing.clone();
        next.updated_at = self.now();
        let phones = |outcome: &ItemOutcome| {
            let phone = self.open.get(&outcome.item.row).map(|open| open.phone.clone());
            (outcome.clone(), phone.unwrap_or_default())
        };
        let known: Vec<_> = outcomes.iter().map(phones).collect();
        let (noted, next) = self
            .with_book(move |book| {
                let noted = book.note(&known, &mut next)?;
                Ok((noted, next))
            })
            .await?;
        let (slot, commit) = (self.slot(), next.clone());
        self.arguments.shared.queue.note_outcomes(outcomes, move |tx| commit.put(tx, slot)).await?;
        self.standing = next;
        self.ended += noted.closed.len();
        for row in noted.closed {
            self.open.remove(&row);
        }
        if noted.last.is_some() {
            self.last = noted.last;
        }
        Ok(())
    }

    /// Lets a blocking thread work on the job's files. When it fails, the files are not used any more.
    pub async fn with_book<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Book) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(mut book) = self.book.take() else { return Err(Error::Store(store::Error::Closed)) };
        let task = tokio::task::spawn_blocking(move || {
            let outcome = work(&mut book);
            (book, outcome)
        });
        let (book, outcome) = task.await.map_err(|_| Error::Store(store::Error::Panicked))?;
        self.book = Some(book);
        outcome
    }

    /// Makes `next` the checkpoint.
    pub async fn commit(&mut self, next: Standing) -> Result<(), Error> {
        let (slot, commit) = (self.slot(), next.clone());
        self.arguments.shared.store.write(move |tx| commit.put(tx, slot)).await?;
        self.standing = next;
        Ok(())
    }

    pub fn publish(&self) {
        let mut progress = self.standing.progress(self.record.total);
        progress.last.clone_from(&self.last);
        if progress.error.is_none() {
            progress.error.clone_from(&self.waits_for);
        }
        self.arguments.known.progress.send_if_modified(|shown| {
            let changed = *shown != progress;
            *shown = progress;
            changed
        });
    }

    /// Takes back what no attempt has begun for. What comes back is told as outcomes.
    pub async fn recall(&self, ids: Vec<MessageId>) -> Result<(), Error> {
        for page in ids.chunks(PAGE) {
            self.arguments.shared.queue.withdraw_items(page.to_vec()).await?;
        }
        Ok(())
    }

    pub fn open_messages(&self) -> Vec<MessageId> {
        self.open.values().filter_map(|open| open.message).collect()
    }

    async fn command(&mut self, command: Command) -> Result<(), Error> {
        // What is noted later must not be judged by the new status: a row that came back under the old one waits.
        while self.note().await? == Noted::Page {}
        let status = self.standing.status;
        let now = self.now();
        let mut next = self.standing.clone();
        next.updated_at = now;
        let refuse = |why| Err(Error::State { status, why });
        match command {
            Command::Pause => match status {
                Status::Paused => return Ok(()),
                Status::Pending | Status::Processing => next.status = Status::Paused,
                _ => return refuse("only a job that is not finished can be paused"),
            },
            Command::Resume => match status {
                Status::Pending | Status::Processing => return Ok(()),
                Status::Paused if next.started_at.is_some() => next.status = Status::Processing,
                Status::Paused => next.status = Status::Pending,
                _ => return refuse("only a paused job can be resumed"),
            },
            Command::Cancel => match status {
                Status::Cancelled => return Ok(()),
                Status::Completed | Status::Failed => return refuse("it has ended already"),
                _ => {
                    (next.status, next.ended_at, next.retry) = (Status::Cancelled, Some(now), None);
                    let rows = std::mem::take(&mut next.returned);
                    next = self
                        .with_book(move |book| {
                            book.cancel(&rows, &mut next)?;
                            Ok(next)
                        })
                        .await?;
                }
            },
            Command::RetryFailed => match status {
                Status::Completed | Status::Failed if next.pass == u8::MAX => {
                    return refuse("its failed rows were tried again too often");
                }
                Status::Completed | Status::Failed => {
                    (next.status, next.ended_at, next.error) = (Status::Processing, None, None);
                    (next.pass, next.retry) = (next.pass + 1, Some(0));
                    next = self.with_book(move |book| book.retry(&next).map(|()| next)).await?;
                }
                _ => return refuse("only a job that has ended can be tried again"),
            },
        }
        self.commit(next).await?;
        if matches!(command, Command::Pause | Command::Cancel) {
            self.recall(self.open_messages()).await?;
        }
        Ok(())
    }
}
