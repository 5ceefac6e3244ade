use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use crate::queue::BulkRowLookup;
use crate::supervisor::ActorSlot;
use relevo_domain::{MessageId, Timestamp};
use relevo_store::Store;

use super::folders::{FileUpload, JobFolders, RecipientListWriter};
use super::job::{JobProgress, JobStatus, JobView, NewJob, RowError, RowResult};
use super::senders::InstanceLister;
use super::supervisor::{JobCommand, Msg};
use super::{Error, JobDraft, provider_id_index, report, storage};

/// The most rows of one page.
const MAX_PAGE: u32 = 1_000;

/// The way to the jobs. Cheap to clone; reading never waits for an actor.
#[derive(Clone)]
pub struct Handle {
    pub(super) slot: ActorSlot<Msg>,
    pub(super) directory: watch::Receiver<Arc<JobDirectory>>,
    pub(super) store: Store,
    pub(super) folders: JobFolders,
    pub(super) max_rows: u32,
    pub(super) instances: InstanceLister,
}

/// The jobs that exist, by id.
pub(super) type JobDirectory = BTreeMap<Uuid, Arc<JobEntry>>;

/// A job, as readers find it.
#[derive(Debug)]
pub(super) struct JobEntry {
    pub id: Uuid,
    pub slot: u16,
    pub created_at: Timestamp,
    pub progress: watch::Sender<JobProgress>,
}

/// Which jobs are listed.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    pub kind: Option<super::JobKind>,
    pub status: Option<JobStatus>,
}

/// Where a list of jobs goes on: after this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListCursor {
    pub created_at: Timestamp,
    pub id: Uuid,
}

/// A page of a job's results.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultPage {
    pub rows: Vec<RowResult>,
    /// The row with which the next page begins; `None` after the last one.
    pub next: Option<u32>,
}

impl Handle {
    /// A place on the disk for an uploaded file.
    pub fn upload(&self) -> Result<FileUpload, Error> {
        self.folders.create_upload(self.max_rows)
    }

    /// A place on the disk for the recipients of one request. Blocks.
    pub fn list_draft(&self) -> Result<RecipientListWriter, Error> {
        self.folders.create_list(self.max_rows)
    }

    /// Creates a job from rows that are on the disk; when this answers, the job is, too.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevices`] when no instance is named and none is connected; too many rows or jobs; a named instance
    /// that does not exist. Whether the instances would take the messages is for the caller to ask before.
    pub async fn create(&self, job: NewJob, rows: JobDraft) -> Result<JobView, Error> {
        let id = job.id;
        self.slot.call(|reply| Msg::Create(Box::new(job), rows, reply)).await??;
        self.get(id)
    }

    pub fn get(&self, id: Uuid) -> Result<JobView, Error> {
        self.view(&*self.entry(id)?)
    }

    /// Jobs, newest first, up to `limit`, after `after`.
    pub fn list(
        &self,
        filter: &ListFilter,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<Vec<JobView>, Error> {
        let directory = self.directory.borrow().clone();
        let place = |known: &JobEntry| ListCursor { created_at: known.created_at, id: known.id };
        let mut found: Vec<_> = directory
            .values()
            .filter(|known| after.is_none_or(|after| place(known) < after))
            .filter(|known| filter.status.is_none_or(|status| known.progress.borrow().status == status))
            .collect();
        found.sort_by_key(|known| std::cmp::Reverse(place(known)));
        let mut views = Vec::new();
        for known in found {
            if views.len() == limit {
                break;
            }
            match self.view(known) {
                Ok(view) if filter.kind.is_none_or(|kind| view.kind == kind) => views.push(view),
                Ok(_) | Err(Error::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    /// Ends a job: what no attempt has begun for is not sent.
    pub async fn cancel(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::Cancel).await
    }

    /// Stops a job until it is resumed; what is under way ends.
    pub async fn pause(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::Pause).await
    }

    /// Lets a paused job go on.
    pub async fn resume(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::Resume).await
    }

    /// Sends the rows of a finished job again that failed for certain. What is ambiguous may have been sent, and is
    /// left alone; what is invalid or suppressed stays so.
    pub async fn retry_failed(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::RetryFailed).await
    }

    /// Deletes a finished job with everything it left.
    pub async fn delete(&self, id: Uuid) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Delete(id, reply)).await?
    }

    /// Up to `limit` rows from `from` on, at most 1,000. A whole job is read page by page.
    pub async fn results(&self, id: Uuid, from: u32, limit: u32) -> Result<ResultPage, Error> {
        let (record, standing, files) = self.load_job(id)?;
        let limit = limit.clamp(1, MAX_PAGE);
        run_blocking(move || report::results(&record, &standing, &files, from, limit)).await
    }

    /// What went wrong with the rows of a job, from the place `after` on (0 at first), up to `limit`, at most 1,000,
    /// and the place where the next page begins. Each error is told once.
    pub async fn errors(&self, id: Uuid, after: u64, limit: u32) -> Result<(Vec<RowError>, u64), Error> {
        let (_, standing, files) = self.load_job(id)?;
        let end = self.entry(id)?.progress.borrow().errors_end;
        let limit = limit.clamp(1, MAX_PAGE);
        run_blocking(move || report::errors(&standing, &files, after, end, limit)).await
    }

    /// How far a job is, whenever that changes. Readers that are slow skip what lies between. Ends when the job is
    /// deleted.
    pub fn watch(&self, id: Uuid) -> Result<watch::Receiver<JobProgress>, Error> {
        Ok(self.entry(id)?.progress.subscribe())
    }

    /// How far every job is, with the moment at which it was created.
    pub fn progress_of_all(&self) -> Vec<(Timestamp, JobProgress)> {
        let directory = self.directory.borrow().clone();
        directory.values().map(|known| (known.created_at, known.progress.borrow().clone())).collect()
    }

    /// The job and the row that a message is, if it is one.
    pub async fn find(&self, message: MessageId) -> Result<Option<(Uuid, RowResult)>, Error> {
        let Some(item) = message.item() else { return Ok(None) };
        let directory = self.directory.borrow().clone();
        let is_its =
            |known: &&Arc<JobEntry>| known.slot == item.job && known.created_at <= message.accepted_at();
        let Some(id) = directory.values().find(is_its).map(|known| known.id) else { return Ok(None) };
        let page = self.results(id, item.row, 1).await?;
        Ok(page.rows.into_iter().next().map(|row| (id, row)))
    }

    /// Resolves when no job does anything any more, or when `deadline` has passed.
    pub async fn drain(&self, deadline: Duration) {
        if tokio::time::timeout(deadline, self.slot.call(Msg::Drain)).await.is_err() {
            tracing::warn!(
                ?deadline,
                "bulk jobs were still at work at the deadline; they go on with the next start"
            );
        }
    }

    async fn command(&self, id: Uuid, command: JobCommand) -> Result<JobView, Error> {
        self.slot.call(|reply| Msg::Command(id, command, reply)).await??;
        self.get(id)
    }

    fn entry(&self, id: Uuid) -> Result<Arc<JobEntry>, Error> {
        self.directory.borrow().get(&id).cloned().ok_or(Error::Unknown(id))
    }

    fn view(&self, known: &JobEntry) -> Result<JobView, Error> {
        let record = storage::load_record(&self.store, known.slot)?.filter(|record| record.id == known.id);
        let record = record.ok_or(Error::Unknown(known.id))?;
        Ok(JobView {
            id: record.id,
            kind: record.kind,
            plan: record.plan,
            file_name: record.file_name,
            senders: record.senders,
            created_at: record.created_at,
            send_at: record.send_at,
            window: record.window,
            progress: known.progress.borrow().clone(),
        })
    }

    fn load_job(
        &self,
        id: Uuid,
    ) -> Result<(storage::JobRecord, storage::Checkpoint, super::folders::JobFolder), Error> {
        let known = self.entry(id)?;
        let record = storage::load_record(&self.store, known.slot)?.filter(|record| record.id == id);
        let standing = storage::load_checkpoint(&self.store, known.slot)?;
        match (record, standing) {
            (Some(record), Some(standing)) => Ok((record, standing, self.folders.folder(id))),
            _ => Err(Error::Unknown(id)),
        }
    }
}

/// Finds rows by the ids that WhatsApp gave them, once their jobs have noted that they were sent. Reads a few bytes of
/// each of the instance's jobs.
pub(super) fn provider_id_lookup(
    directory: watch::Receiver<Arc<JobDirectory>>,
    jobs: JobFolders,
) -> BulkRowLookup {
    // Nothing but this: the queue keeps it, and whatever it held would keep the queue.
    Arc::new(move |instance, id| {
        let known = directory.borrow().clone();
        let sent_for = |known: &&Arc<JobEntry>| {
            known.progress.borrow().senders.iter().any(|sender| sender.number == instance)
        };
        // One that cannot be read is being deleted, or will say so when it is asked for its results.
        let find = |known: &Arc<JobEntry>| {
            provider_id_index::find_message(&jobs.folder(known.id), id).ok().flatten()
        };
        known.values().filter(sent_for).filter_map(find).find(|message| message.instance() == instance)
    })
}

/// Reads files where that delays nobody.
pub(super) async fn run_blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let reading = tokio::task::spawn_blocking(read);
    reading.await.unwrap_or(Err(Error::Store(relevo_store::Error::Panicked)))
}
