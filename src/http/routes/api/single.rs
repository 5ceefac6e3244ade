//! The path of one message of `/api`: parsed, assigned to an instance, sent or queued, and answered.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::content::ContentDraft;
use super::json_fields::{self, JsonFields};
use super::message_kind::MessageKind;
use super::responses::{GraphSendResponse, SendMessageResponse};
use super::target::target_instance;
use crate::http::api::error::ApplicationError;
use crate::http::body::{self, ReceivedBody};
use crate::http::error::ApiError;
use crate::http::extract::{INSTANCE_ID_HEADER, SendOptions, idempotency_key_parameter, instance_header};
use crate::http::phone_warnings::PhoneWarning;
use crate::http::routes::messages::submit::{parse_message_ref, resolve_provider_id, withdrawn_error};
use crate::http::{AppState, parameter};
use crate::instance::{self, SendRequest, SyncSendOutcome};
use crate::queue::IdempotencyKey;
use relevo_domain::{
    Class, ErrorKind, InstanceId, MessageId, MessageOptions, MessageRef, OutboundMessage, Recipient,
    RecipientParser, Status, ValidationError,
};

/// A request for one message before its body is received.
pub(in crate::http) struct IncomingRequest {
    /// `X-Instance-Id`.
    pub(super) instance: Option<String>,
    pub(super) sending: SendOptions,
    pub(super) request: Request,
}

impl FromRequest<AppState> for IncomingRequest {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let sending = SendOptions::from_request_parts(&mut parts, state).await?;
        let instance = instance_header(&parts.headers);
        Ok(Self { instance, sending, request: Request::from_parts(parts, body) })
    }
}

impl IntoParams for IncomingRequest {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            parameter::header(
                INSTANCE_ID_HEADER,
                "The instance, where neither `instance_id` nor the node's default_instance is meant.",
            ),
            idempotency_key_parameter(),
        ]
    }
}

/// A parsed request for a message.
struct ParsedRequest {
    instance: Option<String>,
    /// The recipient as given, and as parsed.
    input: String,
    to: Recipient,
    draft: ContentDraft,
    quote: Option<MessageRef>,
    queued: bool,
    idempotency: Option<IdempotencyKey>,
}

/// Sends one message, or queues it.
///
/// # Errors
///
/// The request is invalid, the instance rejects the message, or it was not sent.
pub(super) async fn submit_single(
    state: &AppState,
    incoming: IncomingRequest,
    kind: MessageKind,
) -> Result<Response, ApplicationError> {
    let IncomingRequest { instance: header, sending, request } = incoming;
    let options = &state.options;
    let limit = if kind.may_carry_media() { options.media_body_limit } else { options.json_body_limit };
    let ReceivedBody { bytes, memory_permit } = body::receive_body(request, limit, state).await?;
    let recipients = state.recipients();
    let parse = move |body: &[u8]| parse_request(kind, body, &sending, recipients);
    let parsed = body::parse_off_thread(bytes, parse).await?;
    let instance = target_instance(state, header.or(parsed.instance))?;
    let content = parsed.draft.store_media(&state.services.instances).await?;
    // An inline file is on the disk now; the memory is free for other requests.
    drop(memory_permit);
    let quote = match parsed.quote {
        Some(message) => Some(resolve_provider_id(state, &instance, "context_message_id", message)?),
        None => None,
    };
    let prepared = PreparedMessage {
        kind,
        input: parsed.input,
        message: OutboundMessage { to: parsed.to, content, quote, options: MessageOptions::default() },
        idempotency: parsed.idempotency,
    };
    if parsed.queued {
        enqueue_message(state, &instance, prepared).await
    } else {
        send_message(state, &instance, prepared).await
    }
}

/// A message ready to submit.
struct PreparedMessage {
    kind: MessageKind,
    input: String,
    message: OutboundMessage,
    idempotency: Option<IdempotencyKey>,
}

impl PreparedMessage {
    fn to_send(&self) -> SendRequest {
        SendRequest {
            message: self.message.clone(),
            class: Class::Transactional,
            idempotency: self.idempotency.clone(),
            expires_at: None,
            send_at: None,
        }
    }
}

async fn enqueue_message(
    state: &AppState,
    instance: &InstanceId,
    prepared: PreparedMessage,
) -> Result<Response, ApplicationError> {
    let accepted = state.services.instances.enqueue(instance, prepared.to_send()).await;
    let id = accepted.map_err(|error| instance_error(prepared.kind, error))?.id();
    let (_, message) = prepared.kind.success_messages();
    let warning = PhoneWarning::spanish(&prepared.message.to);
    Ok(Json(SendMessageResponse::queued(message, id).with_warnings(warning)).into_response())
}

async fn send_message(
    state: &AppState,
    instance: &InstanceId,
    prepared: PreparedMessage,
) -> Result<Response, ApplicationError> {
    let outcome = state.services.instances.send_now(instance, prepared.to_send()).await;
    let (id, sent) = outcome.map_err(|error| instance_error(prepared.kind, error))?;
    let provider_id = match sent {
        SyncSendOutcome::Sent(provider_id) => provider_id,
        SyncSendOutcome::Failed(failure) => {
            return Err(ApplicationError::from_failure(&failure).with_message(id, "failed"));
        }
        SyncSendOutcome::NotStarted(view) => {
            return Err(ApplicationError::from(withdrawn_error(view))
                .with_success_false()
                .with_message(id, "cancelled"));
        }
        SyncSendOutcome::Unknown => {
            let view = state.services.instances.message(instance, &MessageRef::Ours(id))?;
            // A status may have arrived since.
            let taken =
                matches!(view.status, Status::Sent | Status::Delivered | Status::Read | Status::Played);
            view.provider_id.filter(|_| taken).ok_or_else(|| unknown_outcome(id, view.status))?
        }
    };
    let (message, _) = prepared.kind.success_messages();
    let warning = PhoneWarning::spanish(&prepared.message.to);
    let data = GraphSendResponse::new(prepared.input, &prepared.message.to, &provider_id);
    Ok(Json(SendMessageResponse::sent(message, data).with_warnings(warning)).into_response())
}

/// The error of a message with an unknown outcome.
fn unknown_outcome(id: MessageId, status: Status) -> ApplicationError {
    let details = format!(
        "the message went out and no answer came in time; do not send it again, ask for it: \
         GET /api/task-status/{}",
        id.correlation_id()
    );
    ApplicationError::from(ApiError::new(ErrorKind::Ambiguous, details))
        .with_success_false()
        .with_message(id, status.as_str())
}

/// The error of a rejected message, with the field names of the request.
fn instance_error(kind: MessageKind, error: instance::Error) -> ApplicationError {
    match error.invalid() {
        Some(invalid) => ApplicationError::from(kind.with_field_name(invalid)),
        None => ApplicationError::from(error),
    }
    .with_send_prefix()
}

fn parse_request(
    kind: MessageKind,
    body: &[u8],
    sending: &SendOptions,
    recipients: RecipientParser,
) -> Result<ParsedRequest, ApplicationError> {
    let map = json_fields::parse(body)?;
    let fields = JsonFields::new(&map);
    let draft = kind.parse(fields)?;
    let queued = fields.flag("use_queue", false)?;
    let input = fields.string("phone")?;
    let to = recipients
        .parse(&input)
        .map_err(|invalid| ApplicationError::from(with_phone_field(invalid)).with_send_prefix())?;
    let quoted = match kind {
        MessageKind::Text | MessageKind::Media => fields.optional("context_message_id")?,
        _ => None,
    };
    let quote = quoted.map(|id| parse_message_ref("context_message_id", &id)).transpose()?;
    let idempotency = sending.idempotency_key(kind.as_str(), body);
    let instance = fields.optional("instance_id")?;
    Ok(ParsedRequest { instance, input, to, draft, quote, queued, idempotency })
}

fn with_phone_field(invalid: ValidationError) -> ValidationError {
    ValidationError::new("phone", invalid.reason)
}
