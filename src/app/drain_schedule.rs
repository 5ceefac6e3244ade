//! How long each part of a shutdown may last: one deadline for all of them.

use std::time::Duration;

use tokio::time::Instant;

/// The deadlines of a shutdown. A part that ends early leaves its time to the next ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct DrainSchedule {
    /// For jobs and attempts. The rest is for what they leave behind: commits, webhooks, the relay.
    attempts: Instant,
    all: Instant,
}

impl DrainSchedule {
    /// The schedule of a shutdown that began at `began` and lasts at most `drain`.
    pub fn new(began: Instant, drain: Duration) -> Self {
        Self { attempts: began + drain * 9 / 10, all: began + drain }
    }

    /// The part of `drain` that requests in progress may use: half of it. An attempt that they wait for goes on meanwhile.
    pub fn for_requests(drain: Duration) -> Duration {
        drain / 2
    }

    /// Time left for jobs and attempts.
    pub fn left_for_attempts(&self) -> Duration {
        self.attempts.saturating_duration_since(Instant::now())
    }

    /// Time left for all parts.
    pub fn left(&self) -> Duration {
        self.all.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_share_one_deadline() {
        let (began, drain) = (Instant::now(), Duration::from_secs(20));
        let schedule = DrainSchedule::new(began, drain);
        assert_eq!(DrainSchedule::for_requests(drain), Duration::from_secs(10));
        // Every part uses all of its time.
        tokio::time::sleep(DrainSchedule::for_requests(drain)).await;
        for _ in ["bulk", "instances"] {
            tokio::time::sleep(schedule.left_for_attempts()).await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(18));
        for _ in ["queue", "webhooks", "relay"] {
            tokio::time::sleep(schedule.left()).await;
        }
        assert_eq!(began.elapsed(), drain);
    }
}
