//! The commands of a job, and the status that each of them leads to.

use relevo_domain::Timestamp;

use super::Error;
use super::job::JobStatus;
use super::storage::Checkpoint;

/// A command to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobCommand {
    /// End the job; rows without an attempt are not sent.
    Cancel,
    /// Stop the job until it is resumed.
    Pause,
    /// Continue a paused job.
    Resume,
    /// Send the failed rows of an ended job again.
    RetryFailed,
}

impl JobCommand {
    /// The checkpoint after the command; `None`: the job has the requested status already.
    ///
    /// # Errors
    ///
    /// [`Error::State`]: the status of the job does not allow the command.
    pub(super) fn apply(self, current: &Checkpoint, now: Timestamp) -> Result<Option<Checkpoint>, Error> {
        let status = current.status;
        let refuse = |why| Err(Error::State { status, why });
        let mut next = Checkpoint { updated_at: now, ..current.clone() };
        match self {
            JobCommand::Pause => match status {
                JobStatus::Paused => return Ok(None),
                JobStatus::Pending | JobStatus::Processing => next.status = JobStatus::Paused,
                JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
                    return refuse("only a job that has not ended can be paused");
                }
            },
            JobCommand::Resume => match status {
                JobStatus::Pending | JobStatus::Processing => return Ok(None),
                JobStatus::Paused if next.started_at.is_some() => next.status = JobStatus::Processing,
                JobStatus::Paused => next.status = JobStatus::Pending,
                JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {
                    return refuse("only a paused job can be resumed");
                }
            },
            JobCommand::Cancel => match status {
                JobStatus::Cancelled => return Ok(None),
                JobStatus::Completed | JobStatus::Failed => return refuse("it has ended already"),
                JobStatus::Pending | JobStatus::Processing | JobStatus::Paused => {
                    next.status = JobStatus::Cancelled;
                    next.ended_at = Some(now);
                    next.retry = None;
                }
            },
            JobCommand::RetryFailed => match status {
                JobStatus::Completed | JobStatus::Failed if next.pass == u8::MAX => {
                    return refuse("its failed rows were retried 255 times, which is the limit");
                }
                JobStatus::Completed | JobStatus::Failed => {
                    next.status = JobStatus::Processing;
                    next.ended_at = None;
                    next.error = None;
                    next.stalled = false;
                    next.pass += 1;
                    next.retry = Some(0);
                }
                JobStatus::Pending | JobStatus::Processing | JobStatus::Paused | JobStatus::Cancelled => {
                    return refuse("only the failed rows of a completed or failed job can be retried");
                }
            },
        }
        Ok(Some(next))
    }
}
