//! The webhooks against a receiver on loopback with a selectable behaviour.

mod admin;
mod delivery;
mod failures;
mod fixture;
