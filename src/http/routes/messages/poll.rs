//! `POST …/messages/poll`.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::submit::{self, MessageDraft, SendResponses, parse_quote, required_text};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json};
use relevo_domain::{Content, MessageOptions, Poll};

/// A question with answers to tick.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PollMessage<'a> {
    /// A number in international format, or a JID. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(required = true, example = "573001234567")]
    phone: Cow<'a, str>,
    /// Also read: `name`.
    #[serde(default, alias = "name")]
    #[schema(required = true, example = "¿Cuándo?")]
    question: String,
    /// Two to twelve, all different.
    #[serde(default)]
    #[schema(required = true, example = json!(["Hoy", "Mañana"]))]
    options: Vec<String>,
    /// How many may be ticked; 0 is any number.
    #[serde(default = "one")]
    #[schema(default = 1)]
    selectable_count: u32,
    /// The message that this one answers, by WhatsApp's id or the node's.
    reply_to: Option<String>,
    /// Seconds after which it must not be sent any more; counted from `send_at`, if there is one.
    expires_in: Option<u64>,
    /// Not before this moment, at most a year from now: RFC 3339 or Unix seconds. Answered with 202.
    #[schema(value_type = Option<String>, example = "2026-01-31T15:00:00Z")]
    send_at: Option<RequestTimestamp>,
}

fn one() -> u32 {
    1
}

/// Sends a poll. Linked devices alone.
#[utoipa::path(post, path = "/instances/{id}/messages/poll", tag = "messages", request_body = PollMessage,
    responses(SendResponses))]
pub async fn send_poll(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request: PollMessage<'_> = json::parse(&body)?;
    let draft = MessageDraft {
        to: request.phone.parse()?,
        content: Content::Poll(Poll {
            question: required_text("question", request.question)?,
            options: request.options,
            selectable: request.selectable_count,
        }),
        quote: parse_quote(request.reply_to)?,
        manner: MessageOptions::default(),
        expires_in: request.expires_in,
        send_at: request.send_at,
        idempotency: sending.idempotency_key("poll", &body),
    };
    submit::submit_message(&state, &instance, draft, sending.asynchronous).await
}
