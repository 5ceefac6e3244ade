//! The bodies and answers of `/api/send-…` for the OpenAPI document. Bodies are read field by field, because their
//! clients are loosely typed; these types describe what is read.
#![expect(dead_code, reason = "they document bodies and answers; nobody makes one")]

pub(in crate::http) mod bulk;
pub(in crate::http) mod single;
