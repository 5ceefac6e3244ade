//! The retry policy: what a failed attempt means for its message.
//!
//! Pure functions. The retry supervisor calls them, and the queue carries the decision out. Unknown outcomes are decided
//! in `unknown_outcome`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::unknown_outcome::decide_unknown;
use super::{AmbiguousPolicy, Backoff, Failure, FailureKind, Mode};

/// How often a message is retried, and with which delays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Maximum number of attempts, including the first. Throttled attempts do not count.
    pub max_attempts: u32,
    /// Delay after the first failure. Each further delay is four times the previous one, as Meta advises for error
    /// 131056 (developers.facebook.com, Cloud API error codes).
    pub first_delay: Duration,
    /// Maximum delay.
    pub max_delay: Duration,
    /// How long a message with an unknown outcome holds its lane while a receipt may still settle it.
    pub ambiguous_wait: Duration,
    /// What happens when no receipt arrives in that time, if the instance has no policy.
    pub on_ambiguous: AmbiguousPolicy,
}

impl RetryPolicy {
    /// The factor between two delays.
    const FACTOR: u32 = 4;

    /// The delays of this policy, of which the second half is random.
    pub fn backoff(&self) -> Backoff {
        Backoff::new(self.first_delay, Self::FACTOR, self.max_delay).with_jitter(0.5)
    }
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuryReason {
    /// WhatsApp rejected it permanently.
    Permanent,
    /// The maximum number of attempts failed.
    Exhausted,
    /// The outcome is unknown, and the policy forbids a second attempt.
    Ambiguous,
}

impl BuryReason {
    /// The value in JSON and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            BuryReason::Permanent => "permanent",
            BuryReason::Exhausted => "exhausted",
            BuryReason::Ambiguous => "ambiguous",
        }
    }
}

/// What happens to a message after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Return it to the head of its lane and try again after this delay. `counted`: the attempt counts towards
    /// `max_attempts`.
    Retry { after: Duration, counted: bool },
    /// Take it out of its lane and put it back after this delay; the lane continues meanwhile.
    Defer { after: Duration },
    /// Hold the lane for this long, because a receipt may still settle the outcome.
    Hold { wait: Duration },
    /// Make it a dead letter.
    Bury(BuryReason),
    /// End it as failed. The caller gets the failure, and nothing is kept for redrive.
    Fail,
}

/// The facts about a failed attempt that the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Whether a caller waits for the outcome.
    pub mode: Mode,
    /// Whether WhatsApp recognises the message when it is sent again under the same id.
    pub repeatable: bool,
    /// What happens to the message if its outcome stays unknown.
    pub on_ambiguous: AmbiguousPolicy,
    /// Number of failed attempts, including this one and excluding throttled ones.
    pub attempts: u32,
    /// Number of earlier attempts that were not counted: throttled ones, mostly.
    pub uncounted: u32,
}

/// Decides what happens to a message after a failed attempt that was reported;
/// [`Overdue::decide_retry`](super::Overdue::decide_retry) decides about others.
///
/// `random` is a random number from 0 to 1 for the jitter ([`Backoff::delay`]).
pub fn decide_retry(
    policy: &RetryPolicy,
    attempt: FailedAttempt,
    failure: &Failure,
    random: f64,
) -> RetryDecision {
    match failure.kind {
        FailureKind::Ambiguous => decide_unknown(policy, attempt, failure.scope, random),
        _ if attempt.mode == Mode::Sync => RetryDecision::Fail,
        FailureKind::Permanent => RetryDecision::Bury(BuryReason::Permanent),
        FailureKind::Deferred { retry_after } => RetryDecision::Defer { after: retry_after },
        // The instance pauses. The message returns to the head of its lane and is sent first after a resume.
        FailureKind::LoggedOut | FailureKind::AccountBlocked => {
            RetryDecision::Retry { after: Duration::ZERO, counted: false }
        }
        FailureKind::Throttled { retry_after } => {
            let backoff = policy.backoff().delay(attempt.uncounted.saturating_add(1), random);
            RetryDecision::Retry { after: retry_after.max(backoff), counted: false }
        }
        FailureKind::Transient { max_attempts } => {
            let limit = max_attempts.map_or(policy.max_attempts, |tighter| tighter.min(policy.max_attempts));
            if attempt.attempts >= limit {
                RetryDecision::Bury(BuryReason::Exhausted)
            } else {
                let after = policy.backoff().delay(attempt.attempts, random);
                RetryDecision::Retry { after, counted: true }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureScope;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 3,
        first_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(300),
        ambiguous_wait: Duration::from_secs(120),
        on_ambiguous: AmbiguousPolicy::Hold,
    };

    fn decide(kind: FailureKind, mode: Mode, attempts: u32) -> RetryDecision {
        let (repeatable, on_ambiguous) = (false, AmbiguousPolicy::Hold);
        let attempt = FailedAttempt { mode, repeatable, on_ambiguous, attempts, uncounted: 0 };
        decide_retry(&POLICY, attempt, &Failure::new(kind, FailureScope::Message, "x"), 1.0)
    }

    #[test]
    fn transient_failures_back_off_by_four_and_end() {
        let kind = FailureKind::Transient { max_attempts: None };
        assert_eq!(
            decide(kind, Mode::Async, 1),
            RetryDecision::Retry { after: Duration::from_secs(1), counted: true }
        );
        assert_eq!(
            decide(kind, Mode::Async, 2),
            RetryDecision::Retry { after: Duration::from_secs(4), counted: true }
        );
        assert_eq!(decide(kind, Mode::Async, 3), RetryDecision::Bury(BuryReason::Exhausted));
        let bounded = FailureKind::Transient { max_attempts: Some(2) };
        assert_eq!(decide(bounded, Mode::Async, 2), RetryDecision::Bury(BuryReason::Exhausted));
    }

    #[test]
    fn throttling_and_account_failures_are_not_counted() {
        let throttled = FailureKind::Throttled { retry_after: Duration::from_secs(60) };
        assert_eq!(
            decide(throttled, Mode::Async, 99),
            RetryDecision::Retry { after: Duration::from_secs(60), counted: false }
        );
        let retry = RetryDecision::Retry { after: Duration::ZERO, counted: false };
        assert_eq!(decide(FailureKind::LoggedOut, Mode::Async, 99), retry);
        assert_eq!(decide(FailureKind::AccountBlocked, Mode::Async, 99), retry);
    }

    #[test]
    fn throttled_attempts_back_off_with_growth() {
        let failure = Failure::new(
            FailureKind::Throttled { retry_after: Duration::from_secs(2) },
            FailureScope::Number,
            "x",
        );
        let delay = |uncounted| {
            let attempt = FailedAttempt {
                mode: Mode::Async,
                repeatable: false,
                on_ambiguous: AmbiguousPolicy::Hold,
                attempts: 1,
                uncounted,
            };
            match decide_retry(&POLICY, attempt, &failure, 1.0) {
                RetryDecision::Retry { after, counted: false } => after.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!([0, 1, 2, 3, 4, 9].map(delay), [2, 4, 16, 64, 256, 300]);
    }

    #[test]
    fn sync_failures_are_never_retried() {
        for kind in [
            FailureKind::Transient { max_attempts: None },
            FailureKind::Throttled { retry_after: Duration::ZERO },
            FailureKind::Permanent,
            FailureKind::LoggedOut,
        ] {
            assert_eq!(decide(kind, Mode::Sync, 1), RetryDecision::Fail);
        }
    }

    #[test]
    fn retry_delay_lies_between_half_of_the_first_delay_and_the_maximum() {
        for attempts in 1..40 {
            for random in [0.0, 0.3, 1.0] {
                let delay = POLICY.backoff().delay(attempts, random);
                assert!(delay >= Duration::from_millis(500) && delay <= POLICY.max_delay);
            }
        }
    }
}
