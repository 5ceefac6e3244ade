//! Who the node knows: the address book that its API fills, and the people who must not be written to unasked.
//!
//! The two have nothing to do with each other. The address book is the caller's own: a phone is the exact text that
//! the caller uses, and what is said about it means nothing to the node; it is looked up for the relay. The
//! suppression list is about people on WhatsApp, in the node's one spelling of a recipient.
//!
//! What it promises: what is answered is durable. A lookup is one read, however many entries there are. Lists are
//! read in pages and cleared in small commits, so that a million entries hold up nobody.

mod address_book;
mod merge;
mod storage;
mod suppression_list;
mod suppression_storage;
#[cfg(test)]
mod tests;

use relevo_domain::{ErrorKind, ValidationError};
use relevo_store as store;

pub use address_book::{AddressBook, MAX_PHONES, SaveOutcome};
pub use merge::DELETE;
pub use storage::{AddressBookEntry, AddressBookPage, find_in};
pub use suppression_list::{AddSummary, MAX_NOTE_BYTES, SuppressionEntry, SuppressionList};
pub use suppression_storage::{SuppressionReason, release, suppress};

/// Why something about a contact could not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// What is said about a number, its bytes as JSON, and how many there may be.
    #[error("{field} has {size} bytes as JSON; there may be {limit}")]
    TooLarge { field: &'static str, size: usize, limit: usize },
    #[error("the disk is nearly full; free some space, and entries are accepted again")]
    DiskFull,
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::DiskFull => ErrorKind::Unavailable,
            Error::Store(error) => error.kind(),
        }
    }

    /// The field of the request that is wrong, when one is.
    pub fn invalid(&self) -> Option<&ValidationError> {
        match self {
            Error::Invalid(invalid) => Some(invalid),
            _ => None,
        }
    }
}
