//! `/api/…`: the surface of the documented Flask service, served as its documents promise and as its clients call.
//!
//! Errors are [`Refusal`](crate::http::flask::Refusal)s; the texts are those of the documents.

mod broadcast;
mod bulk_kind;
mod content;
mod json_fields;
mod message_kind;
pub(in crate::http) mod messages;
mod requests;
pub(in crate::http) mod responses;
mod sending;
pub(in crate::http) mod status;
pub(in crate::http) mod tasks;
