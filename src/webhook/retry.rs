//! What follows a delivery attempt: advance, retry, park or disable. Pure functions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use relevo_domain::{Backoff, Timestamp};

use super::Options;
use super::storage::ParkReason;

/// Outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeliveryOutcome {
    /// The receiver accepted the event: 2xx.
    Delivered,
    /// The receiver refuses the event for good.
    Refused { cause: String },
    /// The receiver says that the endpoint is gone for good: 410 (RFC 9110 §15.5.11).
    Gone { cause: String },
    /// Any other failure; a later attempt may succeed.
    Failed { cause: String, retry_after: Option<Duration> },
}

impl DeliveryOutcome {
    /// A failure without `Retry-After`.
    pub fn failed(cause: impl Into<String>) -> Self {
        DeliveryOutcome::Failed { cause: cause.into(), retry_after: None }
    }

    /// The outcome of a response status. 408, 425 and 429 are temporary (RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4).
    /// 401, 404, 405, 407 and 421 are about the address or the access, not about the event: a proxy answers so while the
    /// receiver behind it is redeployed. Every other 4xx but 410 rejects the request, which would be the same again.
    /// Redirects are failures, as Standard Webhooks requires ("Delivery success and failure").
    pub fn from_status(status: u16, cause: String, retry_after: Option<Duration>) -> Self {
        match status {
            200..=299 => DeliveryOutcome::Delivered,
            401 | 404 | 405 | 407 | 408 | 421 | 425 | 429 => DeliveryOutcome::Failed { cause, retry_after },
            410 => DeliveryOutcome::Gone { cause },
            400..=499 => DeliveryOutcome::Refused { cause },
            _ => DeliveryOutcome::Failed { cause, retry_after },
        }
    }
}

/// The failed attempts of the event at the head of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failures {
    /// Time of the first failed attempt.
    pub since: Timestamp,
    /// Number of failed attempts.
    pub attempts: u32,
    /// Number of those that were refused for good.
    pub refusals: u32,
    /// Time of the first of the latest consecutive answers that the endpoint is gone; `None` after another outcome.
    #[serde(default)]
    pub gone_since: Option<Timestamp>,
    /// Error of the last attempt.
    pub error: String,
}

/// What happens to the event after an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeliveryDecision {
    /// It is delivered; the next event follows.
    Advance,
    /// It is attempted again after this delay; the events after it wait.
    Retry { after: Duration, failures: Failures },
    /// It is parked; the next event follows.
    Park { reason: ParkReason, failures: Failures },
    /// The endpoint is disabled until an operator enables it; it keeps its cursors.
    Disable { failures: Failures },
}

/// Decides what happens to the event at the head of a stream after an attempt.
///
/// `others_delivered`: the endpoint accepted events of other instances since the first failure of this event, so the
/// receiver works and rejects this event. `jitter` is a random number from 0 to 1 that spreads attempts over the second
/// half of their delay.
pub(super) fn decide_retry(
    options: &Options,
    before: Option<&Failures>,
    outcome: DeliveryOutcome,
    now: Timestamp,
    others_delivered: bool,
    jitter: f64,
) -> DeliveryDecision {
    let (cause, retry_after, refused, gone) = match outcome {
        DeliveryOutcome::Delivered => return DeliveryDecision::Advance,
        DeliveryOutcome::Refused { cause } => (cause, None, true, false),
        DeliveryOutcome::Gone { cause } => (cause, None, false, true),
        DeliveryOutcome::Failed { cause, retry_after } => (cause, retry_after, false, false),
    };
    let gone_before = before.and_then(|before| before.gone_since);
    let failures = Failures {
        since: before.map_or(now, |before| before.since),
        attempts: before.map_or(0, |before| before.attempts).saturating_add(1),
        refusals: before.map_or(0, |before| before.refusals).saturating_add(u32::from(refused)),
        gone_since: gone.then(|| gone_before.unwrap_or(now)),
        error: cause,
    };
    let failing_for = now.since(failures.since);
    let gone_for = failures.gone_since.map(|since| now.since(since));
    let gave_up = failures.attempts >= options.give_up_attempts.max(1)
        && (failing_for >= options.give_up_after || gone_for.is_some_and(|time| time >= options.gone_after));
    if refused && failures.refusals >= options.refusals.max(1) {
        DeliveryDecision::Park { reason: ParkReason::Refused, failures }
    } else if gave_up && others_delivered {
        DeliveryDecision::Park { reason: ParkReason::Exhausted, failures }
    } else if gave_up {
        DeliveryDecision::Disable { failures }
    } else {
        let asked = retry_after.unwrap_or_default().min(options.max_delay);
        DeliveryDecision::Retry {
            after: backoff(options).delay(failures.attempts, jitter).max(asked),
            failures,
        }
    }
}

/// The delays between attempts, of which jitter removes up to a half.
fn backoff(options: &Options) -> Backoff {
    Backoff::new(options.first_delay, options.factor, options.max_delay).with_jitter(0.5)
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
        let error = "before".to_owned();
        Failures { since: Timestamp(since), attempts, refusals, gone_since: None, error }
    }

    fn decide(before: Option<&Failures>, outcome: DeliveryOutcome, now: Timestamp) -> DeliveryDecision {
        decide_retry(&options(), before, outcome, now, false, 1.0)
    }

    #[test]
    fn http_status_maps_to_an_outcome() {
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(status(code), DeliveryOutcome::Delivered, "{code}");
        }
        for code in [100, 301, 302, 307, 308, 401, 404, 405, 407, 408, 421, 425, 429, 500, 502, 503, 504, 599]
        {
            assert!(matches!(status(code), DeliveryOutcome::Failed { .. }), "{code}");
        }
        for code in [400, 403, 409, 411, 413, 415, 422, 431, 451] {
            assert!(matches!(status(code), DeliveryOutcome::Refused { .. }), "{code}");
        }
        assert!(matches!(status(410), DeliveryOutcome::Gone { .. }));
    }

    #[test]
    fn delivered_event_advances_despite_earlier_failures() {
        assert_eq!(
            decide(Some(&failures(0, 500, 2)), DeliveryOutcome::Delivered, Timestamp(u64::MAX)),
            DeliveryDecision::Advance
        );
    }

    /// Simulates a receiver that always fails. Returns the time until the endpoint is disabled, and the delays.
    fn run_until_disabled(options: &Options, jitter: f64) -> (Duration, Vec<Duration>) {
        let (start, mut now) = (Timestamp(1_000_000), Timestamp(1_000_000));
        let (mut before, mut delays) = (None, Vec::new());
        loop {
            match decide_retry(options, before.as_ref(), status(500), now, false, jitter) {
                DeliveryDecision::Retry { after, failures } => {
                    delays.push(after);
                    now = now + after;
                    before = Some(failures);
                }
                DeliveryDecision::Disable { failures } => {
                    assert_eq!(failures.since, start);
                    return (now.since(start), delays);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn delays_grow_and_outlast_a_day() {
        for jitter in [0.0, 0.4, 1.0] {
            let (lasted, delays) = run_until_disabled(&options(), jitter);
            assert!(lasted >= 24 * HOUR && lasted >= options().give_up_after, "{lasted:?}");
            assert!(delays.is_sorted(), "{delays:?}");
            assert!(delays.iter().all(|&delay| delay <= HOUR && delay >= Duration::from_millis(2500)));
        }
        let (_, delays) = run_until_disabled(&options(), 1.0);
        let seconds: Vec<_> = delays.iter().take(8).map(Duration::as_secs).collect();
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
        let DeliveryDecision::Retry { failures: first, .. } = decide(None, status(422), now) else {
            panic!()
        };
        let DeliveryDecision::Retry { failures: second, .. } = decide(Some(&first), status(400), now) else {
            panic!()
        };
        let DeliveryDecision::Retry { failures: third, .. } = decide(Some(&second), status(500), now) else {
            panic!()
        };
        assert_eq!((third.attempts, third.refusals), (3, 2));
        let decision = decide(Some(&third), status(413), now);
        let DeliveryDecision::Park { reason: ParkReason::Refused, failures } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!((failures.attempts, failures.refusals, failures.error.as_str()), (4, 3, "413"));
    }

    /// Simulates a receiver with these statuses, one an attempt, the last one repeated. Returns the time and the number
    /// of attempts until the last decision, and the decision.
    fn run(statuses: &[u16]) -> (Duration, u32, DeliveryDecision) {
        let (start, mut now) = (Timestamp(1_000_000), Timestamp(1_000_000));
        let mut before = None;
        let mut attempts = 0;
        loop {
            let code = statuses.get(attempts).or(statuses.last()).copied().unwrap_or(200);
            attempts += 1;
            match decide(before.as_ref(), status(code), now) {
                DeliveryDecision::Retry { after, failures } => {
                    now = now + after;
                    before = Some(failures);
                }
                decision => return (now.since(start), u32::try_from(attempts).unwrap(), decision),
            }
        }
    }

    #[test]
    fn receiver_that_answers_404_for_a_while_gets_the_event() {
        let (waited, attempts, decision) = run(&[404, 404, 404, 404, 502, 404, 200]);
        assert_eq!((attempts, decision), (7, DeliveryDecision::Advance));
        assert!(waited > HOUR / 2);
        let (lasted, _, decision) = run(&[404]);
        assert!(matches!(decision, DeliveryDecision::Disable { .. }), "{decision:?}");
        assert!(lasted >= options().give_up_after);
    }

    #[test]
    fn receiver_that_answers_410_for_a_day_is_disabled() {
        let (lasted, attempts, decision) = run(&[410]);
        assert!(matches!(decision, DeliveryDecision::Disable { .. }), "{decision:?}");
        assert!((24 * HOUR..26 * HOUR).contains(&lasted), "{lasted:?}");
        assert!(attempts >= options().give_up_attempts);
        // Another answer in between starts the day again.
        let mut once_back = vec![410; 15];
        once_back.push(503);
        once_back.push(410);
        let (longer, ..) = run(&once_back);
        assert!(longer > lasted + 6 * HOUR, "{longer:?}");
        assert_eq!(run(&[410, 410, 410, 200]).2, DeliveryDecision::Advance);
    }

    #[test]
    fn downtime_of_the_node_does_not_count_as_a_day_of_410() {
        let long_ago = Failures { gone_since: Some(Timestamp(0)), ..failures(0, 2, 0) };
        let decision = decide(Some(&long_ago), status(410), Timestamp(0) + 30 * HOUR);
        assert!(matches!(decision, DeliveryDecision::Retry { .. }), "{decision:?}");
    }

    #[test]
    fn endpoint_that_delivers_other_instances_parks_instead_of_disabling() {
        let old = failures(0, 90, 0);
        let now = Timestamp(0) + 80 * HOUR;
        let decision = decide_retry(&options(), Some(&old), status(500), now, true, 0.5);
        assert!(
            matches!(decision, DeliveryDecision::Park { reason: ParkReason::Exhausted, .. }),
            "{decision:?}"
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
        let decision =
            decide_retry(&odd, Some(&failures(0, u32::MAX, u32::MAX)), status(500), Timestamp(0), false, 9.0);
        assert!(
            matches!(decision, DeliveryDecision::Retry { after, .. } if after == odd.first_delay),
            "{decision:?}"
        );
    }
}
