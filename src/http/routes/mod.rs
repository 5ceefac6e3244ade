//! What each route takes and gives. DTOs sit with their route.

pub(super) mod instances;
pub(super) mod media;
pub(super) mod message;
pub(super) mod messages;
pub(super) mod root;
pub(super) mod sending;
mod settings;
pub(super) mod webhook;
