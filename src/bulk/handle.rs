//! The interface of bulk jobs. Reading never waits for an actor; changes are durable when they are answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use crate::supervisor::ActorSlot;
use relevo_domain::{MessageId, RecipientParser, Timestamp};
use relevo_store::Store;

use super::commands::JobCommand;
use super::directory::{JobDirectory, JobEntry};
use super::drafts::{FileUpload, JobDraft, RecipientListWriter};
use super::folders::{JobFolder, JobFolders};
use super::job::{JobProgress, JobView, ListCursor, ListFilter, NewJob, ResultPage, RowError, RowResult};
use super::messages::Msg;
use super::senders::InstanceLister;
use super::{Error, report, storage};

/// Maximum number of rows of a page.
const MAX_PAGE: u32 = 1_000;

/// The interface of the jobs. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) slot: ActorSlot<Msg>,
    pub(super) directory: watch::Receiver<Arc<JobDirectory>>,
    pub(super) store: Store,
    pub(super) folders: JobFolders,
    pub(super) max_rows: u32,
    pub(super) instances: InstanceLister,
}

impl Handle {
    /// Creates a draft for an uploaded file whose recipients `recipients` reads.
    ///
    /// # Errors
    ///
    /// The disk cannot be written.
    pub fn upload(&self, recipients: RecipientParser) -> Result<FileUpload, Error> {
        self.folders.create_upload(self.max_rows, recipients)
    }

    /// Creates a draft for the recipients of one request. Blocks.
    ///
    /// # Errors
    ///
    /// The disk cannot be written.
    pub fn list_draft(&self) -> Result<RecipientListWriter, Error> {
        self.folders.create_list(self.max_rows)
    }

    /// Creates a job from a draft. The job is durable when this returns. Does not check whether the instances would accept
    /// the messages; the caller does that before.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevices`]: no instance is named and none is connected. [`Error::TooManyRows`], [`Error::TooManyJobs`],
    /// [`Error::Exists`]. [`Error::Instance`]: a named instance does not exist. [`Error::Template`].
    pub async fn create(&self, job: NewJob, rows: JobDraft) -> Result<JobView, Error> {
        let id = job.id;
        self.slot.call(|reply| Msg::Create(Box::new(job), rows, reply)).await??;
        self.get(id)
    }

    /// A job.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`]; the store cannot be read.
    pub fn get(&self, id: Uuid) -> Result<JobView, Error> {
        self.view(&*self.entry(id)?)
    }

    /// Up to `limit` jobs after `after`, newest first.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn list(
        &self,
        filter: &ListFilter,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<Vec<JobView>, Error> {
        let directory = self.directory.borrow().clone();
        let cursor_of = |job: &JobEntry| ListCursor { created_at: job.created_at, id: job.id };
        let mut found: Vec<_> = directory
            .values()
            .filter(|job| after.is_none_or(|after| cursor_of(job) < after))
            .filter(|job| filter.status.is_none_or(|status| job.progress.borrow().status == status))
            .collect();
        found.sort_by_key(|job| std::cmp::Reverse(cursor_of(job)));
        let mut views = Vec::new();
        for job in found {
            if views.len() == limit {
                break;
            }
            match self.view(job) {
                Ok(view) if filter.kind.is_none_or(|kind| view.kind == kind) => views.push(view),
                Ok(_) | Err(Error::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(views)
    }

    /// Ends a job. Rows without an attempt are not sent.
    ///
    /// # Errors
    ///
    /// [`Error::State`]: the job has completed or failed. [`Error::Unknown`].
    pub async fn cancel(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::Cancel).await
    }

    /// Stops a job until it is resumed. Attempts in flight finish.
    ///
    /// # Errors
    ///
    /// [`Error::State`]: the job has ended. [`Error::Unknown`].
    pub async fn pause(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::Pause).await
    }

    /// Continues a paused job.
    ///
    /// # Errors
    ///
    /// [`Error::State`]: the job has ended. [`Error::Unknown`].
    pub async fn resume(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::Resume).await
    }

    /// Sends the rows of an ended job again that failed for certain. Ambiguous rows may have been sent and are not retried;
    /// invalid and suppressed rows neither.
    ///
    /// # Errors
    ///
    /// [`Error::State`]: the job has not ended, was cancelled, or was retried too often. [`Error::Unknown`].
    pub async fn retry_failed(&self, id: Uuid) -> Result<JobView, Error> {
        self.command(id, JobCommand::RetryFailed).await
    }

    /// Deletes an ended job with its record, its files and its outcomes in the queue.
    ///
    /// # Errors
    ///
    /// [`Error::State`]: the job has not ended. [`Error::Unknown`]. The queue or the store failed; then the job still exists.
    pub async fn delete(&self, id: Uuid) -> Result<(), Error> {
        self.slot.call(|reply| Msg::Delete(id, reply)).await?
    }

    /// Reads up to `limit` results (at most 1,000) from the row `from`.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`]; the files of the job cannot be read.
    pub async fn results(&self, id: Uuid, from: u32, limit: u32) -> Result<ResultPage, Error> {
        let (record, checkpoint, folder) = self.load_job(id)?;
        let limit = limit.clamp(1, MAX_PAGE);
        run_blocking(move || report::results(&record, &checkpoint, &folder, from, limit)).await
    }

    /// Reads up to `limit` errors (at most 1,000) of a job's rows from the offset `after` (0 at first), and the offset of the
    /// next page. Each error is returned once.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`]; the files of the job cannot be read.
    pub async fn errors(&self, id: Uuid, after: u64, limit: u32) -> Result<(Vec<RowError>, u64), Error> {
        let (_, checkpoint, folder) = self.load_job(id)?;
        let end = self.entry(id)?.progress.borrow().errors_end;
        let limit = limit.clamp(1, MAX_PAGE);
        run_blocking(move || report::errors(&checkpoint, &folder, after, end, limit)).await
    }

    /// The progress of a job, whenever it changes. A slow reader skips intermediate values. The channel closes when the job
    /// is deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`].
    pub fn watch(&self, id: Uuid) -> Result<watch::Receiver<JobProgress>, Error> {
        Ok(self.entry(id)?.progress.subscribe())
    }

    /// The creation time and the progress of every job.
    pub fn progress_of_all(&self) -> Vec<(Timestamp, JobProgress)> {
        let directory = self.directory.borrow().clone();
        directory.values().map(|job| (job.created_at, job.progress.borrow().clone())).collect()
    }

    /// The job and the row of a message; `None` if it is not a row of an existing job.
    ///
    /// # Errors
    ///
    /// The files of the job cannot be read.
    pub async fn find(&self, message: MessageId) -> Result<Option<(Uuid, RowResult)>, Error> {
        let Some(item) = message.item() else { return Ok(None) };
        let directory = self.directory.borrow().clone();
        // Slots are reused: a job that was created after the message is another one.
        let is_its_job =
            |job: &&Arc<JobEntry>| job.slot == item.job && job.created_at <= message.accepted_at();
        let Some(id) = directory.values().find(is_its_job).map(|job| job.id) else { return Ok(None) };
        let page = self.results(id, item.row, 1).await?;
        Ok(page.rows.into_iter().next().map(|row| (id, row)))
    }

    /// Stops the actors of all jobs; returns when they have stopped, or after `deadline`. Jobs continue at the next start.
    pub async fn drain(&self, deadline: Duration) {
        if tokio::time::timeout(deadline, self.slot.call(Msg::Drain)).await.is_err() {
            tracing::warn!(?deadline, "bulk drain timed out; jobs continue at the next start");
        }
    }

    async fn command(&self, id: Uuid, command: JobCommand) -> Result<JobView, Error> {
        self.slot.call(|reply| Msg::Command(id, command, reply)).await??;
        self.get(id)
    }

    fn entry(&self, id: Uuid) -> Result<Arc<JobEntry>, Error> {
        self.directory.borrow().get(&id).cloned().ok_or(Error::Unknown(id))
    }

    fn view(&self, job: &JobEntry) -> Result<JobView, Error> {
        let record = storage::load_record(&self.store, job.slot)?.filter(|record| record.id == job.id);
        let record = record.ok_or(Error::Unknown(job.id))?;
        Ok(JobView {
            id: record.id,
            kind: record.kind,
            plan: record.plan,
            file_name: record.file_name,
            senders: record.senders,
            created_at: record.created_at,
            send_at: record.send_at,
            window: record.window,
            progress: job.progress.borrow().clone(),
        })
    }

    fn load_job(&self, id: Uuid) -> Result<(storage::JobRecord, storage::Checkpoint, JobFolder), Error> {
        let job = self.entry(id)?;
        let record = storage::load_record(&self.store, job.slot)?.filter(|record| record.id == id);
        let checkpoint = storage::load_checkpoint(&self.store, job.slot)?;
        match (record, checkpoint) {
            (Some(record), Some(checkpoint)) => Ok((record, checkpoint, self.folders.folder(id))),
            _ => Err(Error::Unknown(id)),
        }
    }
}

/// Runs `read` on a blocking thread.
pub(super) async fn run_blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(Error::Store(relevo_store::Error::Panicked)))
}
