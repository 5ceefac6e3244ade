//! The real node, the real sandbox, real HTTP: everything a user does, done from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may"
)]

mod meta;
mod process;
mod readers;
mod receiver;
mod support;

mod api;
mod crash;
mod deliveries;
mod delivery;
mod events;
mod front;
mod inbound;
mod jobs;
mod linked;
mod media;
mod messages;
mod numbers;
mod old_folder;
mod operator;
mod relay;
mod way_back;
mod webhooks;
