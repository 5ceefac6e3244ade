//! The rate limit of requests. There is one key, so there is one limit.

use std::num::NonZeroU32;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use relevo_domain::ErrorKind;

use super::error::ApiError;
use super::{AppState, body};

/// The clock of tokio, which tests can advance.
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

/// Limits requests to a rate a second, with a burst of one second; without a limit, it permits all.
pub(super) struct RequestLimiter(Option<LimiterState>);

struct LimiterState {
    clock: TokioClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>,
}

impl RequestLimiter {
    /// A limiter of this rate; `None` permits all requests.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        Self(per_second.map(|per_second| {
            let clock = TokioClock { started: Instant::now() };
            let limiter = RateLimiter::direct_with_clock(Quota::per_second(per_second), clock.clone());
            LimiterState { clock, limiter }
        }))
    }

    fn check(&self) -> Result<(), ApiError> {
        let Some(LimiterState { clock, limiter }) = &self.0 else { return Ok(()) };
        limiter.check().map_err(|early| {
            let pause = early.earliest_possible().duration_since(clock.now()).into();
            ApiError::new(ErrorKind::Throttled(pause), "more requests a second than http.rate_limit permits")
        })
    }
}

/// Middleware: answers 429 to a request over the rate limit.
pub(super) async fn enforce_rate_limit(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    match state.request_limiter.check() {
        Ok(()) => next.run(request).await,
        Err(error) => {
            body::discard(request, state.options.json_body_limit);
            error.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_over_the_rate_wait_for_the_next_second() {
        let limiter = RequestLimiter::new(NonZeroU32::new(3));
        let served = || (0..10).filter(|_| limiter.check().is_ok()).count();
        assert_eq!(served(), 3);
        assert_eq!(limiter.check().unwrap_err().status(), 429);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(served(), 3);
    }

    #[tokio::test]
    async fn no_limit_accepts_every_request() {
        let limiter = RequestLimiter::new(None);
        assert!((0..10_000).all(|_| limiter.check().is_ok()));
    }
}
