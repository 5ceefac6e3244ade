//! `/jobs` and `/messages/send-bulk-file`: one message to the many recipients of a file.
//!
//! The shapes and the Spanish texts are those of the documented API (bulk-file-jobs.md); what it does not have stands
//! beside them.

pub(in crate::http) mod cancel;
mod csv;
pub(in crate::http) mod delete;
pub(in crate::http) mod dto;
pub(in crate::http) mod errors;
mod form;
pub(in crate::http) mod get;
pub(in crate::http) mod list;
pub(in crate::http) mod pause;
pub(in crate::http) mod results;
pub(in crate::http) mod resume;
pub(in crate::http) mod retry_failed;
pub(in crate::http) mod upload;
pub(in crate::http) mod ws;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The job id of a request with an idempotency key: the same request has the same id (a version 8 UUID, RFC 9562
/// §5.8).
pub(in crate::http) fn job_id_from_digest(digest: Sha256) -> Uuid {
    let digest: [u8; 32] = digest.finalize().into();
    uuid::Builder::from_custom_bytes(digest.first_chunk().copied().unwrap_or_default()).into_uuid()
}
