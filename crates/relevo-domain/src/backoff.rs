//! The delay between attempts: exponential, capped, with optional jitter.

use std::time::Duration;

/// An exponential backoff: `first × factor^(failures-1)`, capped at `max`.
///
/// The type holds no state: the caller counts consecutive failures and passes a random number, so that every delay can
/// be tested. No combination of values panics or overflows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    first: Duration,
    factor: u32,
    max: Duration,
    /// Share of the delay that is random, from 0 to 1.
    jitter: f64,
}

impl Backoff {
    /// A backoff without jitter. A `factor` of 0 counts as 1, which makes the delay constant; a `first` above `max` is
    /// cut to `max`.
    pub const fn new(first: Duration, factor: u32, max: Duration) -> Self {
        let factor = if factor == 0 { 1 } else { factor };
        Self { first, factor, max, jitter: 0.0 }
    }

    /// Makes this share of the delay random: with 0.5, [`delay`](Self::delay) lies between half of the full delay and
    /// all of it. The share is clamped to 0..=1.
    #[must_use]
    pub const fn with_jitter(self, share: f64) -> Self {
        Self { jitter: share.clamp(0.0, 1.0), ..self }
    }

    /// The delay after this many consecutive failures, without jitter; 0 counts as 1.
    pub fn full_delay(&self, failures: u32) -> Duration {
        let growth = self.factor.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(growth).min(self.max)
    }

    /// The delay after this many consecutive failures. `random` is a random number from 0 to 1: 0 gives the shortest
    /// delay, `full_delay × (1 - jitter)`, and 1 the full delay. Values outside 0..=1 are clamped.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let full = self.full_delay(failures);
        let share = self.jitter * (1.0 - random.clamp(0.0, 1.0));
        // The product cannot be represented when `random` is NaN, or near `Duration::MAX`: then there is no jitter.
        let cut = Duration::try_from_secs_f64(full.as_secs_f64() * share).unwrap_or_default();
        full.saturating_sub(cut)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delay_grows_by_the_factor_up_to_the_maximum() {
        let backoff = Backoff::new(5 * SECOND, 3, 3600 * SECOND);
        let seconds: Vec<_> = (1..=8).map(|failures| backoff.full_delay(failures).as_secs()).collect();
        assert_eq!(seconds, [5, 15, 45, 135, 405, 1215, 3600, 3600]);
        assert_eq!(backoff.full_delay(0), 5 * SECOND);
        assert_eq!(backoff.delay(3, 0.0), backoff.full_delay(3), "no jitter unless asked for");
    }

    #[test]
    fn jitter_shortens_the_delay_by_at_most_its_share() {
        let half = Backoff::new(10 * SECOND, 2, 60 * SECOND).with_jitter(0.5);
        assert_eq!([0.0, 0.5, 1.0].map(|random| half.delay(1, random).as_millis()), [5_000, 7_500, 10_000]);
        let most = Backoff::new(5 * SECOND, 2, 60 * SECOND).with_jitter(0.9);
        assert_eq!([0.0, 1.0].map(|random| most.delay(1, random).as_millis()), [500, 5_000]);
    }

    #[test]
    fn zero_factor_gives_a_constant_delay() {
        let backoff = Backoff::new(SECOND, 0, 60 * SECOND);
        assert_eq!([1, 2, u32::MAX].map(|failures| backoff.full_delay(failures)), [SECOND; 3]);
    }

    #[test]
    fn extreme_values_never_panic() {
        let backoff = Backoff::new(Duration::MAX, u32::MAX, Duration::MAX).with_jitter(f64::INFINITY);
        for random in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 1.0, 9.0, f64::INFINITY] {
            assert!(backoff.delay(u32::MAX, random) <= Duration::MAX);
        }
        assert_eq!(backoff.delay(1, 1.0), Duration::MAX);
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0..100_000_u64).prop_map(Duration::from_millis),
            any::<(u64, u32)>().prop_map(|(secs, nanos)| Duration::new(secs, nanos % 1_000_000_000)),
        ]
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        (any_duration(), prop_oneof![0..10_u32, any::<u32>()], any_duration(), any::<f64>())
            .prop_map(|(first, factor, max, share)| Backoff::new(first, factor, max).with_jitter(share))
    }

    proptest! {
        #[test]
        fn full_delay_is_monotone_and_capped(backoff in any_backoff(), failures in prop_oneof![0..100_u32, any::<u32>()]) {
            let (now, next) = (backoff.full_delay(failures), backoff.full_delay(failures.saturating_add(1)));
            prop_assert!(now <= next && next <= backoff.max);
            prop_assert!(now >= backoff.first.min(backoff.max));
        }

        #[test]
        fn jittered_delay_stays_within_its_share(
            backoff in any_backoff(),
            failures in prop_oneof![0..100_u32, any::<u32>()],
            random in prop_oneof![0.0..=1.0, any::<f64>()],
        ) {
            let (full, delay) = (backoff.full_delay(failures), backoff.delay(failures, random));
            prop_assert!(delay <= full);
            // f64 keeps 52 bits of the seconds.
            let shortest = full.as_secs_f64() * (1.0 - backoff.jitter);
            prop_assert!(delay.as_secs_f64() >= shortest - full.as_secs_f64() * 1e-12 - 1e-9);
        }
    }
}
