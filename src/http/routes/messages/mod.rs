//! `/instances/{id}/messages/…`, and the same at `/messages/…` for the default instance.

pub(in crate::http) mod cancel;
pub(in crate::http) mod contact;
pub(in crate::http) mod download;
pub(in crate::http) mod dto;
mod earlier_message;
pub(in crate::http) mod edit;
mod envelope;
pub(in crate::http) mod location;
pub(in crate::http) mod mark_read;
pub(in crate::http) mod media;
pub(in crate::http) mod poll;
pub(in crate::http) mod react;
pub(in crate::http) mod reschedule;
pub(in crate::http) mod revoke;
pub(in crate::http) mod scheduled;
pub(in crate::http) mod status;
pub(in crate::http) mod submit;
pub(in crate::http) mod text;

use axum::Json;

use crate::http::AppState;
use crate::http::error::ApiError;
use crate::queue::MessageView;
use dto::MessageResponse;
use relevo_domain::{ErrorKind, InstanceId, MessageId, MessageRef, ValidationError};

/// The message with this id in an instance.
///
/// # Errors
///
/// 404 when no message of the instance has this id.
pub(super) fn find_message(
    state: &AppState,
    instance: &InstanceId,
    name: &str,
) -> Result<MessageView, ApiError> {
    let unknown = |_| ApiError::new(ErrorKind::NotFound, "no message can have this id");
    let message = name.parse().map_err(unknown)?;
    Ok(state.services.instances.message(instance, &message)?)
}

/// The status of a message after a change.
///
/// # Errors
///
/// The message no longer exists.
pub(super) fn load_response(
    state: &AppState,
    instance: &InstanceId,
    id: MessageId,
) -> Result<Json<MessageResponse>, ApiError> {
    Ok(message_response(state.services.instances.message(instance, &MessageRef::Ours(id))?))
}

/// Parses `after`: the page begins after this message.
pub(super) fn parse_cursor(text: &str) -> Result<MessageId, ValidationError> {
    text.parse().map_err(|_| ValidationError::new("after", "must be the `next` of the page before"))
}

fn message_response(view: MessageView) -> Json<MessageResponse> {
    Json(MessageResponse { success: true, data: view.into() })
}
