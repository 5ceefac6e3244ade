//! `POST …/messages/revoke`.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::earlier_message::EarlierMessage;
use super::submit::{SendResponses, SubmitRequest};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::phone_text::PhoneText;
use crate::http::{AppState, json};
use relevo_domain::Content;

/// A message to revoke.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RevokeRequest<'a> {
    /// The recipient of the message. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(value_type = String, required = true, example = "573001234567")]
    phone: PhoneText<'a>,
    /// The message, by WhatsApp's id or the node's.
    #[serde(default)]
    #[schema(required = true)]
    message_id: String,
}

/// Revokes an earlier message of this instance for everyone in the chat. Linked devices only.
#[utoipa::path(post, path = "/instances/{id}/messages/revoke", operation_id = "revoke_message", tag = "messages",
    request_body = RevokeRequest, params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn revoke(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let parse = || {
        let request: RevokeRequest<'_> = json::parse(&body)?;
        let earlier = EarlierMessage::parse(request.phone.parse(state.recipients())?, request.message_id)?;
        earlier.draft_change(&state, &instance, |message_id| Content::Revoke { message_id })
    };
    SubmitRequest::new(&state, &instance, &sending, "revoke", &body).submit(parse).await
}
