//! One message on its way from a route to an instance, and the answer to whoever sent it.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::http::AppState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::timestamp::RequestTimestamp;
use crate::instance::{self, SendRequest, SyncSendOutcome};
use crate::queue::IdempotencyKey;
use relevo_domain::{
    Class, Content, ErrorKind, InstanceId, InstanceState, MessageId, MessageOptions, MessageRef,
    OutboundMessage, ProviderMessageId, Recipient, Status, Timestamp, ValidationError,
};

/// What is suggested to callers whose message could not begin in time. How long it takes until there is room
/// depends on what the others send.
const SUGGESTED_RETRY_AFTER: Duration = Duration::from_secs(5);

/// How far ahead a message can be scheduled.
const MAX_SCHEDULE_AHEAD: Duration = Duration::from_secs(366 * 24 * 3600);

/// A message as a route understood it.
pub(super) struct MessageDraft {
    pub to: Recipient,
    pub content: Content,
    pub quote: Option<MessageRef>,
    pub options: MessageOptions,
    /// Seconds after which it must not be sent any more, from now or from `send_at`.
    pub expires_in: Option<u64>,
    /// Not before this moment; nobody waits for it.
    pub send_at: Option<RequestTimestamp>,
    pub idempotency: Option<IdempotencyKey>,
}

/// The message was taken by WhatsApp.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SentResponse {
    success: bool,
    /// WhatsApp's id of the message.
    #[schema(example = "wamid.HBgMNTczMDAxMjM0NTY3FQIAERgS")]
    message_id: String,
    /// The node's id of the message.
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    correlation_id: String,
    /// `sent`; of an edit `edited`, of a revocation `revoked`.
    #[schema(example = "sent")]
    status: &'static str,
}

/// The message is queued, durably.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct QueuedResponse {
    success: bool,
    /// The node's id of the message: ask for it at `…/messages/{message_id}`.
    #[schema(example = "msg_019ab2f05f6b800080000040000a1b2c")]
    message_id: String,
    /// The same id as it stands in `message_ack` events.
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    correlation_id: String,
    /// `queued` or `scheduled`.
    #[schema(example = "queued")]
    status: &'static str,
}

/// Every answer to a message that is to be sent.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it documents the answers; nobody makes one")]
pub(super) enum SendResponses {
    /// WhatsApp took the message.
    #[response(status = 200)]
    Sent(SentResponse),
    /// With `X-Async: true` or `send_at`: the message is queued, durably, and the node delivers it.
    #[response(status = 202)]
    Queued(QueuedResponse),
    /// The request, or the message in it, breaks a rule; `field` names what.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No such instance.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    RequestTimeout(ErrorBody),
    /// The instance is not meant to be connected, or the `Idempotency-Key` was used for a different request.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The body is larger than permitted.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// WhatsApp refused the message for good; `provider_code` is its code.
    #[response(status = 422)]
    Rejected(ErrorBody),
    /// WhatsApp does not accept the instance's account: logged out or blocked.
    #[response(status = 424)]
    AccountRejected(ErrorBody),
    /// Too fast: the queue is full, the rate does not allow it in time, or WhatsApp asked to slow down. See
    /// `Retry-After`.
    #[response(status = 429)]
    Throttled(ErrorBody),
    /// This instance's provider cannot send such a message.
    #[response(status = 501)]
    Unsupported(ErrorBody),
    /// The instance is not connected, WhatsApp cannot be reached, or the node cannot accept messages now. It was
    /// not sent.
    #[response(status = 503)]
    Unavailable(ErrorBody),
    /// It went out, and nobody knows yet whether WhatsApp took it. Do not send it again: ask for `message_id` at
    /// `…/messages/{message_id}`.
    #[response(status = 504)]
    Ambiguous(ErrorBody),
}

/// Hands a message to its instance and waits for what the caller wants to wait for.
pub(super) async fn submit_message(
    state: &AppState,
    instance: &InstanceId,
    draft: MessageDraft,
    asynchronous: bool,
) -> Result<Response, ApiError> {
    let quote =
        draft.quote.map(|message| resolve_provider_id(state, instance, "reply_to", message)).transpose()?;
    let now = state.services.clock.now();
    let done = sent_status(&draft.content);
    let send_at = draft.send_at.map(|moment| validate_send_at(moment, now)).transpose()?;
    let begin = send_at.unwrap_or(now);
    let expires_at = draft.expires_in.map(|seconds| begin + Duration::from_secs(seconds));
    let send = SendRequest {
        message: OutboundMessage { to: draft.to, content: draft.content, quote, options: draft.options },
        class: Class::Transactional,
        idempotency: draft.idempotency,
        expires_at,
        send_at,
    };
    if asynchronous || send_at.is_some() {
        let accepted = state.services.instances.enqueue(instance, send).await.map_err(instance_error)?;
        let status = if send_at.is_some() { Status::Scheduled } else { Status::Queued };
        return Ok(queued_response(accepted.id(), status));
    }
    let (id, sent) = state.services.instances.send_now(instance, send).await.map_err(instance_error)?;
    match sent {
        SyncSendOutcome::Sent(provider_id) => Ok(sent_response(id, provider_id, done)),
        SyncSendOutcome::Failed(failure) => Err(ApiError::from_failure(&failure).with_message(id, "failed")),
        SyncSendOutcome::Unknown => unknown_outcome(state, instance, id, done),
        SyncSendOutcome::NotStarted(view) => Err(withdrawn_error(view).with_message(id, "cancelled")),
    }
}

/// The moment, when it is one that a message can wait for.
pub(in crate::http) fn validate_send_at(
    RequestTimestamp(at): RequestTimestamp,
    now: Timestamp,
) -> Result<Timestamp, ValidationError> {
    if at <= now {
        return Err(ValidationError::new("send_at", "La fecha de ejecución debe ser futura"));
    }
    if at > now + MAX_SCHEDULE_AHEAD {
        return Err(ValidationError::new("send_at", "must be within a year from now"));
    }
    Ok(at)
}

/// WhatsApp's id of a message that a caller means, by that id or by ours.
pub(in crate::http) fn resolve_provider_id(
    state: &AppState,
    instance: &InstanceId,
    field: &str,
    message: MessageRef,
) -> Result<ProviderMessageId, ApiError> {
    match &message {
        MessageRef::Provider(id) => Ok(id.clone()),
        MessageRef::Ours(_) => {
            let view = state.services.instances.message(instance, &message)?;
            let unsent = || ValidationError::new(field, "names a message that was not sent yet").into();
            view.provider_id.ok_or_else(unsent)
        }
    }
}

/// The text of a field that must not be empty.
pub(super) fn required_text(field: &'static str, text: String) -> Result<String, ValidationError> {
    if text.trim().is_empty() {
        return Err(ValidationError::new(field, format!("{field} es requerido")));
    }
    Ok(text)
}

/// Clients send `""` for what they leave out.
pub(super) fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub(in crate::http) fn parse_message_ref(field: &str, text: &str) -> Result<MessageRef, ValidationError> {
    text.parse().map_err(|invalid: ValidationError| ValidationError::new(field, invalid.reason))
}

pub(super) fn parse_quote(reply_to: Option<String>) -> Result<Option<MessageRef>, ValidationError> {
    non_empty(reply_to).map(|text| parse_message_ref("reply_to", &text)).transpose()
}

/// What a message was that WhatsApp took, in the documented words.
fn sent_status(content: &Content) -> &'static str {
    match content {
        Content::Edit { .. } => "edited",
        Content::Revoke { .. } => "revoked",
        _ => "sent",
    }
}

fn sent_response(id: MessageId, provider_id: ProviderMessageId, status: &'static str) -> Response {
    let correlation_id = id.correlation_id().to_string();
    let message_id = provider_id.as_str().to_owned();
    Json(SentResponse { success: true, message_id, correlation_id, status }).into_response()
}

fn queued_response(id: MessageId, status: Status) -> Response {
    let (message_id, correlation_id) = (id.to_string(), id.correlation_id().to_string());
    let answer = QueuedResponse { success: true, message_id, correlation_id, status: status.as_str() };
    (StatusCode::ACCEPTED, Json(answer)).into_response()
}

/// Refusals name fields of the message; callers know some of them by other names.
fn instance_error(error: instance::Error) -> ApiError {
    let Some(invalid) = error.invalid() else { return error.into() };
    let field = match invalid.field.as_str() {
        "body" => "message",
        "media" => "media_url",
        field => field,
    };
    ValidationError::new(field, invalid.reason.clone()).into()
}

/// The outcome was not known when the wait ended; a status from WhatsApp may have told it since.
fn unknown_outcome(
    state: &AppState,
    instance: &InstanceId,
    id: MessageId,
    done: &'static str,
) -> Result<Response, ApiError> {
    let view = state.services.instances.message(instance, &MessageRef::Ours(id))?;
    let taken = matches!(view.status, Status::Sent | Status::Delivered | Status::Read | Status::Played);
    if let Some(provider_id) = view.provider_id.filter(|_| taken) {
        return Ok(sent_response(id, provider_id, done));
    }
    let details = format!(
        "the message went out and no answer came in time; do not send it again, ask for it: \
         GET /instances/{instance}/messages/{id}"
    );
    Err(ApiError::new(ErrorKind::Ambiguous, details).with_message(id, view.status.as_str()))
}

/// Why a message was taken back: it was too slow, or it had nowhere to go.
pub(in crate::http) fn withdrawn_error(view: instance::StateView) -> ApiError {
    if view.state == InstanceState::Connected {
        let details = "too many messages are ahead of this one; it was taken back and will not be sent";
        return ApiError::new(ErrorKind::Throttled(SUGGESTED_RETRY_AFTER), details);
    }
    let details = format!(
        "the instance is {} ({}): {}; the message was taken back and will not be sent",
        view.state.as_str(),
        view.reason.code,
        view.reason.text
    );
    ApiError::new(ErrorKind::Unavailable, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::Reason;

    #[test]
    fn withdrawn_message_error_names_rate_limit_or_connection() {
        let view = |state| instance::StateView::new(state, Reason::new("unreachable", "no route"));
        assert_eq!(withdrawn_error(view(InstanceState::Connected)).status(), 429);
        let away = withdrawn_error(view(InstanceState::Connecting));
        assert_eq!(away.status(), 503);
        assert!(away.details().contains("connecting (unreachable): no route"), "{}", away.details());
    }
}
