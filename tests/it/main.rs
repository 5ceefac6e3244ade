//! Integration tests: the real node and the real sandbox over HTTP. The modules mirror the resources of the API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may"
)]

mod address_book;
mod application_api;
mod connections;
mod damage;
mod events;
mod http;
mod jobs;
mod kill;
mod large_bodies;
mod leftovers;
mod linked;
mod messages;
mod old_folder;
mod operations;
mod people;
mod relay;
mod shutdown;
mod support;
mod webhooks;
mod websockets;
