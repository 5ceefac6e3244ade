//! Judging failures.
//!
//! Whatever goes wrong with an attempt is reported here, and only here is decided what becomes of the message:
//! again, later, held, buried. The decision itself is `domain::judge`, a pure function; this room knows the
//! policies, finds the attempts that nobody reports about any more, and keeps the queue's actor alive.

mod supervisor;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::queue::Lease;
use crate::supervisor::{ActorSlot, ActorUnavailable};
use relevo_domain::{AmbiguousPolicy, Class, Failure, RetryPolicy};

pub use supervisor::{Arguments, Msg, RetrySupervisor};

/// How failures are judged, for each class of messages.
#[derive(Debug, Clone)]
pub struct Options {
    pub transactional: RetryPolicy,
    pub bulk: RetryPolicy,
}

impl Default for Options {
    fn default() -> Self {
        let policy = RetryPolicy {
            max_attempts: 5,
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            ambiguous_wait: Duration::from_secs(120),
            on_ambiguous: AmbiguousPolicy::Hold,
        };
        Self { transactional: policy, bulk: policy }
    }
}

impl Options {
    pub fn policy(&self, class: Class) -> &RetryPolicy {
        match class {
            Class::Transactional => &self.transactional,
            Class::Bulk => &self.bulk,
        }
    }
}

/// The way to report failures. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    slot: ActorSlot<Msg>,
}

impl Handle {
    pub fn new(slot: ActorSlot<Msg>) -> Self {
        Self { slot }
    }

    /// An attempt failed. The lease is settled by what is decided, soon.
    pub fn report_failure(&self, lease: Lease, failure: Failure) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::AttemptFailed(Box::new(lease), failure))
    }
}
