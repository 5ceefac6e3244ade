//! The one door to the wall clock.
//!
//! Every room that needs to know what time it is holds a [`Clock`]. In production it is the machine's; in tests it
//! starts at a chosen moment and moves with tokio's (pausable) time, so an hour passes in a millisecond and
//! durable due times agree with the timers that wait for them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use relevo_domain::Timestamp;

/// Tells wall time. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock(ClockSource);

#[derive(Debug, Clone, Copy)]
enum ClockSource {
    System,
    /// Wall time as tokio's clock would have it, counted from a moment at which both were read.
    Tokio {
        started: Instant,
        at: Timestamp,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(ClockSource::System)
    }

    /// A clock that shows `at` now and from here on moves with tokio's time, paused or not.
    pub fn from_tokio(at: Timestamp) -> Self {
        Self(ClockSource::Tokio { started: Instant::now(), at })
    }

    pub fn now(&self) -> Timestamp {
        match self.0 {
            ClockSource::System => system_now(),
            ClockSource::Tokio { started, at } => at + started.elapsed(),
        }
    }

    /// How long it is until `moment`; zero when it has passed.
    pub fn until(&self, moment: Timestamp) -> Duration {
        moment.since(self.now())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the door to the machine's clock")]
fn system_now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
