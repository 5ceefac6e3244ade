//! `/api/…`: the routes of the documented Flask application.
//!
//! Errors are [`ApplicationError`](crate::http::api::error::ApplicationError)s; the texts are those of the documents.

mod bulk;
mod bulk_kind;
mod content;
mod counts;
mod json_fields;
mod message_kind;
mod requests;
pub(in crate::http) mod responses;
pub(in crate::http) mod send;
mod single;
pub(in crate::http) mod status;
mod target;
pub(in crate::http) mod task_status;
