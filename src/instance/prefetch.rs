//! How many messages are leased before a worker is free.
//!
//! The prefetch covers what the workers send while a lease request is under way. It is zero where sending takes so much
//! longer than leasing that waiting for a lease costs almost nothing (Meta answers in some hundred milliseconds). A
//! message that is leased and has not begun when the process is killed has an unknown outcome, so the prefetch is never
//! larger than throughput needs.

use std::time::Duration;

/// Moving averages of the times of lease requests and attempts, and the prefetch that follows from them.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    lease_time: Option<Duration>,
    send_time: Option<Duration>,
}

/// Maximum prefetch per worker.
pub(super) const MAX_PER_WORKER: usize = 3;

/// Below this ratio of lease time to send time there is no prefetch.
const MIN_RATIO: f64 = 0.1;

impl Prefetch {
    /// Adds the duration of a lease request to the average.
    pub fn record_lease_time(&mut self, took: Duration) {
        update_average(&mut self.lease_time, took);
    }

    /// Adds the duration of an attempt to the average.
    pub fn record_send_time(&mut self, took: Duration) {
        update_average(&mut self.send_time, took);
    }

    /// Number of leases beyond one per worker.
    pub fn extra(&self, workers: usize) -> usize {
        let (Some(lease_time), Some(send_time)) = (self.lease_time, self.send_time) else { return 0 };
        let ratio = lease_time.as_secs_f64() / send_time.as_secs_f64().max(f64::EPSILON);
        let tenths = if ratio < MIN_RATIO { 0.0 } else { (ratio.min(MAX_PER_WORKER as f64) * 10.0).ceil() };
        workers * tenths as usize / 10
    }
}

/// Exponential moving average: each new value has the weight 1/8.
fn update_average(average: &mut Option<Duration>, new: Duration) {
    *average = Some(average.map_or(new, |average| (average * 7 + new) / 8));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extra(leasing_micros: u64, sending_micros: u64) -> usize {
        let mut prefetch = Prefetch::default();
        prefetch.record_lease_time(Duration::from_micros(leasing_micros));
        prefetch.record_send_time(Duration::from_micros(sending_micros));
        prefetch.extra(10)
    }

    #[test]
    fn prefetch_is_zero_when_sending_is_much_slower_than_leasing() {
        assert_eq!(Prefetch::default().extra(10), 0);
        assert_eq!(extra(1_000, 300_000), 0);
        assert_eq!(extra(1_000, 2_000), 5);
        assert_eq!(extra(1_000, 1_000), 10);
        assert_eq!(extra(9_000, 100), 30);
        assert_eq!(extra(9_000, 0), 30);
    }
}
