//! Rates: so many a second, with a burst, by the generic cell rate algorithm.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One meter: admits `burst` at once and `per_second` from then on.
#[derive(Debug, Clone)]
pub struct Meter {
    interval: Duration,
    tolerance: Duration,
    /// When the next one would be due, were they evenly spread.
    due: Option<Instant>,
}

impl Meter {
    /// `per_second` may be a fraction; a rate that is not positive admits the burst and then nothing for an hour.
    pub fn new(per_second: f64, burst: u32) -> Self {
        let seconds = if per_second > 0.0 { (1.0 / per_second).min(3600.0) } else { 3600.0 };
        let interval = Duration::from_secs_f64(seconds);
        Self { interval, tolerance: interval.saturating_mul(burst.saturating_sub(1)), due: None }
    }

    /// Whether one more may pass at `now`. One that may not costs nothing.
    pub fn admit(&mut self, now: Instant) -> bool {
        let due = self.due.unwrap_or(now).max(now);
        if due.duration_since(now) > self.tolerance {
            return false;
        }
        self.due = Some(due + self.interval);
        true
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }
}

/// The throughput of each phone number, when it is limited at all.
#[derive(Debug)]
pub struct Throughput {
    per_second: Option<NonZeroU32>,
    meters: Mutex<HashMap<Box<str>, Meter>>,
}

/// Numbers that are metered at once. Beyond it the idle ones are forgotten, and failing that a new one is not
/// held to the limit.
const METERED_NUMBERS: usize = 4096;

impl Throughput {
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        Self { per_second, meters: Mutex::default() }
    }

    pub fn admit(&self, phone_number_id: &str, now: Instant) -> bool {
        let Some(per_second) = self.per_second else { return true };
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = meters.get_mut(phone_number_id) {
            return meter.admit(now);
        }
        if meters.len() >= METERED_NUMBERS {
            meters.retain(|_, meter| !meter.is_idle(now));
        }
        let mut meter = Meter::new(f64::from(per_second.get()), per_second.get());
        let admitted = meter.admit(now);
        if meters.len() < METERED_NUMBERS {
            meters.insert(phone_number_id.into(), meter);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut meter = Meter::new(10.0, 3);
        assert_eq!((0..5).filter(|_| meter.admit(start)).count(), 3);
        assert!(!meter.admit(start + Duration::from_millis(99)));
        assert!(meter.admit(start + Duration::from_millis(100)));
        assert!(!meter.admit(start + Duration::from_millis(101)));
    }

    #[test]
    fn numbers_do_not_share_their_throughput() {
        let now = Instant::now();
        let throughput = Throughput::new(NonZeroU32::new(1));
        assert!(throughput.admit("1", now));
        assert!(!throughput.admit("1", now));
        assert!(throughput.admit("2", now));
    }
}
