//! Errors that all parts of the node share: the closed classification, and input that does not parse.

use std::fmt;
use std::time::Duration;

/// What an error means to the caller. Every module's error maps to one of these kinds, and only the HTTP module maps a
/// kind to a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong; repeating it cannot succeed.
    Invalid,
    /// No such instance, message or resource.
    NotFound,
    /// The request conflicts with existing state: a name in use, a reused idempotency key, a state that forbids it.
    Conflict,
    /// Larger than the configured limit.
    TooLarge,
    /// The instance's provider does not support the operation.
    Unsupported,
    /// Rejected for now; the caller may try again after this delay.
    Throttled(Duration),
    /// The instance, the disk or the node cannot serve the request now.
    Unavailable,
    /// WhatsApp rejected it.
    Rejected,
    /// It is unknown whether WhatsApp accepted it.
    Ambiguous,
    /// An error of this node.
    Internal,
}

/// External input that does not parse: the field and the reason, written for the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationError {
    /// The field in the spelling of the caller, for example `sections[0].rows[2].title`.
    pub field: String,
    /// What is wrong with the field, and what is valid.
    pub reason: String,
}

impl ValidationError {
    /// An error about one field.
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
