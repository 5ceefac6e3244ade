//! `PATCH …/messages/{message_id}`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::dto::MessageResponse;
use super::submit::validate_send_at;
use super::{find_message, load_response};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, MessageIdPath, TargetInstance};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json};
use relevo_domain::ErrorKind;

/// A new time for a scheduled message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RescheduleRequest {
    /// At most a year from now: RFC 3339 or Unix seconds.
    #[schema(value_type = String, example = "2026-01-31T15:00:00Z")]
    send_at: RequestTimestamp,
}

/// Reschedules a scheduled message. Its expiry does not change: `expires_in` counts from the first `send_at`.
#[utoipa::path(patch, path = "/instances/{id}/messages/{message_id}", operation_id = "reschedule_message",
    tag = "messages", request_body = RescheduleRequest, params(TargetInstance, MessageIdPath), responses(
        (status = 200, description = "It is rescheduled, durably.", body = MessageResponse),
        (status = 400, description = "The time is in the past, or too far ahead.", body = ErrorBody),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is not scheduled.", body = ErrorBody),
    ))]
pub async fn reschedule(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    MessageIdPath(name): MessageIdPath,
    JsonBody(body): JsonBody,
) -> Result<Json<MessageResponse>, ApiError> {
    let message = find_message(&state, &instance, &name)?.id;
    let request: RescheduleRequest = json::parse(&body)?;
    let at = validate_send_at(request.send_at, state.services.clock.now())?;
    if state.services.queue.reschedule(message, at).await? {
        return load_response(&state, &instance, message);
    }
    let status = find_message(&state, &instance, &name)?.status.as_str();
    let details = format!("the message is {status}; only scheduled messages have a moment that can be moved");
    Err(ApiError::new(ErrorKind::Conflict, details).with_message(message, status))
}
