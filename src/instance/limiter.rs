//! How fast an instance sends: a steady rate for the account, and a pace for each recipient.

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

/// Time as tokio tells it, so that limits and timers agree and tests can move both.
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

/// The limits of one instance.
pub struct Limiter {
    clock: TokioClock,
    account: RateLimiter<NotKeyed, InMemoryState, TokioClock, Middleware>,
    pair: Option<RateLimiter<LaneId, HashMapStateStore<LaneId>, TokioClock, Middleware>>,
    /// The time between two messages at the steady rate.
    period: Duration,
    /// Each pause is longer by a random part of `period`, up to this; 0 is a machine's even pace.
    jitter: f64,
    /// Where there is jitter: nothing leaves before this.
    paused_until: Option<Instant>,
    /// Permits that were taken and found no work. Kept for the next, because governor takes none back.
    reserved: usize,
    checks: u32,
}

/// Messages whose permits come within this time are leased together: long beside a commit, and short enough that few
/// are in doubt when the process is killed, because they are leased and nobody knows whether they began.
const BATCH_WINDOW: Duration = Duration::from_millis(20);

/// After this many recipients were checked, those whose pace is forgotten anyway are dropped from memory.
const PAIR_CLEANUP: u32 = 10_000;

/// The slowest rate that can be set: one message in a day.
const MAX_PERIOD: Duration = Duration::from_secs(24 * 3600);

impl Limiter {
    /// `pair` is the pace to one recipient: one message per interval after a burst. With `jitter` (0 to 1) messages
    /// leave one at a time, and no two pauses are alike.
    pub fn new(rate: RateLimit, pair: Option<(Duration, NonZeroU32)>, jitter: f64) -> Self {
        let clock = TokioClock { started: Instant::now() };
        let period = Duration::try_from_secs_f64(1.0 / rate.per_second).unwrap_or(MAX_PERIOD).min(MAX_PERIOD);
        let account = RateLimiter::direct_with_clock(quota(period, rate.burst), clock.clone());
        let pair = pair.map(|(interval, burst)| {
            RateLimiter::new(quota(interval, burst), HashMapStateStore::default(), clock.clone())
        });
        Self { clock, account, pair, period, jitter, paused_until: None, reserved: 0, checks: 0 }
    }

    /// Permits for messages that leave within [`LOT`], all in all; 0 where that is less than two, and where messages
    /// leave at uneven paces.
    pub fn batch_size(&self) -> usize {
        let lot = BATCH_WINDOW.as_nanos() / self.period.as_nanos().max(1);
        if self.jitter > 0.0 || lot < 2 { 0 } else { usize::try_from(lot).unwrap_or(usize::MAX) }
    }

    /// Whether the next permit is never further away than [`LOT`].
    pub fn is_quick(&self) -> bool {
        self.jitter == 0.0 && self.period <= BATCH_WINDOW
    }

    /// Uses a permit, if `kept` others stay in hand; if not, how long until it is worth while to try again.
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

    /// Takes permits for up to `wanted` messages and tells how many are in hand.
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

    /// Gives a permit back: its message did not leave.
    pub fn refund(&mut self) {
        self.reserved += 1;
    }

    /// How long until the next permit; takes it when it is there already.
    pub fn next_permit_in(&mut self) -> Duration {
        let rest = self.remaining_pause();
        if !rest.is_zero() {
            return rest;
        }
        match self.account.check() {
            Ok(()) => {
                self.reserved += 1;
                Duration::ZERO
            }
            Err(not_until) => self.start_pause(not_until.wait_time_from(self.clock.now())),
        }
    }

    /// What is left of the pause under way.
    fn remaining_pause(&self) -> Duration {
        self.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// A pause from now on, made longer by chance; tells how long it is.
    fn start_pause(&mut self, pause: Duration) -> Duration {
        if self.jitter <= 0.0 {
            return pause;
        }
        let pause = pause + self.period.mul_f64(self.jitter * rand::random::<f64>());
        self.paused_until = Some(Instant::now() + pause);
        pause
    }

    /// Whether another message to this recipient may leave now; if not, how long it must wait.
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
        let lot = |per_second, jitter| {
            Limiter::new(RateLimit { per_second, burst: count(1) }, None, jitter).batch_size()
        };
        assert_eq!([lot(0.33, 0.0), lot(80.0, 0.0), lot(99.0, 0.0), lot(2_000.0, 0.5)], [0; 4]);
        assert_eq!([lot(100.0, 0.0), lot(1_000.0, 0.0)], [2, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_jitter_messages_leave_one_by_one_and_never_faster_than_the_rate() {
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
        assert!(pauses.len() > 25, "hardly two pauses are alike: {pauses:?}");
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
