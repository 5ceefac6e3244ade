//! `/`, `/health…`, `/openapi.json` and `/metrics`: the node about itself.

pub(in crate::http) mod health;
pub(in crate::http) mod info;
pub(in crate::http) mod metrics;
pub(in crate::http) mod openapi;
