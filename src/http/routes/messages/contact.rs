//! `POST …/messages/contact` and `…/contacts`.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::submit::{self, MessageDraft, SendResponses, non_empty, parse_quote};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json, vcard};
use relevo_domain::{Content, MessageOptions, ValidationError};

/// A contact card, or several.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ContactMessage<'a> {
    /// A number in international format, a JID, or a user id. Also read: `to`, `jid`, `chat_jid`, `number`.
    #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
    #[schema(required = true, example = "573001234567")]
    phone: Cow<'a, str>,
    /// The name to show; wins over the name in `vcard`.
    display_name: Option<String>,
    /// One card as a vCard.
    vcard: Option<String>,
    /// Cards in the form of the Cloud API, instead of `vcard`.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    contacts: Vec<Value>,
    /// The message that this one answers, by WhatsApp's id or the node's.
    reply_to: Option<String>,
    /// Seconds after which it must not be sent any more; counted from `send_at`, if there is one.
    expires_in: Option<u64>,
    /// Not before this moment, at most a year from now: RFC 3339 or Unix seconds. Answered with 202.
    #[schema(value_type = Option<String>, example = "2026-01-31T15:00:00Z")]
    send_at: Option<RequestTimestamp>,
}

/// Sends a contact card as a vCard, or cards in the form of the Cloud API.
#[utoipa::path(post, path = "/instances/{id}/messages/contact", tag = "messages",
    request_body = ContactMessage, responses(SendResponses))]
pub async fn send_contact(
    state: State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: JsonBody,
) -> Result<Response, ApiError> {
    send_cards(state, target, sending, body).await
}

/// The same as `contact`.
#[utoipa::path(post, path = "/instances/{id}/messages/contacts", tag = "messages",
    request_body = ContactMessage, responses(SendResponses))]
pub async fn send_contacts(
    state: State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: JsonBody,
) -> Result<Response, ApiError> {
    send_cards(state, target, sending, body).await
}

async fn send_cards(
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let request: ContactMessage<'_> = json::parse(&body)?;
    let mut contacts = request.contacts;
    if let Some(card) = non_empty(request.vcard) {
        contacts.push(vcard::parse_contact(&card, request.display_name.as_deref())?);
    }
    if contacts.is_empty() {
        return Err(
            ValidationError::new("vcard", "phone y vcard son requeridos: give vcard or contacts").into()
        );
    }
    let draft = MessageDraft {
        to: request.phone.parse()?,
        content: Content::Contacts { contacts },
        quote: parse_quote(request.reply_to)?,
        manner: MessageOptions::default(),
        expires_in: request.expires_in,
        send_at: request.send_at,
        idempotency: sending.idempotency_key("contacts", &body),
    };
    submit::submit_message(&state, &instance, draft, sending.asynchronous).await
}
