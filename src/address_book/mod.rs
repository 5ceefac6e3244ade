//! The address book: phone numbers that the API saves, with a name and data for each.
//!
//! A phone is the exact text that the API client uses; the node does not normalise it and does not interpret the name
//! or the data. The relay looks senders up here, in both spellings of a number, and the entry of a sender who changed the
//! number moves to the new one. The suppression list (`crate::suppression`) is independent of it.
//!
//! Guarantees: a change is durable before it is answered. A lookup is one read, whatever the number of entries. Lists
//! are read in pages and cleared in small commits, so a million entries block no other writer for long.

mod handle;
mod merge;
mod storage;
#[cfg(test)]
mod tests;

use relevo_domain::{ErrorKind, ValidationError};
use relevo_store as store;

pub use handle::{AddressBook, MAX_PHONES, SaveOutcome};
pub use merge::DELETE;
pub use storage::{AddressBookEntry, AddressBookPage, change_phone, find_in, find_person_in};

/// Why an operation on the address book failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] ValidationError),
    /// The field is larger than its limit; both sizes are bytes of JSON.
    #[error("{field} has {size} bytes as JSON; at most {limit} are accepted")]
    TooLarge { field: &'static str, size: usize, limit: usize },
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
            Error::TooLarge { .. } => ErrorKind::TooLarge,
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
