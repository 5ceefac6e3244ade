//! relevo: a WhatsApp messaging node in one binary.
//!
//! The rooms, lowest first; `tests/architecture/` holds which may import which. `ARCHITECTURE.md` is the map.

pub mod supervisor;
pub mod telemetry;

pub mod bulk;
pub mod contacts;
pub mod events;
pub mod inbound;
pub mod instance;
pub mod media;
pub mod provider;
pub mod queue;
pub mod relay;
pub mod retry;
pub mod webhook;

pub mod http;

pub mod app;
pub mod cli;
pub mod config;
