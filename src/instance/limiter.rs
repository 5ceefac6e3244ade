//! Rate limits of one instance: one for the account and one for each recipient.
//!
//! The limiter reads no clock: every method that depends on time gets the time since the start of the actor. A permit that
//! was taken and not used stays reserved for the next message.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use relevo_clock::Random;
use relevo_domain::{LaneId, RateLimit};

type Middleware = NoOpMiddleware<Nanos>;

/// A governor clock that shows the time of the event that the limiter handles.
#[derive(Debug, Clone, Default)]
struct EventClock(Arc<AtomicU64>);

impl EventClock {
    fn set(&self, now: Duration) {
        self.0.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for EventClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

/// Rate limits of one instance.
pub struct Limiter {
    clock: EventClock,
    account: RateLimiter<NotKeyed, InMemoryState, EventClock, Middleware>,
    pair: Option<RateLimiter<LaneId, HashMapStateStore<LaneId>, EventClock, Middleware>>,
    /// Interval between two messages at the steady rate.
    period: Duration,
    /// Maximum random extension of each interval, as a fraction of `period`. 0: intervals are even.
    jitter: f64,
    /// With jitter: no permit before this time.
    paused_until: Option<Duration>,
    /// Permits that were taken and not used. They are kept because governor takes none back.
    reserved: usize,
    checks: u32,
    /// For the jitter.
    random: Random,
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
    /// are granted one at a time, at intervals that `random` extends.
    pub fn new(rate: RateLimit, pair: Option<(Duration, NonZeroU32)>, jitter: f64, random: Random) -> Self {
        let clock = EventClock::default();
        let period = Duration::try_from_secs_f64(1.0 / rate.per_second).unwrap_or(MAX_PERIOD).min(MAX_PERIOD);
        let account = RateLimiter::direct_with_clock(quota(period, rate.burst), clock.clone());
        let pair = pair.map(|(interval, burst)| {
            RateLimiter::new(quota(interval, burst), HashMapStateStore::default(), clock.clone())
        });
        Self { clock, account, pair, period, jitter, paused_until: None, reserved: 0, checks: 0, random }
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
    pub fn acquire(&mut self, kept: usize, now: Duration) -> Result<(), Duration> {
        while self.reserve(1 + kept, now) <= kept {
            let wait = self.next_permit_in(now);
            if !wait.is_zero() {
                return Err(wait);
            }
        }
        self.spend(1, now);
        Ok(())
    }

    /// Reserves up to `wanted` permits and returns how many are reserved.
    pub fn reserve(&mut self, wanted: usize, now: Duration) -> usize {
        self.clock.set(now);
        if !self.remaining_pause(now).is_zero() {
            return 0;
        }
        let wanted = if self.jitter > 0.0 { wanted.min(1) } else { wanted };
        while self.reserved < wanted && self.account.check().is_ok() {
            self.reserved += 1;
        }
        self.reserved.min(wanted)
    }

    fn spend(&mut self, count: usize, now: Duration) {
        self.reserved = self.reserved.saturating_sub(count);
        if count > 0 {
            self.start_pause(Duration::ZERO, now);
        }
    }

    /// Returns a permit whose message was not sent.
    pub fn refund(&mut self) {
        self.reserved += 1;
    }

    /// Time until the next permit. Reserves the permit if it is available now.
    pub fn next_permit_in(&mut self, now: Duration) -> Duration {
        self.clock.set(now);
        let remaining = self.remaining_pause(now);
        if !remaining.is_zero() {
            return remaining;
        }
        match self.account.check() {
            Ok(()) => {
                self.reserved += 1;
                Duration::ZERO
            }
            Err(not_until) => self.start_pause(not_until.wait_time_from(self.clock.now()), now),
        }
    }

    /// Remaining time of the current pause.
    fn remaining_pause(&self, now: Duration) -> Duration {
        self.paused_until.map_or(Duration::ZERO, |until| until.saturating_sub(now))
    }

    /// With jitter, starts a pause with a random extension. Returns the length of the pause.
    fn start_pause(&mut self, pause: Duration, now: Duration) -> Duration {
        if self.jitter <= 0.0 {
            return pause;
        }
        let pause = pause + self.period.mul_f64(self.jitter * self.random.value::<f64>());
        self.paused_until = Some(now + pause);
        pause
    }

    /// Uses a permit of this recipient, if the provider limits messages to one recipient.
    ///
    /// # Errors
    ///
    /// The recipient has no permit; the error is the time to wait.
    pub fn check_recipient(&mut self, recipient: LaneId, now: Duration) -> Result<(), Duration> {
        self.clock.set(now);
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

    const SECOND: Duration = Duration::from_secs(1);
    const START: Duration = Duration::ZERO;

    fn count(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn limiter(per_second: f64, burst: u32, jitter: f64) -> Limiter {
        Limiter::new(RateLimit { per_second, burst: count(burst) }, None, jitter, Random::seeded(1))
    }

    #[test]
    fn account_limit_allows_a_burst_then_the_steady_rate() {
        let mut limiter = limiter(10.0, 5, 0.0);
        assert_eq!(limiter.reserve(100, START), 5);
        limiter.spend(5, START);
        assert_eq!(limiter.reserve(100, START), 0);
        assert_eq!(limiter.reserve(100, Duration::from_millis(301)), 3);
    }

    #[test]
    fn unused_permit_stays_reserved() {
        let mut limiter = limiter(1.0, 3, 0.0);
        assert_eq!(limiter.reserve(3, START), 3);
        limiter.spend(1, START);
        assert_eq!(limiter.reserve(3, START), 2);
        assert!(limiter.next_permit_in(START) > Duration::ZERO);
    }

    #[test]
    fn reserved_permit_is_available_to_acquire_without_reserve() {
        let mut limiter = limiter(1000.0, 1, 0.0);
        let wait = limiter.acquire(1, START).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(1), "{wait:?}");
        let now = Duration::from_millis(1);
        assert_eq!(limiter.acquire(1, now), Ok(()));
        assert!(limiter.acquire(1, now).is_err());
        assert_eq!(limiter.acquire(0, now), Ok(()));
        assert!(limiter.acquire(0, now).is_err());
    }

    #[test]
    fn only_fast_rates_without_jitter_have_batches() {
        let batch_size = |per_second, jitter| limiter(per_second, 1, jitter).batch_size();
        let (slow, jittered) =
            ([0.33, 80.0, 99.0].map(|rate| batch_size(rate, 0.0)), batch_size(2_000.0, 0.5));
        assert_eq!((slow, jittered), ([0; 3], 0));
        assert_eq!([batch_size(100.0, 0.0), batch_size(1_000.0, 0.0)], [2, 20]);
    }

    #[test]
    fn jitter_grants_one_permit_at_a_time_and_never_exceeds_the_rate() {
        let mut limiter = limiter(1.0, 1, 0.5);
        let (mut now, mut last, mut pauses) = (START, START, Vec::new());
        for _ in 0..50 {
            while limiter.reserve(10, now) == 0 {
                now += limiter.next_permit_in(now).max(Duration::from_millis(1));
            }
            assert_eq!(limiter.reserve(10, now), 1);
            limiter.spend(1, now);
            pauses.push(now - last);
            last = now;
        }
        let (least, most) = (Duration::from_millis(999), Duration::from_millis(1_510));
        assert!(pauses.iter().skip(1).all(|pause| (least..most).contains(pause)), "{pauses:?}");
        pauses.sort();
        pauses.dedup();
        assert!(pauses.len() > 25, "most pauses should differ: {pauses:?}");
    }

    #[test]
    fn each_recipient_has_its_own_rate_limit() {
        let rate = RateLimit { per_second: 80.0, burst: count(80) };
        let mut limiter = Limiter::new(rate, Some((6 * SECOND, count(2))), 0.0, Random::seeded(1));
        let (ana, eva) = (LaneId(1), LaneId(2));
        assert_eq!(
            [limiter.check_recipient(ana, START), limiter.check_recipient(ana, START)],
            [Ok(()), Ok(())]
        );
        let wait = limiter.check_recipient(ana, START).unwrap_err();
        assert!(wait > 5 * SECOND && wait <= 6 * SECOND, "{wait:?}");
        assert_eq!(limiter.check_recipient(eva, START), Ok(()));
        assert_eq!(limiter.check_recipient(ana, wait), Ok(()));
    }
}
