//! Requests and responses of `/instances`.

pub(in crate::http) mod request;
pub(in crate::http) mod response;
