//! Connections that stay open: readers of the event log, server-sent events and WebSockets.

pub(super) mod entry;
pub(super) mod reader;
pub(super) mod slots;
pub(super) mod sse;
pub(super) mod websocket;
