//! `/instances/{id}/messages/{message_id}`: where a message stands.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, MessageIdPath, TargetInstance};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json};
use crate::queue::{LedgerStep, MessageView};
use relevo_domain::{ErrorKind, Failure, InstanceId, MessageId, MessageRef, ValidationError};

use super::sending::validate_send_at;

/// Where a message stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageResponse {
    success: bool,
    data: MessageBody,
}

/// A message and its whole story.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageBody {
    #[schema(example = "msg_019ab2f05f6b800080000040000a1b2c")]
    message_id: String,
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    correlation_id: String,
    /// WhatsApp's id, once it took the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_message_id: Option<String>,
    #[schema(example = "573001234567")]
    to: String,
    #[serde(rename = "type")]
    #[schema(example = "text")]
    kind: String,
    /// The node's states: `scheduled`, `queued`, `sending`, `ambiguous`, `deferred`, `failed`, `expired`,
    /// `cancelled`, `dead_letter`. WhatsApp's facts: `sent`, `delivered`, `read`, `played`.
    #[schema(example = "delivered")]
    status: &'static str,
    /// Tries so far, the one under way included.
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<MessageError>,
    /// Why it is a dead letter: `permanent`, `exhausted` or `ambiguous`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// When the node goes on with it by itself. RFC 3339, as all times here.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    created_at: String,
    /// From acceptance to now, oldest first.
    history: Vec<HistoryStep>,
    /// Steps left out of the middle of a very long history.
    #[serde(skip_serializing_if = "is_zero")]
    history_elided: u32,
}

/// Another moment for a scheduled message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RescheduleRequest {
    /// At most a year from now: RFC 3339 or Unix seconds.
    #[schema(value_type = String, example = "2026-01-31T15:00:00Z")]
    send_at: RequestTimestamp,
}

/// Every answer to taking a message back.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it documents the answers; nobody makes one")]
pub(super) enum CancelResponses {
    /// It will not be sent.
    #[response(status = 200)]
    Cancelled(MessageResponse),
    /// No such instance, or no such message in it.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// An attempt began, or it is settled.
    #[response(status = 409)]
    Conflict(ErrorBody),
}

/// The last failure, while it matters.
#[derive(Debug, Serialize, ToSchema)]
struct MessageError {
    /// WhatsApp's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    message: String,
    /// `transient`, `throttled`, `deferred`, `permanent`, `ambiguous`, `logged_out` or `account_blocked`.
    kind: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct HistoryStep {
    status: &'static str,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl From<MessageView> for MessageBody {
    fn from(view: MessageView) -> Self {
        Self {
            message_id: view.id.to_string(),
            correlation_id: view.id.correlation_id().to_string(),
            provider_message_id: view.provider_id.map(|id| id.as_str().to_owned()),
            to: view.to.to_string(),
            kind: view.kind,
            status: view.status.as_str(),
            attempts: view.attempts,
            error: view.failure.map(MessageError::from),
            reason: view.buried.map(|reason| reason.as_str()),
            next_attempt_at: view.due.map(|due| due.to_string()),
            created_at: view.id.accepted_at().to_string(),
            history: view.history.into_iter().map(HistoryStep::from).collect(),
            history_elided: view.elided,
        }
    }
}

impl From<Failure> for MessageError {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, message: failure.message, kind: failure.kind.as_str() }
    }
}

impl From<LedgerStep> for HistoryStep {
    fn from(step: LedgerStep) -> Self {
        Self { status: step.status.as_str(), at: step.at.to_string(), code: step.code, detail: step.text }
    }
}

/// Where a message stands, and how it came there.
#[utoipa::path(get, path = "/instances/{id}/messages/{message_id}", operation_id = "get_message", tag = "messages",
    responses(
        (status = 200, description = "The message.", body = MessageResponse),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
    ))]
pub async fn get(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    Ok(message_response(find_message(&state, &instance, &name)?))
}

/// Takes a message back that was not attempted yet, queued or scheduled.
#[utoipa::path(
    post,
    path = "/instances/{id}/messages/{message_id}/cancel",
    operation_id = "cancel_message",
    tag = "messages",
    responses(CancelResponses)
)]
pub async fn cancel(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    let message = find_message(&state, &instance, &name)?.id;
    if state.services.queue.withdraw(message).await? {
        return load_response(&state, &instance, message);
    }
    let status = find_message(&state, &instance, &name)?.status.as_str();
    let details = format!("the message is {status}: what was attempted once cannot be taken back");
    Err(ApiError::new(ErrorKind::Conflict, details).with_message(message, status))
}

/// The same as `cancel`.
#[utoipa::path(
    delete,
    path = "/instances/{id}/messages/{message_id}",
    operation_id = "delete_message",
    tag = "messages",
    responses(CancelResponses)
)]
pub async fn delete(
    state: State<AppState>,
    target: TargetInstance,
    name: MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    cancel(state, target, name).await
}

/// Moves a scheduled message to another moment. What `expires_in` said stays: it counts from the first moment.
#[utoipa::path(patch, path = "/instances/{id}/messages/{message_id}", operation_id = "reschedule_message",
    tag = "messages", request_body = RescheduleRequest, responses(
        (status = 200, description = "It waits for that moment, durably.", body = MessageResponse),
        (status = 400, description = "The moment is not ahead, or too far ahead.", body = ErrorBody),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is not scheduled.", body = ErrorBody),
    ))]
pub async fn reschedule(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    MessageIdPath(name): MessageIdPath,
    JsonBody(body): JsonBody,
) -> Result<Json<MessageResponse>, ApiError> {
    let message = find_message(&state, &instance, &name)?.id;
    let asked: RescheduleRequest = json::parse(&body)?;
    let at = validate_send_at(asked.send_at, state.services.clock.now())?;
    if state.services.queue.reschedule(message, at).await? {
        return load_response(&state, &instance, message);
    }
    let status = find_message(&state, &instance, &name)?.status.as_str();
    let details = format!("the message is {status}; only scheduled messages have a moment that can be moved");
    Err(ApiError::new(ErrorKind::Conflict, details).with_message(message, status))
}

/// The message of an instance that a caller names.
pub(super) fn find_message(
    state: &AppState,
    instance: &InstanceId,
    name: &str,
) -> Result<MessageView, ApiError> {
    let unknown = |_| ApiError::new(ErrorKind::NotFound, "no message can have this id");
    let message = name.parse().map_err(unknown)?;
    Ok(state.services.instances.message(instance, &message)?)
}

/// Where a message stands now that something was done about it.
pub(super) fn load_response(
    state: &AppState,
    instance: &InstanceId,
    id: MessageId,
) -> Result<Json<MessageResponse>, ApiError> {
    Ok(message_response(state.services.instances.message(instance, &MessageRef::Ours(id))?))
}

/// The message behind which a page begins.
pub(super) fn parse_cursor(text: &str) -> Result<MessageId, ValidationError> {
    text.parse().map_err(|_| ValidationError::new("after", "must be the `next` of the page before"))
}

fn message_response(view: MessageView) -> Json<MessageResponse> {
    Json(MessageResponse { success: true, data: view.into() })
}
