//! The directory of jobs, which the supervisor publishes and the handle reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use relevo_domain::Timestamp;

use super::job::JobProgress;

/// All jobs, by id.
pub(super) type JobDirectory = BTreeMap<Uuid, Arc<JobEntry>>;

/// A job in the directory.
#[derive(Debug)]
pub(super) struct JobEntry {
    pub id: Uuid,
    /// The job's number in the queue and in the store.
    pub slot: u16,
    pub created_at: Timestamp,
    /// Published by the job's actor.
    pub progress: watch::Sender<JobProgress>,
}
