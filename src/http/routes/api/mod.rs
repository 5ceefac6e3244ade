//! `/api/…`: the surface of the documented Flask service, served as its documents promise and as its clients call.
//!
//! Errors are [`Refusal`](crate::http::flask::Refusal)s; the texts are those of the documents.

pub(in crate::http) mod answers;
mod broadcast;
mod contents;
mod fields;
mod kind;
mod many;
pub(in crate::http) mod messages;
mod requests;
mod sending;
pub(in crate::http) mod status;
pub(in crate::http) mod tasks;
