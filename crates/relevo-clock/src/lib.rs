//! Time and random values, which tests determine. `.clippy.toml` refuses every other source of them.
//!
//! - Wall time is read through [`Clock`]. In production it is the system clock. In tests it starts at a chosen moment and
//!   follows tokio's time, which tests can pause: an hour then takes a millisecond, and due times in the store agree with
//!   tokio's timers.
//! - Monotonic time is [`tokio::time::Instant`]. It agrees with tokio's timers and stands still where a test pauses them.
//!   On threads outside the runtime it is the system's monotonic clock.
//! - Random values come from [`Random`]. A test that depends on them seeds it.

mod random;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use relevo_domain::Timestamp;

pub use random::Random;

/// A source of wall time. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock(ClockSource);

#[derive(Debug, Clone, Copy)]
enum ClockSource {
    System,
    /// `at` plus the time that tokio's clock has advanced since `started`.
    Tokio {
        started: Instant,
        at: Timestamp,
    },
}

impl Clock {
    /// The system clock.
    pub fn system() -> Self {
        Self(ClockSource::System)
    }

    /// A clock that shows `at` now and then follows tokio's time, paused or not.
    pub fn from_tokio(at: Timestamp) -> Self {
        Self(ClockSource::Tokio { started: Instant::now(), at })
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match self.0 {
            ClockSource::System => system_now(),
            ClockSource::Tokio { started, at } => at + started.elapsed(),
        }
    }

    /// The time from now until `moment`; zero when it has passed.
    pub fn until(&self, moment: Timestamp) -> Duration {
        moment.since(self.now())
    }
}

#[expect(clippy::disallowed_methods, reason = "the only use of the system clock")]
fn system_now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
