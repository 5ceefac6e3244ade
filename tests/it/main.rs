//! The real node, the real sandbox, real HTTP: everything a user does, done from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may"
)]

mod receiver;
mod support;

mod crash;
mod delivery;
mod front;
mod messages;
mod numbers;
mod operator;
mod relay;
mod webhooks;
