//! The bodies and responses of `/api/send-…` for the OpenAPI document. Handlers parse the bodies field by field,
//! because clients are loosely typed; these types describe what is accepted.
#![expect(dead_code, reason = "documents bodies and responses only")]

pub(in crate::http) mod bulk;
pub(in crate::http) mod single;
