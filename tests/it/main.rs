//! The real node, the real sandbox, real HTTP: everything a user does, done from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may"
)]

mod support;

mod front;
mod crash;
mod delivery;
mod messages;
