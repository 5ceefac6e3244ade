//! Media of inbound messages: where it is at WhatsApp, and a bounded copy of it on the disk.
//!
//! What it promises: a file is served only after it arrived whole and is what WhatsApp said it is; however many ask
//! for one file at once, it is fetched once; what was fetched is kept for a while, within bounds of age and bytes,
//! so that it can be had after WhatsApp forgot it. Nothing here is needed for anything else to work: the folder may
//! be deleted at any time, and costs no more than fetching again.

mod cache;
mod disk_cache;
mod index;
mod partial_file;
mod sha256;

use std::time::Duration;

use relevo_domain::{ErrorKind, Failure, FailureKind};
use relevo_store as store;

pub use cache::MediaCache;
pub use disk_cache::MediaFile;
pub use index::{MediaLocation, record_location};

/// How long files that users sent are kept, and how many bytes of them.
#[derive(Debug, Clone)]
pub struct Options {
    pub retention: Duration,
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { retention: Duration::from_secs(7 * 24 * 3600), max_bytes: 1 << 30 }
    }
}

/// Why there is no file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no media is known of this message: it had none, it is too old, or it never came here")]
    Unknown,
    #[error("WhatsApp does not have the file, or no longer: {0}")]
    Gone(Failure),
    /// Asking again may help, or somebody has to care for the account.
    #[error("the file could not be fetched: {0}")]
    Failed(Failure),
    #[error("the file arrived damaged ({0}); ask again")]
    Damaged(&'static str),
    #[error("the file is larger than {limit} bytes, the most that is fetched")]
    TooLarge { limit: u64 },
    #[error("the disk has too little free space to fetch the file; free some, then try again")]
    DiskFull,
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Unknown | Error::Gone(_) => ErrorKind::NotFound,
            Error::Failed(_) | Error::Damaged(_) | Error::DiskFull => ErrorKind::Unavailable,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::Store(error) => error.kind(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Permanent => Error::Gone(failure),
            _ => Error::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests;
