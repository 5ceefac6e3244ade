//! `POST …/messages/react`.

use axum::extract::State;
use axum::response::Response;

use super::envelope::{self, send_request};
use super::submit::{self, SendResponses, SubmitRequest, parse_message_ref, required_text};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::{AppState, json};
use relevo_domain::Content;

send_request! {
    no_reply
    /// A reaction to a message.
    pub struct ReactionMessage<'a> {
        /// The recipient of the message. Also read: `to`, `jid`, `chat_jid`, `number`.
        phone,
        /// The message, by WhatsApp's id or the node's.
        #[serde(default)]
        #[schema(required = true)]
        message_id: String,
        /// Empty removes the reaction. Also read: `reaction`.
        #[serde(default, alias = "reaction")]
        #[schema(example = "👍")]
        emoji: String,
    }
}

/// Reacts to a message, or removes a reaction.
#[utoipa::path(post, path = "/instances/{id}/messages/react", operation_id = "send_reaction", tag = "messages", request_body = ReactionMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn react(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let parse = || {
        let mut request: ReactionMessage<'_> = json::parse(&body)?;
        let envelope = request.envelope(state.recipients())?;
        let message = parse_message_ref("message_id", &required_text("message_id", request.message_id)?)?;
        let message_id = submit::resolve_provider_id(&state, &instance, "message_id", message)?;
        let content = Content::Reaction { message_id: message_id.as_str().to_owned(), emoji: request.emoji };
        Ok(envelope::draft(envelope, content)?)
    };
    SubmitRequest::new(&state, &instance, &sending, "reaction", &body).submit(parse).await
}
