//! Retries: what happens to a message after a failed attempt.
//!
//! Instances report failed attempts here. The decision (retry, defer, hold, bury, fail) is the pure function
//! [`relevo_domain::decide_retry`]. This module holds the policies, finds overdue attempts, runs retention, and
//! supervises the queue's actor.

mod supervisor;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::queue::Lease;
use crate::supervisor::{ActorSlot, ActorUnavailable};
use relevo_domain::{AmbiguousPolicy, Class, Failure, RetryPolicy};

pub use supervisor::{Arguments, Msg, RetrySupervisor};

/// The retry policies of both classes.
#[derive(Debug, Clone)]
pub struct Options {
    /// For transactional messages.
    pub transactional: RetryPolicy,
    /// For bulk messages.
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
    /// The policy of a class.
    pub fn policy(&self, class: Class) -> &RetryPolicy {
        match class {
            Class::Transactional => &self.transactional,
            Class::Bulk => &self.bulk,
        }
    }
}

/// Reports failures to the supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    slot: ActorSlot<Msg>,
}

impl Handle {
    /// A handle to the supervisor in `slot`.
    pub fn new(slot: ActorSlot<Msg>) -> Self {
        Self { slot }
    }

    /// Reports a failed attempt. The decision settles the lease soon.
    ///
    /// # Errors
    /// [`ActorUnavailable`] when the supervisor is gone; then the lease expires.
    pub fn report_failure(&self, lease: Lease, failure: Failure) -> Result<(), ActorUnavailable> {
        self.slot.cast(Msg::AttemptFailed(Box::new(lease), failure))
    }
}
