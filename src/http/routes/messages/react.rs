//! `POST …/messages/react`.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::submit::{self, MessageDraft, SendResponses, parse_message_ref, required_text};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json};
use relevo_domain::{Content, MessageOptions};

/// A reaction to a message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ReactionMessage<'a> {
    /// Who is in the chat of the message. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(required = true, example = "573001234567")]
    phone: Cow<'a, str>,
    /// The message, by WhatsApp's id or the node's.
    #[serde(default)]
    #[schema(required = true)]
    message_id: String,
    /// Empty takes the reaction back. Also read: `reaction`.
    #[serde(default, alias = "reaction")]
    #[schema(example = "👍")]
    emoji: String,
    /// Seconds after which it must not be sent any more; counted from `send_at`, if there is one.
    expires_in: Option<u64>,
    /// Not before this moment, at most a year from now: RFC 3339 or Unix seconds. Answered with 202.
    #[schema(value_type = Option<String>, example = "2026-01-31T15:00:00Z")]
    send_at: Option<RequestTimestamp>,
}

/// Reacts to a message, or takes a reaction back.
#[utoipa::path(post, path = "/instances/{id}/messages/react", operation_id = "send_reaction", tag = "messages", request_body = ReactionMessage,
    responses(SendResponses))]
pub async fn react(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request: ReactionMessage<'_> = json::parse(&body)?;
    let to = request.phone.parse()?;
    let message = parse_message_ref("message_id", &required_text("message_id", request.message_id)?)?;
    let message_id = submit::resolve_provider_id(&state, &instance, "message_id", message)?;
    let draft = MessageDraft {
        to,
        content: Content::Reaction { message_id: message_id.as_str().to_owned(), emoji: request.emoji },
        quote: None,
        manner: MessageOptions::default(),
        expires_in: request.expires_in,
        send_at: request.send_at,
        idempotency: sending.idempotency_key("reaction", &body),
    };
    submit::submit_message(&state, &instance, draft, sending.asynchronous).await
}
