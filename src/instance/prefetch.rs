use std::time::Duration;

/// How much is leased ahead of free workers: as much as they send while a lease is under way, and nothing where
/// sending takes so much longer than leasing that waiting for a lease costs next to nothing (as with Meta, some
/// hundred milliseconds away). What is leased and not begun when the process is killed has an unknown outcome, so it
/// is never more than speed needs.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    lease_time: Option<Duration>,
    send_time: Option<Duration>,
}

/// The most that is leased ahead for each worker.
pub(super) const MAX_PER_WORKER: usize = 3;

/// Where leasing takes less than this part of sending, nothing is leased ahead.
const MIN_RATIO: f64 = 0.1;

impl Prefetch {
    pub fn record_lease_time(&mut self, took: Duration) {
        update_average(&mut self.lease_time, took);
    }

    pub fn record_send_time(&mut self, took: Duration) {
        update_average(&mut self.send_time, took);
    }

    /// Leases beyond one for each worker.
    pub fn extra(&self, workers: usize) -> usize {
        let (Some(leasing), Some(sending)) = (self.lease_time, self.send_time) else { return 0 };
        let ratio = leasing.as_secs_f64() / sending.as_secs_f64().max(f64::EPSILON);
        let tenths = if ratio < MIN_RATIO { 0.0 } else { (ratio.min(MAX_PER_WORKER as f64) * 10.0).ceil() };
        workers * tenths as usize / 10
    }
}

/// What happened lately matters: each new time counts an eighth.
fn update_average(known: &mut Option<Duration>, new: Duration) {
    *known = Some(known.map_or(new, |known| (known * 7 + new) / 8));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extra(leasing_micros: u64, sending_micros: u64) -> usize {
        let mut ahead = Prefetch::default();
        ahead.record_lease_time(Duration::from_micros(leasing_micros));
        ahead.record_send_time(Duration::from_micros(sending_micros));
        ahead.extra(10)
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
