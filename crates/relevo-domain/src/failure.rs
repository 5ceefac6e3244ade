//! The classification of failed sends.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A failed send, as a provider reports it. The provider classifies it once; only the retry supervisor acts on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What is known about the message, and whether it may be retried.
    pub kind: FailureKind,
    /// What else the failure affects.
    pub scope: FailureScope,
    /// The provider's error code, for example Meta's 131047.
    pub code: Option<i64>,
    /// The provider's error text.
    pub message: String,
}

/// What is known about the message, and whether it may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Not sent; another attempt may succeed. `max_attempts` lowers the limit of the policy, for failures that may be
    /// permanent.
    Transient { max_attempts: Option<u32> },
    /// Not sent because of a rate limit. The next attempt must not begin before `retry_after`.
    Throttled { retry_after: Duration },
    /// Not sent, and a retry within hours is useless: the message leaves its lane until `retry_after` has passed.
    Deferred { retry_after: Duration },
    /// Not sent; the same message can never succeed.
    Permanent,
    /// Unknown: the request was sent, and no usable response arrived.
    Ambiguous,
    /// The account's credentials are no longer accepted.
    LoggedOut,
    /// The account may not send: blocked, unpaid or not registered.
    AccountBlocked,
}

/// What a failure affects in addition to its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureScope {
    /// Nothing else.
    Message,
    /// All messages to this recipient.
    Recipient,
    /// All messages of this instance.
    Number,
}

impl Failure {
    /// A failure without a code.
    pub fn new(kind: FailureKind, scope: FailureScope, message: impl Into<String>) -> Self {
        Self { kind, scope, code: None, message: message.into() }
    }

    /// A transient failure of one message, without a limit on attempts.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Transient { max_attempts: None }, FailureScope::Message, message)
    }

    /// A permanent failure of one message.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Permanent, FailureScope::Message, message)
    }

    /// An unknown outcome of one message.
    pub fn ambiguous(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Ambiguous, FailureScope::Message, message)
    }

    /// Adds the provider's error code.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }
}

impl FailureKind {
    /// The value in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Transient { .. } => "transient",
            FailureKind::Throttled { .. } => "throttled",
            FailureKind::Deferred { .. } => "deferred",
            FailureKind::Permanent => "permanent",
            FailureKind::Ambiguous => "ambiguous",
            FailureKind::LoggedOut => "logged_out",
            FailureKind::AccountBlocked => "account_blocked",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} ({code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}
