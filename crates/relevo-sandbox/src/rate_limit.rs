//! Rates: so many a second, with a burst, by the generic cell rate algorithm.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One meter: admits `burst` at once and `per_second` from then on.
#[derive(Debug, Clone)]
pub struct GcraLimiter {
    interval: Duration,
    tolerance: Duration,
    /// When the next one would be due, were they evenly spread.
    theoretical_arrival: Option<Instant>,
}

impl GcraLimiter {
    /// `per_second` may be a fraction; a rate that is not positive admits the burst and then nothing for an hour.
    pub fn new(per_second: f64, burst: u32) -> Self {
        let seconds = if per_second > 0.0 { (1.0 / per_second).min(3600.0) } else { 3600.0 };
        let interval = Duration::from_secs_f64(seconds);
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.saturating_sub(1)),
            theoretical_arrival: None,
        }
    }

    /// Whether one more may pass at `now`. One that may not costs nothing.
    pub fn try_acquire(&mut self, now: Instant) -> bool {
        let due = self.theoretical_arrival.unwrap_or(now).max(now);
        if due.duration_since(now) > self.tolerance {
            return false;
        }
        self.theoretical_arrival = Some(due + self.interval);
        true
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.theoretical_arrival.is_none_or(|due| due <= now)
    }
}

/// The throughput of each phone number, when it is limited at all.
#[derive(Debug)]
pub struct ThroughputLimiter {
    per_second: Option<NonZeroU32>,
    limiters: Mutex<HashMap<Box<str>, GcraLimiter>>,
}

/// Numbers that are metered at once. Beyond it the idle ones are forgotten, and failing that a new one is not
/// held to the limit.
const MAX_TRACKED_NUMBERS: usize = 4096;

impl ThroughputLimiter {
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        Self { per_second, limiters: Mutex::default() }
    }

    pub fn try_acquire(&self, phone_number_id: &str, now: Instant) -> bool {
        let Some(per_second) = self.per_second else { return true };
        let mut meters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = meters.get_mut(phone_number_id) {
            return meter.try_acquire(now);
        }
        if meters.len() >= MAX_TRACKED_NUMBERS {
            meters.retain(|_, meter| !meter.is_idle(now));
        }
        let mut meter = GcraLimiter::new(f64::from(per_second.get()), per_second.get());
        let admitted = meter.try_acquire(now);
        if meters.len() < MAX_TRACKED_NUMBERS {
            meters.insert(phone_number_id.into(), meter);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limiter_allows_a_burst_then_the_rate() {
        let start = Instant::now();
        let mut meter = GcraLimiter::new(10.0, 3);
        assert_eq!((0..5).filter(|_| meter.try_acquire(start)).count(), 3);
        assert!(!meter.try_acquire(start + Duration::from_millis(99)));
        assert!(meter.try_acquire(start + Duration::from_millis(100)));
        assert!(!meter.try_acquire(start + Duration::from_millis(101)));
    }

    #[test]
    fn phone_numbers_have_separate_limits() {
        let now = Instant::now();
        let throughput = ThroughputLimiter::new(NonZeroU32::new(1));
        assert!(throughput.try_acquire("1", now));
        assert!(!throughput.try_acquire("1", now));
        assert!(throughput.try_acquire("2", now));
    }
}
