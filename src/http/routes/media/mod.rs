//! `/api/media/{media_id}…`: files that users sent.

pub(in crate::http) mod download;
pub(in crate::http) mod file_response;
pub(in crate::http) mod url;
