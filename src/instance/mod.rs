//! Skeleton.
use std::num::NonZeroU32;
use std::time::Duration;

use crate::domain::RateLimit;

/// How instances run, where their own configuration says nothing else.
#[derive(Debug, Clone)]
pub struct Options {
    /// Messages on their way at once.
    pub workers: NonZeroU32,
    /// The steady rate and burst of one instance; Meta's default throughput is 80 messages a second per number.
    pub rate_limit: RateLimit,
    /// The pace to one recipient on the Cloud API: Meta allows one message every 6 s ...
    pub pair_interval: Duration,
    /// ... after a burst of up to 45.
    pub pair_burst: NonZeroU32,
    /// One attempt may take this long; then its outcome is unknown.
    pub send_timeout: Duration,
    /// A synchronous caller waits this long at most.
    pub sync_wait: Duration,
    /// How often the watchdog looks whether the client still answers ...
    pub probe_interval: Duration,
    /// ... and how long it waits for the answer. Three misses, and the client is replaced.
    pub probe_timeout: Duration,
    /// The pause before the first restart; doubled by each that follows.
    pub restart_delay: Duration,
    /// No pause before a restart is longer.
    pub restart_max_delay: Duration,
    /// More panics than this within a minute, and the instance is parked as failed.
    pub restart_limit: u32,
}

impl Default for Options {
    fn default() -> Self {
        let number = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            workers: number(10),
            rate_limit: RateLimit { per_second: 80.0, burst: number(80) },
            pair_interval: Duration::from_secs(6),
            pair_burst: number(45),
            send_timeout: Duration::from_secs(30),
            sync_wait: Duration::from_secs(30),
            probe_interval: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(10),
            restart_delay: Duration::from_secs(1),
            restart_max_delay: Duration::from_secs(300),
            restart_limit: 5,
        }
    }
}
