//! Skeleton.
use std::time::Duration;

/// How long things are kept and held.
#[derive(Debug, Clone)]
pub struct Options {
    /// A lease that nobody settled for this long is judged by `retry`. Longer than any send can take.
    pub lease_timeout: Duration,
    /// How long an idempotency key answers.
    pub idempotency_ttl: Duration,
    /// Messages of one instance that may wait; more are refused with 429.
    pub capacity: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease_timeout: Duration::from_secs(90),
            idempotency_ttl: Duration::from_secs(24 * 3600),
            capacity: 2_000_000,
        }
    }
}
