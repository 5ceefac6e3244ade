//! `POST …/messages/mark-read`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::submit::required_text;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::phone_text::PhoneText;
use crate::http::{AppState, json};
use crate::instance::ReadMessage;

/// A received message to mark as read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct MarkReadBody<'a> {
    /// WhatsApp's id of the message.
    #[serde(default)]
    #[schema(required = true)]
    message_id: String,
    /// The chat of the message. A linked device requires it, except for recent messages whose chats it still knows.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>, example = "573001234567@s.whatsapp.net")]
    chat_jid: PhoneText<'a>,
    /// Used when `chat_jid` is omitted.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    phone: PhoneText<'a>,
    /// The sender, in groups.
    #[serde(default, borrow)]
    #[schema(value_type = Option<String>)]
    sender_jid: PhoneText<'a>,
    /// Also show the sender a typing indicator.
    #[serde(default)]
    typing: bool,
}

/// The message was marked as read.
#[derive(Debug, Serialize, ToSchema)]
pub struct MarkReadResponse {
    success: bool,
    message_id: String,
    #[schema(example = "read")]
    status: &'static str,
}

/// Marks a received message as read.
#[utoipa::path(post, path = "/instances/{id}/messages/mark-read", operation_id = "mark_message_read",
    tag = "messages", request_body = MarkReadBody, params(TargetInstance), responses(
        (status = 200, description = "WhatsApp accepted it.", body = MarkReadResponse),
        (status = 400, description = "The request is invalid; see `field`.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 409, description = "An operator disconnected the instance.", body = ErrorBody),
        (status = 422, description = "WhatsApp rejected it, or the message is unknown.", body = ErrorBody),
        (status = 503, description = "The instance is not connected, or WhatsApp cannot be reached.", body = ErrorBody),
    ))]
pub async fn mark_read(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<MarkReadResponse>, ApiError> {
    let request: MarkReadBody<'_> = json::parse(&body)?;
    let message_id = required_text("message_id", request.message_id)?;
    let recipients = state.recipients();
    let named = |field: &'static str, name: &PhoneText<'_>| {
        (!name.is_empty()).then(|| name.parse_field(recipients, field)).transpose()
    };
    let read = ReadMessage {
        message: message_id.parse()?,
        chat: named("chat_jid", &request.chat_jid)?.or(named("phone", &request.phone)?),
        sender: named("sender_jid", &request.sender_jid)?,
    };
    state.services.instances.mark_read(&instance, read, request.typing).await?;
    Ok(Json(MarkReadResponse { success: true, message_id, status: "read" }))
}
