//! What each route takes and gives. DTOs sit with their route.

pub(super) mod api;
pub(super) mod dead_letters;
pub(super) mod deliveries;
pub(super) mod downloads;
pub(super) mod earlier;
pub(super) mod endpoints;
pub(super) mod events;
pub(super) mod instances;
pub(super) mod jobs;
pub(super) mod media;
pub(super) mod message;
pub(super) mod messages;
pub(super) mod metrics;
pub(super) mod numbers;
pub(super) mod pairing;
pub(super) mod primary;
pub(super) mod queues;
pub(super) mod relay;
pub(super) mod replays;
pub(super) mod root;
pub(super) mod scheduled;
pub(super) mod sending;
mod settings;
pub(super) mod sockets;
pub(super) mod suppressions;
pub(super) mod webhook;
