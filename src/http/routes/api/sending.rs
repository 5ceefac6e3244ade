//! One message of `/api` on its way: read, directed to an instance, sent or queued, and answered.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};

use crate::http::body::Arrived;
use crate::http::error::ApiError;
use crate::http::extract::Sending;
use crate::http::flask::Refusal;
use crate::http::routes::sending::{message_ref, not_in_time, provider_id};
use crate::http::{AppState, body};
use crate::instance::{self, Send, Sent};
use crate::queue::IdempotencyKey;
use relevo_domain::{
    Class, ErrorKind, InstanceId, Invalid, Manner, MessageId, MessageRef, OutboundMessage, Recipient, Status,
};

use super::answers::{Data, Done};
use super::contents::Draft;
use super::fields::{self, Fields};
use super::kind::Kind;

/// Bodies from this size on are read beside the threads that serve requests, in bytes.
const HEAVY: usize = 64 << 10;

/// A request for one message whose body has not arrived yet.
pub(in crate::http) struct Incoming {
    /// `X-Instance-Id`.
    pub(super) instance: Option<String>,
    pub(super) sending: Sending,
    pub(super) request: Request,
}

impl FromRequest<AppState> for Incoming {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let sending = Sending::from_request_parts(&mut parts, state).await?;
        let name = parts.headers.get("x-instance-id");
        let instance = name.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
        Ok(Self { instance, sending, request: Request::from_parts(parts, body) })
    }
}

/// A message as its request asks for it.
struct Asked {
    instance: Option<String>,
    /// The recipient as it was spelled, and as it was understood.
    input: String,
    to: Recipient,
    draft: Draft,
    quote: Option<MessageRef>,
    queued: bool,
    idempotency: Option<IdempotencyKey>,
}

/// Sends one message, or queues it.
pub(super) async fn single(state: &AppState, incoming: Incoming, kind: Kind) -> Result<Response, Refusal> {
    let Incoming { instance: header, sending, request } = incoming;
    let options = &state.options;
    let limit = if kind.may_carry_a_file() { options.media_body_limit } else { options.json_body_limit };
    let Arrived { bytes, room } = body::receive(request, limit, state).await?;
    let asked = aside(bytes.len(), move || understand(kind, &bytes, &sending)).await?;
    let instance = chosen(state, header.or(asked.instance))?;
    let content = asked.draft.keep(&state.services.instances).await?;
    // From here on a file that came inside is on the disk; others may have the room.
    drop(room);
    let quote = match asked.quote {
        Some(message) => Some(provider_id(state, &instance, "context_message_id", message)?),
        None => None,
    };
    let letter = Letter {
        kind,
        input: asked.input,
        message: OutboundMessage { to: asked.to, content, quote, manner: Manner::default() },
        idempotency: asked.idempotency,
    };
    if asked.queued { queue(state, &instance, letter).await } else { send(state, &instance, letter).await }
}

/// A message that is ready to go.
struct Letter {
    kind: Kind,
    input: String,
    message: OutboundMessage,
    idempotency: Option<IdempotencyKey>,
}

impl Letter {
    fn to_send(&self) -> Send {
        Send {
            message: self.message.clone(),
            class: Class::Transactional,
            idempotency: self.idempotency.clone(),
            expires_at: None,
            send_at: None,
        }
    }
}

async fn queue(state: &AppState, instance: &InstanceId, letter: Letter) -> Result<Response, Refusal> {
    let accepted = state.services.instances.enqueue(instance, letter.to_send()).await;
    let id = accepted.map_err(|error| refused(letter.kind, error))?.id();
    let (_, message) = letter.kind.words();
    Ok(Json(Done::queued(message, id)).into_response())
}

async fn send(state: &AppState, instance: &InstanceId, letter: Letter) -> Result<Response, Refusal> {
    let outcome = state.services.instances.send_now(instance, letter.to_send()).await;
    let (id, sent) = outcome.map_err(|error| refused(letter.kind, error))?;
    let provider_id = match sent {
        Sent::Sent(provider_id) => provider_id,
        Sent::Failed(failure) => return Err(Refusal::not_sent(&failure).about(id, "failed")),
        Sent::NotInTime(view) => {
            return Err(Refusal::from(not_in_time(view)).unsuccessful().about(id, "cancelled"));
        }
        Sent::Unknown => {
            let view = state.services.instances.message(instance, &MessageRef::Ours(id))?;
            // A status may have told it since.
            let taken =
                matches!(view.status, Status::Sent | Status::Delivered | Status::Read | Status::Played);
            view.provider_id.filter(|_| taken).ok_or_else(|| unknown(id, view.status))?
        }
    };
    let (message, _) = letter.kind.words();
    Ok(Json(Done::sent(message, Data::new(letter.input, &letter.message.to, &provider_id))).into_response())
}

/// It went out, and nobody knows whether WhatsApp took it.
fn unknown(id: MessageId, status: Status) -> Refusal {
    let details = format!(
        "the message went out and no answer came in time; do not send it again, ask for it: \
         GET /api/task-status/{}",
        id.correlation_id()
    );
    Refusal::from(ApiError::new(ErrorKind::Ambiguous, details)).unsuccessful().about(id, status.as_str())
}

/// Why an instance did not take a message, with its fields under the names that the caller knows.
fn refused(kind: Kind, error: instance::Error) -> Refusal {
    match error.invalid() {
        Some(invalid) => Refusal::from(kind.about(invalid)),
        None => Refusal::from(error),
    }
    .while_sending()
}

/// The instance that the request names, else the node's default.
pub(super) fn chosen(state: &AppState, named: Option<String>) -> Result<InstanceId, Refusal> {
    let Some(name) = named else { return default(state) };
    let id = name.parse().map_err(|_| ApiError::unknown_instance(&name))?;
    // Asked before anything is kept: nobody would ever send it.
    state.services.instances.get(&id)?;
    Ok(id)
}

fn default(state: &AppState) -> Result<InstanceId, Refusal> {
    let id = state.options.default_instance.clone().ok_or_else(|| {
        Refusal::unavailable(
            "this node has no default_instance; set one, or name an instance with X-Instance-Id or instance_id",
        )
    })?;
    state.services.instances.get(&id).map_err(|_| {
        Refusal::unavailable(format!("no instance is called {id}; create it with POST /instances"))
    })?;
    Ok(id)
}

fn understand(kind: Kind, body: &[u8], sending: &Sending) -> Result<Asked, Refusal> {
    let map = fields::parse(body)?;
    let fields = Fields::new(&map);
    let draft = kind.read(fields)?;
    let queued = fields.flag("use_queue", false)?;
    let input = fields.string("phone")?;
    let to = input.parse().map_err(|invalid| Refusal::from(at_phone(invalid)).while_sending())?;
    let quoted = match kind {
        Kind::Text | Kind::Media => fields.optional("context_message_id")?,
        _ => None,
    };
    let quote = quoted.map(|id| message_ref("context_message_id", &id)).transpose()?;
    let idempotency = sending.idempotency(kind.as_str(), body);
    let instance = fields.optional("instance_id")?;
    Ok(Asked { instance, input, to, draft, quote, queued, idempotency })
}

fn at_phone(invalid: Invalid) -> Invalid {
    Invalid::new("phone", invalid.reason)
}

/// Reads a body of so many bytes without holding up other requests while much is decoded.
pub(super) async fn aside<T: std::marker::Send + 'static>(
    bytes: usize,
    read: impl FnOnce() -> Result<T, Refusal> + std::marker::Send + 'static,
) -> Result<T, Refusal> {
    if bytes < HEAVY {
        return read();
    }
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(ApiError::panicked().into()))
}
