//! `POST …/messages/location`.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::submit::{self, MessageDraft, SendResponses, non_empty, parse_quote};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json};
use relevo_domain::{Content, Location, MessageOptions};

/// A place.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LocationMessage<'a> {
    /// A number in international format, a JID, or a user id. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(required = true, example = "573001234567")]
    phone: Cow<'a, str>,
    /// Degrees, -90 to 90.
    #[schema(example = 4.711)]
    latitude: f64,
    /// Degrees, -180 to 180.
    #[schema(example = -74.0721)]
    longitude: f64,
    name: Option<String>,
    address: Option<String>,
    /// The message that this one answers, by WhatsApp's id or the node's.
    reply_to: Option<String>,
    /// Seconds after which it must not be sent any more; counted from `send_at`, if there is one.
    expires_in: Option<u64>,
    /// Not before this moment, at most a year from now: RFC 3339 or Unix seconds. Answered with 202.
    #[schema(value_type = Option<String>, example = "2026-01-31T15:00:00Z")]
    send_at: Option<RequestTimestamp>,
}

/// Sends a place.
#[utoipa::path(post, path = "/instances/{id}/messages/location", tag = "messages",
    request_body = LocationMessage, responses(SendResponses))]
pub async fn send_location(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request: LocationMessage<'_> = json::parse(&body)?;
    let draft = MessageDraft {
        to: request.phone.parse()?,
        content: Content::Location(Location {
            latitude: request.latitude,
            longitude: request.longitude,
            name: non_empty(request.name),
            address: non_empty(request.address),
        }),
        quote: parse_quote(request.reply_to)?,
        manner: MessageOptions::default(),
        expires_in: request.expires_in,
        send_at: request.send_at,
        idempotency: sending.idempotency_key("location", &body),
    };
    submit::submit_message(&state, &instance, draft, sending.asynchronous).await
}
