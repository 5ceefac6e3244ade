//! `POST …/messages/contact` and `…/contacts`.

use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::envelope::{self, send_request};
use super::submit::{SendResponses, SubmitRequest, non_empty};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::{AppState, json, vcard};
use relevo_domain::{Content, ValidationError};

send_request! {
    /// A contact card, or several.
    pub struct ContactMessage<'a> {
        /// A number in international format, a JID, or a user id. Also read: `to`, `jid`, `chat_jid`, `number`.
        phone,
        /// The name of the contact; wins over the name in `vcard`.
        display_name: Option<String>,
        /// One card as a vCard.
        vcard: Option<String>,
        /// Cards in the form of the Cloud API, instead of `vcard`.
        #[serde(default)]
        #[schema(value_type = Vec<Object>)]
        contacts: Vec<Value>,
    }
}

/// Sends a contact card as a vCard, or cards in the form of the Cloud API.
#[utoipa::path(post, path = "/instances/{id}/messages/contact", tag = "messages",
    request_body = ContactMessage, params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_contact(
    _: Access<scope::Send>,
    state: State<AppState>,
    target: TargetInstance,
    sending: SendOptions,
    body: JsonBody,
) -> Result<Response, ApiError> {
    send_cards(state, target, sending, body).await
}

/// The same as `contact`.
#[utoipa::path(post, path = "/instances/{id}/messages/contacts", tag = "messages",
    request_body = ContactMessage, params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_contacts(
    _: Access<scope::Send>,
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
    let parse = || {
        let mut request: ContactMessage<'_> = json::parse(&body)?;
        let mut contacts = std::mem::take(&mut request.contacts);
        if let Some(card) = non_empty(request.vcard.take()) {
            contacts.push(vcard::parse_contact(&card, request.display_name.as_deref())?);
        }
        if contacts.is_empty() {
            return Err(ValidationError::new(
                "vcard",
                "phone y vcard son requeridos: give vcard or contacts",
            )
            .into());
        }
        let envelope = request.envelope(state.recipients())?;
        Ok(envelope::draft(envelope, Content::Contacts { contacts })?)
    };
    SubmitRequest::new(&state, &instance, &sending, "contacts", &body).submit(parse).await
}
