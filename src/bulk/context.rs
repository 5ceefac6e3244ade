//! What the actors of bulk jobs share: the other components of the node, the folders of jobs, and the options.

use std::ops::Deref;
use std::sync::Arc;

use crate::queue;
use relevo_clock::Clock;
use relevo_domain::{AmbiguousPolicy, Recipient};
use relevo_store::Store;

use super::Options;
use super::folders::JobFolders;
use super::senders::InstanceLister;

/// Whether a recipient is on the suppression list. Blocks.
pub type SuppressionCheck = Arc<dyn Fn(&Recipient) -> Result<bool, relevo_store::Error> + Send + Sync>;

/// The components of the node that jobs use.
#[derive(Clone)]
pub struct Dependencies {
    /// Records and checkpoints.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Receives rows and returns their outcomes.
    pub queue: queue::Handle,
    /// Lists the current instances.
    pub instances: InstanceLister,
    /// Looks up the suppression list.
    pub is_suppressed: SuppressionCheck,
    /// The policy for rows whose outcome stays unknown, for instances without a policy.
    pub on_ambiguous: AmbiguousPolicy,
}

/// What the actor of every job uses.
#[derive(Clone)]
pub(super) struct JobContext {
    pub dependencies: Dependencies,
    pub folders: JobFolders,
    pub options: Arc<Options>,
}

impl Deref for JobContext {
    type Target = Dependencies;
    fn deref(&self) -> &Dependencies {
        &self.dependencies
    }
}
