//! `GET …/messages/{message_id}`.

use axum::Json;
use axum::extract::State;

use super::dto::MessageResponse;
use super::{find_message, message_response};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{MessageIdPath, TargetInstance};

/// The status and history of a message.
#[utoipa::path(get, path = "/instances/{id}/messages/{message_id}", operation_id = "get_message", tag = "messages",
    params(TargetInstance, MessageIdPath), responses(
        (status = 200, description = "The message.", body = MessageResponse),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
    ))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    Ok(message_response(find_message(&state, &instance, &name)?))
}
