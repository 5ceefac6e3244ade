//! `/instances/{id}/messages/{edit,revoke,mark-read}`: what can be done about earlier messages.

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::{AppState, json};
use crate::instance::ReadMessage;
use relevo_domain::{Content, MessageOptions, Recipient, ValidationError};

use super::sending::{self, MessageDraft, SendResponses, non_empty, parse_message_ref, required_text};

/// What an earlier message says from now on.
#[derive(Debug, Deserialize, ToSchema)]
pub struct EditRequest<'a> {
    /// Who is in the chat of the message. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(required = true, example = "573001234567")]
    phone: Cow<'a, str>,
    /// The message, by WhatsApp's id or the node's.
    #[serde(default)]
    #[schema(required = true)]
    message_id: String,
    /// Its text, or the caption of its file. Also read: `message`.
    #[serde(default, alias = "message")]
    #[schema(required = true, example = "Hola, Ana")]
    new_text: String,
}

/// A message to take back.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RevokeRequest<'a> {
    /// Who is in the chat of the message. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(required = true, example = "573001234567")]
    phone: Cow<'a, str>,
    /// The message, by WhatsApp's id or the node's.
    #[serde(default)]
    #[schema(required = true)]
    message_id: String,
}

/// A received message that was read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct MarkReadBody {
    /// WhatsApp's id of it.
    #[serde(default)]
    #[schema(required = true)]
    message_id: String,
    /// Where it was written. A linked device must know; it remembers the chats of its latest messages by itself.
    #[schema(example = "573001234567@s.whatsapp.net")]
    chat_jid: Option<String>,
    /// The same, where `chat_jid` is left out.
    phone: Option<String>,
    /// Who wrote it, in groups.
    sender_jid: Option<String>,
    /// Also shows the sender that an answer is being written.
    #[serde(default)]
    typing: bool,
}

/// Its sender sees that it was read.
#[derive(Debug, Serialize, ToSchema)]
pub struct MarkReadResponse {
    success: bool,
    message_id: String,
    #[schema(example = "read")]
    status: &'static str,
}

/// Changes what an earlier message of this instance says. Linked devices alone.
#[utoipa::path(post, path = "/instances/{id}/messages/edit", operation_id = "edit_message", tag = "messages",
    request_body = EditRequest, responses(SendResponses))]
pub async fn edit(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request: EditRequest<'_> = json::parse(&body)?;
    let to = request.phone.parse()?;
    let message = parse_message_ref("message_id", &required_text("message_id", request.message_id)?)?;
    let text = required_text("new_text", request.new_text)?;
    let message_id =
        sending::resolve_provider_id(&state, &instance, "message_id", message)?.as_str().to_owned();
    let draft = build_draft(to, Content::Edit { message_id, body: text }, &sending, "edit", &body);
    sending::submit_message(&state, &instance, draft, sending.asynchronous).await
}

/// Takes an earlier message of this instance back, for everybody in the chat. Linked devices alone.
#[utoipa::path(post, path = "/instances/{id}/messages/revoke", operation_id = "revoke_message", tag = "messages",
    request_body = RevokeRequest, responses(SendResponses))]
pub async fn revoke(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request: RevokeRequest<'_> = json::parse(&body)?;
    let to = request.phone.parse()?;
    let message = parse_message_ref("message_id", &required_text("message_id", request.message_id)?)?;
    let message_id =
        sending::resolve_provider_id(&state, &instance, "message_id", message)?.as_str().to_owned();
    let draft = build_draft(to, Content::Revoke { message_id }, &sending, "revoke", &body);
    sending::submit_message(&state, &instance, draft, sending.asynchronous).await
}

fn build_draft(
    to: Recipient,
    content: Content,
    sending: &SendOptions,
    route: &str,
    body: &[u8],
) -> MessageDraft {
    let idempotency = sending.idempotency_key(route, body);
    let manner = MessageOptions::default();
    MessageDraft { to, content, quote: None, manner, expires_in: None, send_at: None, idempotency }
}

/// Tells the sender of a received message that it was read.
#[utoipa::path(post, path = "/instances/{id}/messages/mark-read", operation_id = "mark_message_read",
    tag = "messages", request_body = MarkReadBody, responses(
        (status = 200, description = "WhatsApp took it.", body = MarkReadResponse),
        (status = 400, description = "The request breaks a rule; `field` names what.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 409, description = "The instance is not meant to be connected.", body = ErrorBody),
        (status = 422, description = "WhatsApp refused, or nobody here knows that message.", body = ErrorBody),
        (status = 503, description = "The instance is not connected, or WhatsApp cannot be reached.", body = ErrorBody),
    ))]
pub async fn mark_read(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<MarkReadResponse>, ApiError> {
    let request: MarkReadBody = json::parse(&body)?;
    let message_id = required_text("message_id", request.message_id)?;
    let named = |field: &'static str, name: Option<String>| {
        let parse = |name: String| name.parse::<Recipient>();
        let wrong = |invalid: ValidationError| ValidationError::new(field, invalid.reason);
        non_empty(name).map(parse).transpose().map_err(wrong)
    };
    let read = ReadMessage {
        message: message_id.parse()?,
        chat: named("chat_jid", request.chat_jid)?.or(named("phone", request.phone)?),
        sender: named("sender_jid", request.sender_jid)?,
    };
    state.services.instances.mark_read(&instance, read, request.typing).await?;
    Ok(Json(MarkReadResponse { success: true, message_id, status: "read" }))
}
