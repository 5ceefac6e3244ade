//! The messages of the supervisor of bulk jobs.

use ractor::RpcReplyPort;
use uuid::Uuid;

use crate::supervisor::Incarnation;

use super::Error;
use super::commands::JobCommand;
use super::drafts::JobDraft;
use super::job::NewJob;

/// Where the result of a request goes.
pub(super) type Reply<T> = RpcReplyPort<Result<T, Error>>;

/// A message to the supervisor.
pub enum Msg {
    /// From a handle: create a job. It is durable when this is answered.
    Create(Box<NewJob>, JobDraft, Reply<()>),
    /// From a handle: pass a command to a job. Its effect is durable when this is answered.
    Command(Uuid, JobCommand, Reply<()>),
    /// From a handle: delete a job.
    Delete(Uuid, Reply<()>),
    /// From the node at shutdown: stop all jobs; answered when their actors have stopped.
    Drain(RpcReplyPort<()>),
    /// From its own task: running jobs may have outcomes to record.
    OutcomesAvailable,
    /// From its own task: these ended jobs have outcomes to record.
    LateOutcomes(Vec<Uuid>),
    /// From a job's actor: it has nothing to do.
    Idle {
        /// The job.
        job: Uuid,
        /// The incarnation of the actor.
        incarnation: Incarnation,
        /// Number of commands that the actor has processed.
        commands_done: u64,
    },
    /// From its own timer: the restart delay of an incarnation that crashed has passed.
    Start(Uuid, Incarnation),
    /// From its own task: a deletion has ended.
    Deleted(Uuid, Deletion),
    /// From its own timer: delete jobs after their retention.
    Sweep,
}

/// The result of a deletion, and who waits for it.
pub struct Deletion {
    /// On an error, the job still exists.
    pub(super) outcome: Result<(), Error>,
    /// `None` for a deletion by the retention.
    pub(super) reply: Option<Reply<()>>,
}
