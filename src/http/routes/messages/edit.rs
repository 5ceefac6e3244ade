//! `POST …/messages/edit`.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::earlier_message::EarlierMessage;
use super::submit::{SendResponses, SubmitRequest, required_text};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::phone_text::PhoneText;
use crate::http::{AppState, json};
use relevo_domain::Content;

/// The new text of an earlier message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct EditRequest<'a> {
    /// The recipient of the message. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(value_type = String, required = true, example = "573001234567")]
    phone: PhoneText<'a>,
    /// The message, by WhatsApp's id or the node's.
    #[serde(default)]
    #[schema(required = true)]
    message_id: String,
    /// The new text, or the caption of its file. Also read: `message`.
    #[serde(default, alias = "message")]
    #[schema(required = true, example = "Hola, Ana")]
    new_text: String,
}

/// Edits an earlier message of this instance. Linked devices only.
#[utoipa::path(post, path = "/instances/{id}/messages/edit", operation_id = "edit_message", tag = "messages",
    request_body = EditRequest, params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn edit(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let parse = || {
        let request: EditRequest<'_> = json::parse(&body)?;
        let earlier = EarlierMessage::parse(request.phone.parse(state.recipients())?, request.message_id)?;
        let text = required_text("new_text", request.new_text)?;
        earlier.draft_change(&state, &instance, |message_id| Content::Edit { message_id, body: text })
    };
    SubmitRequest::new(&state, &instance, &sending, "edit", &body).submit(parse).await
}
