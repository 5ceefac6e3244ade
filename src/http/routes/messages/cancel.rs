//! `POST …/messages/{message_id}/cancel`, and the same by `DELETE …/messages/{message_id}`.

use axum::Json;
use axum::extract::State;
use utoipa::IntoResponses;

use super::dto::MessageResponse;
use super::{find_message, load_response};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{MessageIdPath, TargetInstance};
use relevo_domain::ErrorKind;

/// The responses to a cancellation.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the responses only")]
pub(in crate::http) enum CancelResponses {
    /// It will not be sent.
    #[response(status = 200)]
    Cancelled(MessageResponse),
    /// No such instance, or no such message in it.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// An attempt has begun, or the message is settled.
    #[response(status = 409)]
    Conflict(ErrorBody),
}

/// Cancels a queued or scheduled message before its first attempt.
#[utoipa::path(
    post,
    path = "/instances/{id}/messages/{message_id}/cancel",
    operation_id = "cancel_message",
    tag = "messages",
    params(TargetInstance, MessageIdPath),
    responses(CancelResponses)
)]
pub async fn cancel(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    let message = find_message(&state, &instance, &name)?.id;
    if state.services.queue.withdraw(message).await? {
        return load_response(&state, &instance, message);
    }
    let status = find_message(&state, &instance, &name)?.status.as_str();
    let details =
        format!("the message is {status}: a message can only be cancelled before its first attempt");
    Err(ApiError::new(ErrorKind::Conflict, details).with_message(message, status))
}

/// The same as `cancel`.
#[utoipa::path(
    delete,
    path = "/instances/{id}/messages/{message_id}",
    operation_id = "delete_message",
    tag = "messages",
    params(TargetInstance, MessageIdPath),
    responses(CancelResponses)
)]
pub async fn delete(
    access: Access<scope::Send>,
    state: State<AppState>,
    target: TargetInstance,
    name: MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    cancel(access, state, target, name).await
}
