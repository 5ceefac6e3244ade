//! The submission of a parsed message to its instance, and the response.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::http::AppState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::SendOptions;
use crate::http::phone_warnings::PhoneWarning;
use crate::http::timestamp::RequestTimestamp;
use crate::instance::{self, SendRequest, SyncSendOutcome};
use crate::queue::IdempotencyKey;
use relevo_domain::{
    Class, Content, ErrorKind, InstanceId, InstanceState, MessageId, MessageOptions, MessageRef,
    OutboundMessage, ProviderMessageId, Recipient, Status, Timestamp, ValidationError,
};

/// `Retry-After` for a message that could not start in time. The actual delay depends on the other messages.
const SUGGESTED_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Maximum time ahead of a scheduled message.
const MAX_SCHEDULE_AHEAD: Duration = Duration::from_secs(366 * 24 * 3600);

/// A message parsed from a request.
pub(super) struct MessageDraft {
    pub to: Recipient,
    pub content: Content,
    pub quote: Option<MessageRef>,
    pub options: MessageOptions,
    /// Seconds after which it must not be sent any more, from now or from `send_at`.
    pub expires_in: Option<u64>,
    /// Earliest time to send; the response does not wait for it.
    pub send_at: Option<RequestTimestamp>,
}

/// A request for a message: its instance, how to answer, and the identity that a repetition shares.
pub(super) struct SubmitRequest<'a> {
    pub state: &'a AppState,
    pub instance: &'a InstanceId,
    pub asynchronous: bool,
    pub idempotency: Option<IdempotencyKey>,
}

impl<'a> SubmitRequest<'a> {
    /// `kind` distinguishes requests of different routes with the same key.
    pub fn new(
        state: &'a AppState,
        instance: &'a InstanceId,
        sending: &SendOptions,
        kind: &str,
        body: &[u8],
    ) -> Self {
        let idempotency = sending.idempotency_key(kind, body);
        Self { state, instance, asynchronous: sending.asynchronous, idempotency }
    }

    /// Submits the message that `parse` reads from the request, and answers a repetition without reading it.
    ///
    /// # Errors
    ///
    /// Those of [`answer_repeated`](Self::answer_repeated), of `parse`, and of [`submit_message`].
    pub async fn submit(
        self,
        parse: impl FnOnce() -> Result<MessageDraft, ApiError>,
    ) -> Result<Response, ApiError> {
        match self.answer_repeated().await? {
            Some(response) => Ok(response),
            None => submit_message(self, parse()?).await,
        }
    }

    /// The answer to a repetition of an earlier request with the same idempotency key: like the first one's, whatever has
    /// changed since. `None` if the request is new.
    ///
    /// # Errors
    ///
    /// The instance does not exist, the key belongs to a different request, or the first message failed.
    pub async fn answer_repeated(&self) -> Result<Option<Response>, ApiError> {
        let (instances, instance) = (&self.state.services.instances, self.instance);
        let Some(key) = &self.idempotency else { return Ok(None) };
        let Some(id) = instances.find_repeated(instance, key).await? else { return Ok(None) };
        let view = instances.message(instance, &MessageRef::Ours(id))?;
        let scheduled = view.history.first().is_some_and(|step| step.status == Status::Scheduled);
        let done = Done { status: sent_status(&view.kind), warning: PhoneWarning::english(&view.to) };
        let response = match (scheduled, self.asynchronous) {
            (true, _) => queued_response(id, Status::Scheduled, done.warning, None),
            (false, true) => queued_response(id, Status::Queued, done.warning, None),
            (false, false) => {
                let outcome = instances.await_outcome(instance, id).await?;
                self.outcome_response(id, outcome, done)?
            }
        };
        Ok(Some(response))
    }

    /// The response to a synchronous send.
    fn outcome_response(
        &self,
        id: MessageId,
        outcome: SyncSendOutcome,
        done: Done,
    ) -> Result<Response, ApiError> {
        match outcome {
            SyncSendOutcome::Sent(provider_id) => Ok(sent_response(id, provider_id, done)),
            SyncSendOutcome::Failed(failure) => {
                Err(ApiError::from_failure(&failure).with_message(id, "failed"))
            }
            SyncSendOutcome::Unknown => unknown_outcome(self.state, self.instance, id, done),
            SyncSendOutcome::NotStarted(view) => Err(withdrawn_error(view).with_message(id, "cancelled")),
        }
    }
}

/// WhatsApp accepted the message.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SentResponse {
    success: bool,
    /// WhatsApp's id of the message.
    #[schema(example = "wamid.HBgMNTczMDAxMjM0NTY3FQIAERgS")]
    message_id: String,
    /// The node's id of the message.
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    correlation_id: String,
    /// `sent`; for an edit `edited`, for a revocation `revoked`.
    #[schema(example = "sent")]
    status: &'static str,
    /// The number does not fit the numbering plan of its country.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<PhoneWarning>,
}

/// The message is queued, durably.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct QueuedResponse {
    success: bool,
    /// The node's id of the message: see `…/messages/{message_id}`.
    #[schema(example = "msg_019ab2f05f6b800080000040000a1b2c")]
    message_id: String,
    /// The same id in the form of `message_ack` events.
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    correlation_id: String,
    /// `queued` or `scheduled`.
    #[schema(example = "queued")]
    status: &'static str,
    /// The number does not fit the numbering plan of its country.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<PhoneWarning>,
    /// What the message waits for, if its instance cannot send now.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
}

/// The responses to a send.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the responses only")]
pub(super) enum SendResponses {
    /// WhatsApp accepted the message.
    #[response(status = 200)]
    Sent(SentResponse),
    /// With `X-Async: true` or `send_at`: the message is queued, durably, and the node delivers it.
    #[response(status = 202)]
    Queued(QueuedResponse),
    /// The request or the message in it is invalid; see `field`.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No such instance.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    RequestTimeout(ErrorBody),
    /// An operator disconnected the instance, or the `Idempotency-Key` was used for a different request.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The body is larger than permitted.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// WhatsApp rejected the message permanently; `provider_code` is its code.
    #[response(status = 422)]
    Rejected(ErrorBody),
    /// WhatsApp does not accept the instance's account: logged out or blocked.
    #[response(status = 424)]
    AccountRejected(ErrorBody),
    /// The queue is full, the rate limit does not allow it in time, or WhatsApp throttles. See `Retry-After`.
    #[response(status = 429)]
    Throttled(ErrorBody),
    /// This instance's provider cannot send such a message.
    #[response(status = 501)]
    Unsupported(ErrorBody),
    /// The instance is not connected, WhatsApp cannot be reached, or the node cannot accept messages now. It was
    /// not sent.
    #[response(status = 503)]
    Unavailable(ErrorBody),
    /// It was sent and its outcome is unknown. Do not send it again: see `…/messages/{message_id}`.
    #[response(status = 504)]
    Ambiguous(ErrorBody),
}

/// Submits a message to its instance. Waits for the outcome, unless the request is asynchronous or scheduled.
///
/// # Errors
///
/// The message is invalid, was rejected, failed, or has an unknown outcome.
pub(super) async fn submit_message(
    request: SubmitRequest<'_>,
    draft: MessageDraft,
) -> Result<Response, ApiError> {
    let (state, instance) = (request.state, request.instance);
    let quote =
        draft.quote.map(|message| resolve_provider_id(state, instance, "reply_to", message)).transpose()?;
    let now = state.services.clock.now();
    let done = Done { status: sent_status(draft.content.kind()), warning: PhoneWarning::english(&draft.to) };
    let send_at = draft.send_at.map(|moment| validate_send_at(moment, now)).transpose()?;
    let begin = send_at.unwrap_or(now);
    let expires_at = draft.expires_in.map(|seconds| begin + Duration::from_secs(seconds));
    let send = SendRequest {
        message: OutboundMessage { to: draft.to, content: draft.content, quote, options: draft.options },
        class: Class::Transactional,
        idempotency: request.idempotency.clone(),
        expires_at,
        send_at,
    };
    if request.asynchronous || send_at.is_some() {
        let accepted = state.services.instances.enqueue(instance, send).await.map_err(instance_error)?;
        if send_at.is_some() {
            return Ok(queued_response(accepted.id(), Status::Scheduled, done.warning, None));
        }
        let waits_for = state.services.instances.get(instance)?.waits_for();
        return Ok(queued_response(accepted.id(), Status::Queued, done.warning, waits_for));
    }
    let (id, outcome) = state.services.instances.send_now(instance, send).await.map_err(instance_error)?;
    request.outcome_response(id, outcome, done)
}

/// The time, if a message may be scheduled for it.
///
/// # Errors
///
/// The time is in the past or more than a year ahead.
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

/// WhatsApp's id of a message that is named by either id.
///
/// # Errors
///
/// The message does not exist or was not sent yet.
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
///
/// # Errors
///
/// The text is empty.
pub(super) fn required_text(field: &'static str, text: String) -> Result<String, ValidationError> {
    if text.trim().is_empty() {
        return Err(ValidationError::new(field, format!("{field} es requerido")));
    }
    Ok(text)
}

/// Clients send `""` for an omitted field.
pub(super) fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Parses an id of WhatsApp or of the node.
///
/// # Errors
///
/// The text is not a message id.
pub(in crate::http) fn parse_message_ref(field: &str, text: &str) -> Result<MessageRef, ValidationError> {
    text.parse().map_err(|invalid: ValidationError| ValidationError::new(field, invalid.reason))
}

/// Parses `reply_to`.
pub(super) fn parse_quote(reply_to: Option<String>) -> Result<Option<MessageRef>, ValidationError> {
    non_empty(reply_to).map(|text| parse_message_ref("reply_to", &text)).transpose()
}

/// What the response to a sent message says beside its ids.
struct Done {
    status: &'static str,
    warning: Option<PhoneWarning>,
}

/// The documented status of a sent message of this kind of content.
fn sent_status(kind: &str) -> &'static str {
    match kind {
        "edit" => "edited",
        "revoke" => "revoked",
        _ => "sent",
    }
}

fn sent_response(id: MessageId, provider_id: ProviderMessageId, done: Done) -> Response {
    let correlation_id = id.correlation_id().to_string();
    let message_id = provider_id.as_str().to_owned();
    let Done { status, warning } = done;
    Json(SentResponse { success: true, message_id, correlation_id, status, warning }).into_response()
}

fn queued_response(
    id: MessageId,
    status: Status,
    warning: Option<PhoneWarning>,
    waits_for: Option<String>,
) -> Response {
    let (message_id, correlation_id) = (id.to_string(), id.correlation_id().to_string());
    let answer = QueuedResponse {
        success: true,
        message_id,
        correlation_id,
        status: status.as_str(),
        warning,
        waits_for,
    };
    (StatusCode::ACCEPTED, Json(answer)).into_response()
}

/// Converts the field names of the message into those of the request.
fn instance_error(error: instance::Error) -> ApiError {
    let Some(invalid) = error.invalid() else { return error.into() };
    let field = match invalid.field.as_str() {
        "body" => "message",
        "media" => "media_url",
        field => field,
    };
    ValidationError::new(field, invalid.reason.clone()).into()
}

/// The response when the wait ended without an outcome. A status from WhatsApp may have arrived since.
fn unknown_outcome(
    state: &AppState,
    instance: &InstanceId,
    id: MessageId,
    done: Done,
) -> Result<Response, ApiError> {
    let view = state.services.instances.message(instance, &MessageRef::Ours(id))?;
    let taken = matches!(view.status, Status::Sent | Status::Delivered | Status::Read | Status::Played);
    if let Some(provider_id) = view.provider_id.filter(|_| taken) {
        return Ok(sent_response(id, provider_id, done));
    }
    let details = format!(
        "the message was sent and no response came in time; do not send it again, see \
         GET /instances/{instance}/messages/{id}"
    );
    Err(ApiError::new(ErrorKind::Ambiguous, details).with_message(id, view.status.as_str()))
}

/// The error of a withdrawn message: the rate limit or queue delayed it, or the instance was not connected.
pub(in crate::http) fn withdrawn_error(view: instance::StateView) -> ApiError {
    if view.state == InstanceState::Connected {
        let details = "too many messages are ahead of this one; it was withdrawn and will not be sent";
        return ApiError::new(ErrorKind::Throttled(SUGGESTED_RETRY_AFTER), details);
    }
    let details = format!(
        "the instance is {} ({}): {}; the message was withdrawn and will not be sent",
        view.state.as_str(),
        view.reason.code,
        view.reason.text
    );
    ApiError::new(ErrorKind::Unavailable, details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::{Reason, ReasonCode};

    #[test]
    fn withdrawn_message_error_names_rate_limit_or_connection() {
        let view = |state| instance::StateView::new(state, Reason::new(ReasonCode::Unreachable, "no route"));
        assert_eq!(withdrawn_error(view(InstanceState::Connected)).status(), 429);
        let away = withdrawn_error(view(InstanceState::Connecting));
        assert_eq!(away.status(), 503);
        assert!(away.details().contains("connecting (unreachable): no route"), "{}", away.details());
    }
}
