//! Media of inbound messages: an index of its locations at WhatsApp, and a bounded cache on the disk.
//!
//! Guarantees: a file is served only after its download is complete and its size and SHA-256 match those of WhatsApp.
//! Concurrent requests for one file cause one download. Downloaded files are kept within bounds of age and bytes, so
//! they remain available after WhatsApp has deleted them. The folder can be deleted at any time; files are then
//! downloaded again.

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

/// Bounds of the disk cache.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum age of a file, from its download.
    pub retention: Duration,
    /// Maximum bytes of all files.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { retention: Duration::from_secs(7 * 24 * 3600), max_bytes: 1 << 30 }
    }
}

/// Why a file is not available.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No location is recorded for the message.
    #[error(
        "no media is recorded for this message: it has none, it has expired, or this instance never received it"
    )]
    Unknown,
    /// WhatsApp does not have the file.
    #[error("WhatsApp does not have the file, or no longer has it: {0}")]
    Gone(Failure),
    /// The download failed. A later request may succeed, or the account needs an operator.
    #[error("the file could not be downloaded: {0}")]
    Failed(Failure),
    /// The download does not match the size or the SHA-256 of WhatsApp.
    #[error("the downloaded file is damaged ({0}); try again")]
    Damaged(&'static str),
    /// The file is larger than the maximum size of a download.
    #[error("the file is larger than {limit} bytes, the maximum size of a download")]
    TooLarge { limit: u64 },
    /// The disk has too little free space.
    #[error("the disk has too little free space to download the file; free some space, then try again")]
    DiskFull,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The kind of the error, from which the API derives its answer.
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
