//! Rate limits of one instance: one for the account and one for each recipient.
//!
//! A permit that was taken and not used stays reserved for the next message.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use relevo_domain::{LaneId, RateLimit};

type Middleware = NoOpMiddleware<Nanos>;

/// tokio's clock as a governor clock, so that limits and timers agree and tests can move both.
#[derive(Debug, Clone)]
struct TokioClock {
    started: Instant,
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.started.elapsed().into()
    }
}

/// Rate limits of one instance.
pub struct Limiter {
    clock: TokioClock,
    account: RateLimiter<NotKeyed, InMemoryState, TokioClock, Middleware>,
    pair: Option<RateLimiter<LaneId, HashMapStateStore<LaneId>, TokioClock, Middleware>>,
    /// Interval between two messages at the steady rate.
    period: Duration,
    /// Maximum random extension of each interval, as a fraction of `period`. 0: intervals are even.
    jitter: f64,
    /// With jitter: no permit before this time.
    paused_until: Option<Instant>,
    /// Permits that were taken and not used. They are kept because governor takes none back.
    reserved: usize,
    checks: u32,
}

/// Messages whose permits come within this time are leased together. It is long compared with a commit. It is short
/// enough that few messages have an unknown outcome when the process is killed while they are leased.
const BATCH_WINDOW: Duration = Duration::from_millis(20);

/// Number of recipient checks after which expired recipient limits are removed from memory.
const PAIR_CLEANUP: u32 = 10_000;

/// Period of the slowest rate: one message per day.
const MAX_PERIOD: Duration = Duration::from_secs(24 * 3600);

impl Limiter {
    /// `pair` limits messages to one recipient: one message per interval after a burst. With `jitter` (0 to 1) permits
    /// are granted one at a time, at random intervals.
    pub fn new(rate: RateLimit, pair: Option<(Duration, NonZeroU32)>, jitter: f64) -> Self {
        let clock = TokioClock { started: Instant::now() };
        let period = Duration::try_from_secs_f64(1.0 / rate.per_second).unwrap_or(MAX_PERIOD).min(MAX_PERIOD);
        let account = RateLimiter::direct_with_clock(quota(period, rate.burst), clock.clone());
        let pair = pair.map(|(interval, burst)| {
            RateLimiter::new(quota(interval, burst), HashMapStateStore::default(), clock.clone())
        });
        Self { clock, account, pair, period, jitter, paused_until: None, reserved: 0, checks: 0 }
    }

    /// Number of permits within [`BATCH_WINDOW`]. 0 if that is less than two, and 0 with jitter: then nothing is leased
    /// before its permit.
    pub fn batch_size(&self) -> usize {
        let batch = BATCH_WINDOW.as_nanos() / self.period.as_nanos().max(1);
        if self.jitter > 0.0 || batch < 2 { 0 } else { usize::try_from(batch).unwrap_or(usize::MAX) }
    }

    /// Whether the next permit always comes within [`BATCH_WINDOW`].
    pub fn is_quick(&self) -> bool {
        self.jitter == 0.0 && self.period <= BATCH_WINDOW
    }

    /// Uses one permit and leaves `kept` reserved. Otherwise returns the time until another try is worthwhile.
    ///
    /// # Errors
    ///
    /// There are fewer than `kept + 1` permits; the error is the time to wait.
    pub fn acquire(&mut self, kept: usize) -> Result<(), Duration> {
        while self.reserve(1 + kept) <= kept {
            let wait = self.next_permit_in();
            if !wait.is_zero() {
                return Err(wait);
            }
        }
        self.spend(1);
        Ok(())
    }

    /// Reserves up to `wanted` permits and returns how many are reserved.
    pub fn reserve(&mut self, wanted: usize) -> usize {
        if !self.remaining_pause().is_zero() {
            return 0;
        }
        let wanted = if self.jitter > 0.0 { wanted.min(1) } else { wanted };
        while self.reserved < wanted && self.account.check().is_ok() {
            self.reserved += 1;
        }
        self.reserved.min(wanted)
    }

    fn spend(&mut self, count: usize) {
        self.reserved = self.reserved.saturating_sub(count);
        if count > 0 {
            self.start_pause(Duration::ZERO);
        }
    }

    /// Returns a permit whose message was not sent.
    pub fn refund(&mut self) {
        self.reserved += 1;
    }

    /// Time until the next permit. Reserves the permit if it is available now.
    pub fn next_permit_in(&mut self) -> Duration {
        let remaining = self.remaining_pause();
        if !remaining.is_zero() {
            return remaining;
        }
        match self.account.check() {
            Ok(()) => {
                self.reserved += 1;
                Duration::ZERO
            }
            Err(not_until) => self.start_pause(not_until.wait_time_from(self.clock.now())),
        }
    }

    /// Remaining time of the current pause.
    fn remaining_pause(&self) -> Duration {
        self.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// With jitter, starts a pause with a random extension. Returns the length of the pause.
    fn start_pause(&mut self, pause: Duration) -> Duration {
        if self.jitter <= 0.0 {
            return pause;
        }
        let pause = pause + self.period.mul_f64(self.jitter * rand::random::<f64>());
        self.paused_until = Some(Instant::now() + pause);
        pause
    }

    /// Uses a permit of this recipient, if the provider limits messages to one recipient.
    ///
    /// # Errors
    ///
    /// The recipient has no permit; the error is the time to wait.
    pub fn check_recipient(&mut self, recipient: LaneId) -> Result<(), Duration> {
        let Some(pair) = &self.pair else { return Ok(()) };
        self.checks += 1;
        if self.checks >= PAIR_CLEANUP {
            self.checks = 0;
            pair.retain_recent();
            pair.shrink_to_fit();
        }
        pair.check_key(&recipient).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

fn quota(period: Duration, burst: NonZeroU32) -> Quota {
    let period = period.max(Duration::from_nanos(1));
    Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MAX)).allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn account_limit_allows_a_burst_then_the_steady_rate() {
        let mut limiter = Limiter::new(RateLimit { per_second: 10.0, burst: count(5) }, None, 0.0);
        assert_eq!(limiter.reserve(100), 5);
        limiter.spend(5);
        assert_eq!(limiter.reserve(100), 0);
        tokio::time::advance(Duration::from_millis(301)).await;
        assert_eq!(limiter.reserve(100), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn unused_permit_stays_reserved() {
        let mut limiter = Limiter::new(RateLimit { per_second: 1.0, burst: count(3) }, None, 0.0);
        assert_eq!(limiter.reserve(3), 3);
        limiter.spend(1);
        assert_eq!(limiter.reserve(3), 2);
        assert!(limiter.next_permit_in() > Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn reserved_permit_is_available_to_acquire_without_reserve() {
        let mut limiter = Limiter::new(RateLimit { per_second: 1000.0, burst: count(1) }, None, 0.0);
        let wait = limiter.acquire(1).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(1), "{wait:?}");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(limiter.acquire(1), Ok(()));
        assert!(limiter.acquire(1).is_err());
        assert_eq!(limiter.acquire(0), Ok(()));
        assert!(limiter.acquire(0).is_err());
    }

    #[test]
    fn only_fast_rates_without_jitter_have_batches() {
        let batch_size = |per_second, jitter| {
            Limiter::new(RateLimit { per_second, burst: count(1) }, None, jitter).batch_size()
        };
        assert_eq!(
            [batch_size(0.33, 0.0), batch_size(80.0, 0.0), batch_size(99.0, 0.0), batch_size(2_000.0, 0.5)],
            [0; 4]
        );
        assert_eq!([batch_size(100.0, 0.0), batch_size(1_000.0, 0.0)], [2, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_grants_one_permit_at_a_time_and_never_exceeds_the_rate() {
        let mut limiter = Limiter::new(RateLimit { per_second: 1.0, burst: count(1) }, None, 0.5);
        let mut pauses = Vec::new();
        let mut last = Instant::now();
        for _ in 0..50 {
            while limiter.reserve(10) == 0 {
                tokio::time::advance(limiter.next_permit_in().max(Duration::from_millis(1))).await;
            }
            assert_eq!(limiter.reserve(10), 1);
            limiter.spend(1);
            pauses.push(last.elapsed());
            last = Instant::now();
        }
        let (least, most) = (Duration::from_millis(999), Duration::from_millis(1_510));
        assert!(pauses.iter().skip(1).all(|pause| (least..most).contains(pause)), "{pauses:?}");
        pauses.sort();
        pauses.dedup();
        assert!(pauses.len() > 25, "most pauses should differ: {pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_recipient_has_its_own_rate_limit() {
        let pair = Some((Duration::from_secs(6), count(2)));
        let mut limiter = Limiter::new(RateLimit { per_second: 80.0, burst: count(80) }, pair, 0.0);
        let (ana, eva) = (LaneId(1), LaneId(2));
        assert_eq!([limiter.check_recipient(ana), limiter.check_recipient(ana)], [Ok(()), Ok(())]);
        let wait = limiter.check_recipient(ana).unwrap_err();
        assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(6), "{wait:?}");
        assert_eq!(limiter.check_recipient(eva), Ok(()));
        tokio::time::advance(wait).await;
        assert_eq!(limiter.check_recipient(ana), Ok(()));
    }
}
