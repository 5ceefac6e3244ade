use std::fmt;
use std::time::Duration;

/// What an error means to a caller. Closed: every room's error maps to one of these, and the HTTP room alone
/// knows which status code each becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong and would be wrong again.
    Invalid,
    /// No such instance, message or resource.
    NotFound,
    /// It contradicts something that exists: a taken name, a reused idempotency key, a state that forbids it.
    Conflict,
    /// Larger than the configured limit.
    TooLarge,
    /// This instance's provider cannot do it.
    Unsupported,
    /// Refused for now; the caller may come back after this long.
    Throttled(Duration),
    /// The instance, the disk or the node cannot serve it at the moment.
    Unavailable,
    /// WhatsApp said no.
    Rejected,
    /// Nobody knows whether WhatsApp took it.
    Ambiguous,
    /// Our fault.
    Internal,
}

/// Something from outside that does not parse: which field, and why, in words for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationError {
    /// The field as the caller spells it, for example `sections[0].rows[2].title`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl ValidationError {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

impl std::error::Error for ValidationError {}
