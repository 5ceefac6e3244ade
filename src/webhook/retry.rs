//! What an attempt means for the event that it was about. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;

use super::Options;
use super::storage::ParkReason;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeliveryOutcome {
    /// The receiver took it: 2xx.
    Delivered,
    /// The receiver does not want it, and says so.
    Refused { cause: String },
    /// Anything else: a later attempt may fare better.
    Failed { cause: String, retry_after: Option<Duration> },
}

impl DeliveryOutcome {
    pub fn failed(cause: impl Into<String>) -> Self {
        DeliveryOutcome::Failed { cause: cause.into(), retry_after: None }
    }

    /// What an answer's status means. 408, 425 and 429 are about the moment (RFC 9110 §15.5.9, RFC 8470 §5.2,
    /// RFC 6585 §4); every other 4xx is about the request, which would be the same again. Redirects are failures,
    /// as Standard Webhooks asks ("Delivery success and failure").
    pub fn from_status(status: u16, cause: String, retry_after: Option<Duration>) -> Self {
        match status {
            200..=299 => DeliveryOutcome::Delivered,
            408 | 425 | 429 => DeliveryOutcome::Failed { cause, retry_after },
            400..=499 => DeliveryOutcome::Refused { cause },
            _ => DeliveryOutcome::Failed { cause, retry_after },
        }
    }
}

/// What the event at the head of a stream has met so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failures {
    /// When its first attempt failed.
    pub since: Timestamp,
    /// Failed attempts.
    pub attempts: u32,
    /// Those among them that were refused for good.
    pub refusals: u32,
    /// What the last one met.
    pub error: String,
}

/// What becomes of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeliveryDecision {
    /// On to the next one.
    Advance,
    /// Again, not before this long; those behind it wait.
    Retry { after: Duration, trouble: Failures },
    /// Put aside for inspection, and on to the next one.
    Park { reason: ParkReason, trouble: Failures },
    /// Nothing more to this endpoint before somebody takes care; it keeps its place.
    Disable { trouble: Failures },
}

/// Decides about the event at the head of a stream after an attempt.
///
/// `others_delivered`: the endpoint took events of other instances since this one's trouble began, so the receiver
/// lives and dislikes this event. `jitter` is a random number from 0 to 1 that spreads attempts over the second half
/// of their delay.
pub(super) fn decide_retry(
    options: &Options,
    before: Option<&Failures>,
    outcome: DeliveryOutcome,
    now: Timestamp,
    others_delivered: bool,
    jitter: f64,
) -> DeliveryDecision {
    let (cause, retry_after, refused) = match outcome {
        DeliveryOutcome::Delivered => return DeliveryDecision::Advance,
        DeliveryOutcome::Refused { cause } => (cause, None, true),
        DeliveryOutcome::Failed { cause, retry_after } => (cause, retry_after, false),
    };
    let trouble = Failures {
        since: before.map_or(now, |before| before.since),
        attempts: before.map_or(0, |before| before.attempts).saturating_add(1),
        refusals: before.map_or(0, |before| before.refusals).saturating_add(u32::from(refused)),
        error: cause,
    };
    let gave_up = now.since(trouble.since) >= options.give_up_after
        && trouble.attempts >= options.give_up_attempts.max(1);
    if refused && trouble.refusals >= options.refusals.max(1) {
        DeliveryDecision::Park { reason: ParkReason::Refused, trouble }
    } else if gave_up && others_delivered {
        DeliveryDecision::Park { reason: ParkReason::Exhausted, trouble }
    } else if gave_up {
        DeliveryDecision::Disable { trouble }
    } else {
        let asked = retry_after.unwrap_or_default().min(options.max_delay);
        DeliveryDecision::Retry { after: backoff(options, trouble.attempts, jitter).max(asked), trouble }
    }
}

/// `first_delay × factor^(attempts-1)`, capped, of which between half and all is waited.
fn backoff(options: &Options, attempts: u32, jitter: f64) -> Duration {
    let factor = options.factor.max(1).saturating_pow(attempts.saturating_sub(1));
    let full = options.first_delay.saturating_mul(factor).min(options.max_delay);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn options() -> Options {
        Options::default()
    }

    fn status(status: u16) -> DeliveryOutcome {
        DeliveryOutcome::from_status(status, status.to_string(), None)
    }

    fn failures(since: u64, attempts: u32, refusals: u32) -> Failures {
        Failures { since: Timestamp(since), attempts, refusals, error: "before".to_owned() }
    }

    fn decide(before: Option<&Failures>, outcome: DeliveryOutcome, now: Timestamp) -> DeliveryDecision {
        decide_retry(&options(), before, outcome, now, false, 1.0)
    }

    #[test]
    fn http_status_maps_to_an_outcome() {
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(status(code), DeliveryOutcome::Delivered, "{code}");
        }
        for code in [100, 301, 302, 307, 308, 408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(status(code), DeliveryOutcome::Failed { .. }), "{code}");
        }
        for code in [400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451] {
            assert!(matches!(status(code), DeliveryOutcome::Refused { .. }), "{code}");
        }
    }

    #[test]
    fn delivered_event_advances_despite_earlier_failures() {
        assert_eq!(
            decide(Some(&failures(0, 500, 2)), DeliveryOutcome::Delivered, Timestamp(u64::MAX)),
            DeliveryDecision::Advance
        );
    }

    /// Plays a receiver that never answers well; the time and the number of attempts until the endpoint is disabled.
    fn run_until_disabled(options: &Options, jitter: f64) -> (Duration, Vec<Duration>) {
        let (start, mut now) = (Timestamp(1_000_000), Timestamp(1_000_000));
        let (mut before, mut pauses) = (None, Vec::new());
        loop {
            match decide_retry(options, before.as_ref(), status(500), now, false, jitter) {
                DeliveryDecision::Retry { after, trouble } => {
                    pauses.push(after);
                    now = now + after;
                    before = Some(trouble);
                }
                DeliveryDecision::Disable { trouble } => {
                    assert_eq!(trouble.since, start);
                    return (now.since(start), pauses);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn delays_grow_and_outlast_a_day() {
        for jitter in [0.0, 0.4, 1.0] {
            let (lasted, pauses) = run_until_disabled(&options(), jitter);
            assert!(lasted >= 24 * HOUR && lasted >= options().give_up_after, "{lasted:?}");
            assert!(pauses.is_sorted(), "{pauses:?}");
            assert!(pauses.iter().all(|&pause| pause <= HOUR && pause >= Duration::from_millis(2500)));
        }
        let (_, pauses) = run_until_disabled(&options(), 1.0);
        let seconds: Vec<_> = pauses.iter().take(8).map(Duration::as_secs).collect();
        assert_eq!(seconds, [5, 15, 45, 135, 405, 1215, 3600, 3600]);
    }

    #[test]
    fn node_downtime_does_not_disable_an_endpoint() {
        let long_ago = failures(0, 2, 0);
        let now = Timestamp(0) + 100 * HOUR;
        assert!(matches!(decide(Some(&long_ago), status(500), now), DeliveryDecision::Retry { .. }));
        let often = failures(0, 30, 0);
        assert!(matches!(decide(Some(&often), status(500), now), DeliveryDecision::Disable { .. }));
    }

    #[test]
    fn three_refusals_park_the_event_despite_failures_between_them() {
        let now = Timestamp(10);
        let DeliveryDecision::Retry { trouble: first, .. } = decide(None, status(422), now) else { panic!() };
        let DeliveryDecision::Retry { trouble: second, .. } = decide(Some(&first), status(404), now) else {
            panic!()
        };
        let DeliveryDecision::Retry { trouble: third, .. } = decide(Some(&second), status(500), now) else {
            panic!()
        };
        assert_eq!((third.attempts, third.refusals), (3, 2));
        let verdict = decide(Some(&third), status(410), now);
        let DeliveryDecision::Park { reason: ParkReason::Refused, trouble } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!((trouble.attempts, trouble.refusals, trouble.error.as_str()), (4, 3, "410"));
    }

    #[test]
    fn endpoint_that_delivers_other_instances_parks_instead_of_disabling() {
        let old = failures(0, 90, 0);
        let now = Timestamp(0) + 80 * HOUR;
        let verdict = decide_retry(&options(), Some(&old), status(500), now, true, 0.5);
        assert!(
            matches!(verdict, DeliveryDecision::Park { reason: ParkReason::Exhausted, .. }),
            "{verdict:?}"
        );
    }

    #[test]
    fn retry_after_is_honoured_within_limits() {
        let asked = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            decide(None, DeliveryOutcome::from_status(503, String::new(), retry_after), Timestamp(0))
        };
        for (asked_for, waited) in [(0, 5), (4, 5), (90, 90), (1_000_000, 3600)] {
            let DeliveryDecision::Retry { after, .. } = asked(asked_for) else { panic!() };
            assert_eq!(after, Duration::from_secs(waited), "{asked_for}");
        }
    }

    #[test]
    fn extreme_options_never_panic() {
        let odd = Options { factor: 0, refusals: 0, give_up_attempts: 0, ..options() };
        let verdict =
            decide_retry(&odd, Some(&failures(0, u32::MAX, u32::MAX)), status(500), Timestamp(0), false, 9.0);
        assert!(
            matches!(verdict, DeliveryDecision::Retry { after, .. } if after == odd.first_delay),
            "{verdict:?}"
        );
    }
}
