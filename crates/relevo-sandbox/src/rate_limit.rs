//! Rate limits with a burst, by the generic cell rate algorithm (GCRA).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Admits `burst` requests at once and `per_second` requests per second from then on.
#[derive(Debug, Clone)]
pub struct GcraLimiter {
    interval: Duration,
    tolerance: Duration,
    /// Due time of the next request, if the requests were evenly spread.
    theoretical_arrival: Option<Instant>,
}

impl GcraLimiter {
    /// `per_second` may be a fraction. A rate that is not positive admits the burst and then one request per hour.
    pub fn new(per_second: f64, burst: u32) -> Self {
        let seconds = if per_second > 0.0 { (1.0 / per_second).min(3600.0) } else { 3600.0 };
        let interval = Duration::from_secs_f64(seconds);
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.saturating_sub(1)),
            theoretical_arrival: None,
        }
    }

    /// Whether a request may pass at `now`. A refused request consumes nothing.
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

/// The rate limits of all phone numbers, if there is a limit.
#[derive(Debug)]
pub struct ThroughputLimiter {
    per_second: Option<NonZeroU32>,
    limiters: Mutex<HashMap<Box<str>, GcraLimiter>>,
}

/// Maximum number of limited phone numbers. Beyond it, idle limiters are deleted; if none is idle, a new number is
/// not limited.
const MAX_TRACKED_NUMBERS: usize = 4096;

impl ThroughputLimiter {
    /// Limits with this rate; `None` admits everything.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        Self { per_second, limiters: Mutex::default() }
    }

    /// Whether a message of this number may pass at `now`.
    pub fn try_acquire(&self, phone_number_id: &str, now: Instant) -> bool {
        let Some(per_second) = self.per_second else { return true };
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limiter) = limiters.get_mut(phone_number_id) {
            return limiter.try_acquire(now);
        }
        if limiters.len() >= MAX_TRACKED_NUMBERS {
            limiters.retain(|_, limiter| !limiter.is_idle(now));
        }
        let mut limiter = GcraLimiter::new(f64::from(per_second.get()), per_second.get());
        let admitted = limiter.try_acquire(now);
        if limiters.len() < MAX_TRACKED_NUMBERS {
            limiters.insert(phone_number_id.into(), limiter);
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
        let mut limiter = GcraLimiter::new(10.0, 3);
        assert_eq!((0..5).filter(|_| limiter.try_acquire(start)).count(), 3);
        assert!(!limiter.try_acquire(start + Duration::from_millis(99)));
        assert!(limiter.try_acquire(start + Duration::from_millis(100)));
        assert!(!limiter.try_acquire(start + Duration::from_millis(101)));
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
