use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failure, FailureKind, FailureScope, Mode};

/// How often and how patiently a message is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. Throttled attempts do not count: waiting is not failing.
    pub max_attempts: u32,
    /// The pause after the first failure; each further one is four times the last, as Meta advises for 131056
    /// (developers.facebook.com, Cloud API error codes).
    pub first_delay: Duration,
    /// No pause is longer than this.
    pub max_delay: Duration,
    /// How long an ambiguous message holds its lane while a status may still settle it.
    pub ambiguous_wait: Duration,
    pub on_ambiguous: AmbiguousPolicy,
}

/// What becomes of a message whose outcome stayed unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AmbiguousPolicy {
    /// It becomes a dead letter: never doubled, and somebody decides.
    Hold,
    /// It is sent again: never lost, and perhaps doubled.
    Resend,
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuryReason {
    /// WhatsApp refuses it for good.
    Permanent,
    /// Every permitted attempt failed.
    Exhausted,
    /// Nobody knows whether it was sent, and the policy is not to risk a second one.
    Ambiguous,
}

impl BuryReason {
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
    /// Back to the head of its lane, not before this long. `counted`: the attempt uses one up.
    Retry { after: Duration, counted: bool },
    /// Out of its lane, back after this long; nothing waits behind it.
    Defer { after: Duration },
    /// Holds its lane for this long, because a status may still tell what happened.
    Hold { wait: Duration },
    /// A dead letter.
    Bury(BuryReason),
    /// Failed for good; the caller knows and nothing is kept for redrive.
    Fail,
}

/// What is known of a message when an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempt {
    pub mode: Mode,
    /// WhatsApp recognises the message when it is sent again under the same id.
    pub repeatable: bool,
    /// Failed attempts so far, this one included, throttled ones not.
    pub attempts: u32,
}

/// The one place that decides what a failure means for the message that met it.
///
/// `jitter` is a random number from 0 to 1 that spreads retries over the second half of their delay.
pub fn decide_retry(
    policy: &RetryPolicy,
    tried: FailedAttempt,
    failure: &Failure,
    jitter: f64,
) -> RetryDecision {
    match failure.kind {
        FailureKind::Ambiguous => decide_ambiguous(policy, tried, failure.scope, jitter),
        _ if tried.mode == Mode::Sync => RetryDecision::Fail,
        FailureKind::Permanent => RetryDecision::Bury(BuryReason::Permanent),
        FailureKind::Deferred { retry_after } => RetryDecision::Defer { after: retry_after },
        // The instance pauses; what it had in hand goes back unharmed and leaves first when it resumes.
        FailureKind::LoggedOut | FailureKind::AccountBlocked => {
            RetryDecision::Retry { after: Duration::ZERO, counted: false }
        }
        FailureKind::Throttled { retry_after } => {
            RetryDecision::Retry { after: retry_after.max(backoff(policy, 1, jitter)), counted: false }
        }
        FailureKind::Transient { max_attempts } => {
            let limit = max_attempts.map_or(policy.max_attempts, |tighter| tighter.min(policy.max_attempts));
            if tried.attempts >= limit {
                RetryDecision::Bury(BuryReason::Exhausted)
            } else {
                RetryDecision::Retry { after: backoff(policy, tried.attempts, jitter), counted: true }
            }
        }
    }
}

/// Nobody knows whether the message was sent. Where a second one is recognised it is sent again; otherwise a status may
/// still tell. What ended the whole connection says nothing about the message, and does not count against it.
fn decide_ambiguous(
    policy: &RetryPolicy,
    tried: FailedAttempt,
    scope: FailureScope,
    jitter: f64,
) -> RetryDecision {
    match tried.mode {
        _ if !tried.repeatable => RetryDecision::Hold { wait: policy.ambiguous_wait },
        // Its caller is told that nobody knows; once held long enough, which is at once, it is sent again.
        Mode::Sync => RetryDecision::Hold { wait: Duration::ZERO },
        Mode::Async if scope == FailureScope::Number => {
            RetryDecision::Retry { after: backoff(policy, 1, jitter), counted: false }
        }
        Mode::Async if tried.attempts >= policy.max_attempts => RetryDecision::Bury(BuryReason::Ambiguous),
        Mode::Async => RetryDecision::Retry { after: backoff(policy, tried.attempts, jitter), counted: true },
    }
}

/// What becomes of an unknown outcome that was held and that no status settled in time. `tried` counts it.
pub fn decide_expired_hold(
    policy: &RetryPolicy,
    tried: FailedAttempt,
    on_ambiguous: AmbiguousPolicy,
) -> RetryDecision {
    let resend = on_ambiguous == AmbiguousPolicy::Resend && tried.mode == Mode::Async;
    if (tried.repeatable || resend) && tried.attempts < policy.max_attempts {
        RetryDecision::Retry { after: Duration::ZERO, counted: true }
    } else {
        RetryDecision::Bury(BuryReason::Ambiguous)
    }
}

/// `first_delay × 4^(attempts-1)`, capped, of which between half and all is waited.
fn backoff(policy: &RetryPolicy, attempts: u32, jitter: f64) -> Duration {
    let factor = 4u32.saturating_pow(attempts.saturating_sub(1).min(12));
    let full = policy.first_delay.saturating_mul(factor).min(policy.max_delay);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 3,
        first_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(300),
        ambiguous_wait: Duration::from_secs(120),
        on_ambiguous: AmbiguousPolicy::Hold,
    };

    fn decide(kind: FailureKind, mode: Mode, attempts: u32) -> RetryDecision {
        let tried = FailedAttempt { mode, repeatable: false, attempts };
        decide_retry(&POLICY, tried, &Failure::new(kind, FailureScope::Message, "x"), 1.0)
    }

    /// The verdict on an unknown outcome where WhatsApp recognises the second message.
    fn decide_repeatable(mode: Mode, scope: FailureScope, attempts: u32) -> RetryDecision {
        let failure = Failure::new(FailureKind::Ambiguous, scope, "x");
        decide_retry(&POLICY, FailedAttempt { mode, repeatable: true, attempts }, &failure, 1.0)
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
    fn ambiguous_failure_is_held_when_not_repeatable() {
        for mode in [Mode::Sync, Mode::Async] {
            assert_eq!(
                decide(FailureKind::Ambiguous, mode, 1),
                RetryDecision::Hold { wait: POLICY.ambiguous_wait }
            );
        }
    }

    #[test]
    fn ambiguous_failure_is_retried_when_repeatable() {
        let again = |seconds| RetryDecision::Retry { after: Duration::from_secs(seconds), counted: true };
        assert_eq!(decide_repeatable(Mode::Async, FailureScope::Message, 1), again(1));
        assert_eq!(decide_repeatable(Mode::Async, FailureScope::Message, 2), again(4));
        assert_eq!(
            decide_repeatable(Mode::Async, FailureScope::Message, 3),
            RetryDecision::Bury(BuryReason::Ambiguous)
        );
        let uncounted = RetryDecision::Retry { after: Duration::from_secs(1), counted: false };
        assert_eq!(decide_repeatable(Mode::Async, FailureScope::Number, 99), uncounted);
    }

    #[test]
    fn sync_ambiguous_failure_is_held_before_the_retry() {
        assert_eq!(
            decide_repeatable(Mode::Sync, FailureScope::Message, 1),
            RetryDecision::Hold { wait: Duration::ZERO }
        );
        let tried = |mode, repeatable, attempts| FailedAttempt { mode, repeatable, attempts };
        let held = |tried, policy| decide_expired_hold(&POLICY, tried, policy);
        let (again, bury) = (
            RetryDecision::Retry { after: Duration::ZERO, counted: true },
            RetryDecision::Bury(BuryReason::Ambiguous),
        );
        assert_eq!(held(tried(Mode::Sync, true, 1), AmbiguousPolicy::Hold), again);
        assert_eq!(held(tried(Mode::Sync, true, 3), AmbiguousPolicy::Hold), bury);
        assert_eq!(held(tried(Mode::Async, false, 1), AmbiguousPolicy::Hold), bury);
        assert_eq!(held(tried(Mode::Async, false, 1), AmbiguousPolicy::Resend), again);
        assert_eq!(held(tried(Mode::Sync, false, 1), AmbiguousPolicy::Resend), bury);
    }

    #[test]
    fn jitter_keeps_at_least_half_and_the_cap_holds() {
        for attempts in 1..40 {
            for jitter in [0.0, 0.3, 1.0] {
                let pause = backoff(&POLICY, attempts, jitter);
                assert!(pause >= Duration::from_millis(500) && pause <= POLICY.max_delay);
            }
        }
    }
}
