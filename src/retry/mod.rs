//! Skeleton.
use crate::domain::{AmbiguousPolicy, RetryPolicy};
use std::time::Duration;

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
