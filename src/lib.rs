//! relevo: a WhatsApp messaging node in one binary.
//!
//! The modules stand below, lowest layer first. `tests/architecture/` checks which module may import which;
//! `ARCHITECTURE.md` describes them.

pub mod supervisor;
pub mod telemetry;

pub mod address_book;
pub mod bulk;
pub mod events;
pub mod inbound;
pub mod instance;
pub mod media;
pub mod provider;
pub mod queue;
pub mod relay;
pub mod retry;
pub mod suppression;
pub mod webhook;

pub mod accounts;

pub mod http;

pub mod app;
pub mod cli;
pub mod config;
