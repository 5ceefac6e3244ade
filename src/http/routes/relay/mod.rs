//! `/api/queue`: the strict-order push to one WebSocket, as the documented Flask application shows it.

pub(in crate::http) mod clear;
mod dto;
pub(in crate::http) mod restart;
pub(in crate::http) mod retry;
pub(in crate::http) mod status;
pub(in crate::http) mod test;
