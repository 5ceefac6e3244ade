//! `POST …/messages/mark-read`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::submit::{non_empty, required_text};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::{AppState, json};
use crate::instance::ReadMessage;
use relevo_domain::{Recipient, ValidationError};

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

/// Tells the sender of a received message that it was read.
#[utoipa::path(post, path = "/instances/{id}/messages/mark-read", operation_id = "mark_message_read",
    tag = "messages", request_body = MarkReadBody, params(TargetInstance), responses(
        (status = 200, description = "WhatsApp took it.", body = MarkReadResponse),
        (status = 400, description = "The request breaks a rule; `field` names what.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 409, description = "The instance is not meant to be connected.", body = ErrorBody),
        (status = 422, description = "WhatsApp refused, or nobody here knows that message.", body = ErrorBody),
        (status = 503, description = "The instance is not connected, or WhatsApp cannot be reached.", body = ErrorBody),
    ))]
pub async fn mark_read(
    _: Access<scope::Send>,
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
