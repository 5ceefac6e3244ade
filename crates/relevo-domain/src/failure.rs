use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a provider reports when a send did not succeed: classified once, there, and acted on only by `retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub scope: FailureScope,
    /// The provider's own code, for example Meta's 131047.
    pub code: Option<i64>,
    /// The provider's own words.
    pub message: String,
}

/// What can be known about the message, and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Certainly not sent; another attempt may succeed. `max_attempts` tightens the policy's own limit, for
    /// failures that may turn out to be permanent.
    Transient { max_attempts: Option<u32> },
    /// Certainly not sent: too fast. Not before `retry_after`.
    Throttled { retry_after: Duration },
    /// Certainly not sent, and not for hours: the message leaves its lane and comes back.
    Deferred { retry_after: Duration },
    /// Certainly not sent, and never will be in this form.
    Permanent,
    /// Nobody knows: the request went out and no usable answer came back.
    Ambiguous,
    /// The account's credentials are no longer accepted.
    LoggedOut,
    /// The account may not send: blocked, unpaid, not registered.
    AccountBlocked,
}

/// Whom a failure concerns beside the message that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureScope {
    Message,
    /// Everything to this recipient.
    Recipient,
    /// Everything from this number.
    Number,
}

impl Failure {
    pub fn new(kind: FailureKind, scope: FailureScope, message: impl Into<String>) -> Self {
        Self { kind, scope, code: None, message: message.into() }
    }

    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Transient { max_attempts: None }, FailureScope::Message, message)
    }

    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Permanent, FailureScope::Message, message)
    }

    pub fn ambiguous(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Ambiguous, FailureScope::Message, message)
    }

    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }
}

impl FailureKind {
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
