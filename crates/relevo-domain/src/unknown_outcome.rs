//! Unknown outcomes: an attempt was made, and it is not known whether WhatsApp accepted the message.
//!
//! Pure functions. They decide when an outcome is unknown, what becomes of the message, and whether its sender is told so.
//! The retry supervisor calls them, and the queue carries the decision out. A receipt settles an unknown outcome at any
//! time ([`Status::may_become`]).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    BuryReason, FailedAttempt, Failure, FailureScope, Mode, RetryDecision, RetryPolicy, Status, Timestamp,
};

/// What happens to a message whose outcome stays unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AmbiguousPolicy {
    /// It becomes a dead letter for the operator to decide: no duplicate is ever sent.
    Hold,
    /// It is sent again: it is never lost, and the recipient may get it twice.
    Resend,
}

/// Why the outcome of an attempt is decided without a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// The end of the attempt will never be reported, because its process or its instance ended.
    Interrupted,
    /// The message was held, and no receipt arrived in that time.
    HoldExpired,
}

/// An attempt whose outcome is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenAttempt {
    /// When it was leased.
    pub leased_at: Timestamp,
    /// Whether the current run of the process leased it.
    pub is_of_this_run: bool,
    /// The end of its hold, if its outcome is known to be unknown.
    pub held_until: Option<Timestamp>,
}

impl OpenAttempt {
    /// Whether the outcome must be decided now; `None`: it may still be reported, or the hold has not ended.
    /// `lease_timeout` is longer than any attempt takes.
    pub fn overdue(self, now: Timestamp, lease_timeout: Duration) -> Option<Overdue> {
        match self.held_until {
            Some(until) => (until <= now).then_some(Overdue::HoldExpired),
            None => {
                let is_lost = !self.is_of_this_run || self.leased_at + lease_timeout <= now;
                is_lost.then_some(Overdue::Interrupted)
            }
        }
    }
}

impl Overdue {
    /// Decides what becomes of the message. `random` is a random number from 0 to 1 for the jitter
    /// ([`Backoff::delay`](super::Backoff::delay)).
    pub fn decide_retry(self, policy: &RetryPolicy, attempt: FailedAttempt, random: f64) -> RetryDecision {
        match self {
            Overdue::Interrupted => decide_unknown(policy, attempt, FailureScope::Message, random),
            Overdue::HoldExpired => decide_expired_hold(policy, attempt),
        }
    }

    /// The failure to record.
    pub fn failure(self) -> Failure {
        Failure::ambiguous(match self {
            Overdue::Interrupted => {
                "the attempt was interrupted before WhatsApp's response was known; it may or may not have been sent"
            }
            Overdue::HoldExpired => {
                "no receipt arrived in time to show whether WhatsApp accepted the message; it may or may not have \
                 been sent"
            }
        })
    }
}

/// Decides about an attempt whose outcome is unknown. A repeatable message is sent again; any other is held, because a
/// receipt may still settle it. A failure of the whole connection does not count towards the message's attempts.
pub(super) fn decide_unknown(
    policy: &RetryPolicy,
    attempt: FailedAttempt,
    scope: FailureScope,
    random: f64,
) -> RetryDecision {
    match attempt.mode {
        _ if !attempt.repeatable => RetryDecision::Hold { wait: policy.ambiguous_wait },
        // The hold tells the caller that the outcome is unknown. It expires at once, and then the message is sent again.
        Mode::Sync => RetryDecision::Hold { wait: Duration::ZERO },
        Mode::Async if scope == FailureScope::Number => {
            RetryDecision::Retry { after: policy.backoff().delay(1, random), counted: false }
        }
        Mode::Async if attempt.attempts >= policy.max_attempts => RetryDecision::Bury(BuryReason::Ambiguous),
        Mode::Async => {
            let after = policy.backoff().delay(attempt.attempts, random);
            RetryDecision::Retry { after, counted: true }
        }
    }
}

/// Decides about a message whose hold expired without a receipt. `attempt.attempts` includes the held attempt.
fn decide_expired_hold(policy: &RetryPolicy, attempt: FailedAttempt) -> RetryDecision {
    let resend = attempt.on_ambiguous == AmbiguousPolicy::Resend && attempt.mode == Mode::Async;
    if (attempt.repeatable || resend) && attempt.attempts < policy.max_attempts {
        RetryDecision::Retry { after: Duration::ZERO, counted: true }
    } else {
        RetryDecision::Bury(BuryReason::Ambiguous)
    }
}

impl RetryDecision {
    /// Whether a sender that waits is told now that the outcome is unknown.
    pub fn reports_unknown(self) -> bool {
        matches!(self, RetryDecision::Hold { .. } | RetryDecision::Bury(BuryReason::Ambiguous))
    }
}

/// Whether the outcome of a message is unknown, while it is held and after it became a dead letter for that.
pub fn is_outcome_unknown(status: Status, buried: Option<BuryReason>) -> bool {
    match status {
        Status::Ambiguous => true,
        Status::DeadLetter => buried == Some(BuryReason::Ambiguous),
        _ => false,
    }
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
    const BURY: RetryDecision = RetryDecision::Bury(BuryReason::Ambiguous);

    fn attempt(mode: Mode, repeatable: bool, attempts: u32) -> FailedAttempt {
        FailedAttempt { mode, repeatable, on_ambiguous: AmbiguousPolicy::Hold, attempts, uncounted: 0 }
    }

    fn retry(seconds: u64, counted: bool) -> RetryDecision {
        RetryDecision::Retry { after: Duration::from_secs(seconds), counted }
    }

    #[test]
    fn message_that_is_not_repeatable_is_held_first() {
        let hold = RetryDecision::Hold { wait: POLICY.ambiguous_wait };
        for mode in [Mode::Sync, Mode::Async] {
            for on_ambiguous in [AmbiguousPolicy::Hold, AmbiguousPolicy::Resend] {
                let attempt = FailedAttempt { on_ambiguous, ..attempt(mode, false, 1) };
                for scope in [FailureScope::Message, FailureScope::Number] {
                    assert_eq!(decide_unknown(&POLICY, attempt, scope, 1.0), hold);
                }
                assert_eq!(Overdue::Interrupted.decide_retry(&POLICY, attempt, 1.0), hold);
            }
        }
    }

    #[test]
    fn repeatable_message_is_retried() {
        let decide =
            |mode, scope, attempts| decide_unknown(&POLICY, attempt(mode, true, attempts), scope, 1.0);
        assert_eq!(decide(Mode::Async, FailureScope::Message, 1), retry(1, true));
        assert_eq!(decide(Mode::Async, FailureScope::Message, 2), retry(4, true));
        assert_eq!(decide(Mode::Async, FailureScope::Message, 3), BURY);
        assert_eq!(decide(Mode::Async, FailureScope::Number, 99), retry(1, false));
        let hold = RetryDecision::Hold { wait: Duration::ZERO };
        assert_eq!(decide(Mode::Sync, FailureScope::Message, 1), hold);
    }

    #[test]
    fn policy_decides_after_the_hold() {
        let expired = |mode, repeatable, on_ambiguous, attempts| {
            let attempt = FailedAttempt { on_ambiguous, ..attempt(mode, repeatable, attempts) };
            Overdue::HoldExpired.decide_retry(&POLICY, attempt, 1.0)
        };
        let again = retry(0, true);
        assert_eq!(expired(Mode::Sync, true, AmbiguousPolicy::Hold, 1), again);
        assert_eq!(expired(Mode::Sync, true, AmbiguousPolicy::Hold, 3), BURY);
        assert_eq!(expired(Mode::Async, false, AmbiguousPolicy::Hold, 1), BURY);
        assert_eq!(expired(Mode::Async, false, AmbiguousPolicy::Resend, 1), again);
        assert_eq!(expired(Mode::Sync, false, AmbiguousPolicy::Resend, 1), BURY);
    }

    #[test]
    fn attempt_is_overdue_after_its_lease_its_run_or_its_hold() {
        let (start, second) = (Timestamp(1_000_000), Duration::from_secs(1));
        let attempt = OpenAttempt { leased_at: start, is_of_this_run: true, held_until: None };
        let lost = OpenAttempt { is_of_this_run: false, ..attempt };
        let held = OpenAttempt { held_until: Some(start + 5 * second), ..lost };
        let overdue = |attempt: OpenAttempt, after| attempt.overdue(start + after * second, 3 * second);
        assert_eq!([overdue(attempt, 2), overdue(attempt, 3)], [None, Some(Overdue::Interrupted)]);
        assert_eq!(overdue(lost, 0), Some(Overdue::Interrupted));
        assert_eq!([overdue(held, 4), overdue(held, 5)], [None, Some(Overdue::HoldExpired)]);
    }

    #[test]
    fn held_and_buried_messages_are_unknown_to_their_senders() {
        let hold = RetryDecision::Hold { wait: Duration::ZERO };
        assert!(hold.reports_unknown() && BURY.reports_unknown());
        let known = [retry(1, true), RetryDecision::Bury(BuryReason::Exhausted), RetryDecision::Fail];
        assert!(!known.into_iter().any(RetryDecision::reports_unknown));
        for status in Status::ALL {
            let is_dead_letter = status == Status::DeadLetter;
            assert_eq!(is_outcome_unknown(status, None), status == Status::Ambiguous);
            assert_eq!(
                is_outcome_unknown(status, Some(BuryReason::Ambiguous)),
                status == Status::Ambiguous || is_dead_letter
            );
            assert!(!is_dead_letter || !is_outcome_unknown(status, Some(BuryReason::Permanent)));
        }
    }
}
