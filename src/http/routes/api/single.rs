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
    let ReceivedBody { bytes, memory } = body::receive_body(request, limit, state).await?;
    let recipients = state.recipients();
    let parse = move |body: &[u8]| parse_request(kind, body, &sending, recipients);
    let parsed = body::parse_off_thread(bytes, parse).await?;
    let instance = target_instance(state, header.or(parsed.instance))?;
    let caller = SingleSend { state, instance: &instance, kind, input: parsed.input, to: parsed.to };
    if let Some(key) = &parsed.idempotency
        && let Some(id) = state.services.instances.find_repeated(&instance, key).await?
    {
        return caller.answer_repeated(id, parsed.queued).await;
    }
    let content = parsed.draft.store_media(&state.services.instances).await?;
    // An inline file is on the disk now; the memory is free for other requests.
    drop(memory);
    let quote = match parsed.quote {
        Some(message) => Some(resolve_provider_id(state, &instance, "context_message_id", message)?),
        None => None,
    };
    let send = SendRequest {
        message: OutboundMessage {
            to: caller.to.clone(),
            content,
            quote,
            options: MessageOptions::default(),
        },
        class: Class::Transactional,
        idempotency: parsed.idempotency,
        expires_at: None,
        send_at: None,
    };
    if parsed.queued { caller.enqueue(send).await } else { caller.send(send).await }
}

/// Whose message it is, and what the answer repeats of the request.
struct SingleSend<'a> {
    state: &'a AppState,
    instance: &'a InstanceId,
    kind: MessageKind,
    input: String,
    to: Recipient,
}

impl SingleSend<'_> {
    async fn enqueue(&self, send: SendRequest) -> Result<Response, ApplicationError> {
        let accepted = self.state.services.instances.enqueue(self.instance, send).await;
        let id = accepted.map_err(|error| instance_error(self.kind, error))?.id();
        Ok(self.queued_response(id, self.state.services.instances.get(self.instance)?.waits_for()))
    }

    async fn send(&self, send: SendRequest) -> Result<Response, ApplicationError> {
        let outcome = self.state.services.instances.send_now(self.instance, send).await;
        let (id, outcome) = outcome.map_err(|error| instance_error(self.kind, error))?;
        self.outcome_response(id, outcome)
    }

    /// The answer to a repetition of an earlier request, whatever has changed since.
    async fn answer_repeated(&self, id: MessageId, queued: bool) -> Result<Response, ApplicationError> {
        if queued {
            return Ok(self.queued_response(id, None));
        }
        let outcome = self.state.services.instances.await_outcome(self.instance, id).await?;
        self.outcome_response(id, outcome)
    }

    fn queued_response(&self, id: MessageId, waits_for: Option<String>) -> Response {
        let (_, message) = self.kind.success_messages();
        let warning = PhoneWarning::spanish(&self.to);
        Json(SendMessageResponse::queued(message, id, waits_for).with_warnings(warning)).into_response()
    }

    fn outcome_response(
        &self,
        id: MessageId,
        outcome: SyncSendOutcome,
    ) -> Result<Response, ApplicationError> {
        let provider_id = match outcome {
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
                let view = self.state.services.instances.message(self.instance, &MessageRef::Ours(id))?;
                // A status may have arrived since.
                let taken =
                    matches!(view.status, Status::Sent | Status::Delivered | Status::Read | Status::Played);
                view.provider_id.filter(|_| taken).ok_or_else(|| unknown_outcome(id, view.status))?
            }
        };
        let (message, _) = self.kind.success_messages();
        let graph = GraphSendResponse::new(self.input.clone(), &self.to, &provider_id);
        let warning = PhoneWarning::spanish(&self.to);
        Ok(Json(SendMessageResponse::sent(message, graph).with_warnings(warning)).into_response())
    }
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
