//! The suppression list: people who must not receive unsolicited messages.
//!
//! The list is about people: a [`Recipient`](relevo_domain::Recipient) is found in every spelling of the number, and a person
//! who changes the number or an id stays on it. A person is on the list once and keeps the first reason. The address
//! book (`crate::address_book`) is independent of it.
//!
//! Guarantees: a change is durable before it is answered. A check is one read, whatever the number of entries. Lists
//! are read in pages, and imports are written in small commits.

mod list;
mod storage;
#[cfg(test)]
mod tests;

use relevo_domain::{ErrorKind, ValidationError};
use relevo_store as store;

pub use list::{AddSummary, MAX_NOTE_BYTES, SuppressionEntry, SuppressionList};
pub use storage::{SuppressionReason, carry_over, release, suppress};

/// Why an operation on the suppression list failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The disk has too little free space for new entries.
    #[error("the disk is nearly full; entries are accepted again after some space is freed")]
    DiskFull,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The kind of the error, from which the API derives its answer.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::DiskFull => ErrorKind::Unavailable,
            Error::Store(error) => error.kind(),
        }
    }

    /// The field of the request that is wrong, if the request caused the error.
    pub fn invalid(&self) -> Option<&ValidationError> {
        match self {
            Error::Invalid(invalid) => Some(invalid),
            _ => None,
        }
    }
}
