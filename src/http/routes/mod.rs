//! The handlers of the routes, one folder a resource, one file a verb. DTOs stay beside their handlers.

pub(super) mod api;
pub(super) mod cloud_webhook;
pub(super) mod dead_letters;
pub(super) mod events;
pub(super) mod instances;
pub(super) mod jobs;
pub(super) mod media;
pub(super) mod messages;
pub(super) mod node;
pub(super) mod numbers;
pub(super) mod queues;
pub(super) mod relay;
pub(super) mod suppressions;
pub(super) mod webhooks;
