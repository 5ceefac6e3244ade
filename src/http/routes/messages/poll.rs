//! `POST …/messages/poll`.

use axum::extract::State;
use axum::response::Response;

use super::envelope::{self, send_request};
use super::submit::{SendResponses, SubmitRequest, required_text};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::{AppState, json};
use relevo_domain::{Content, Poll};

send_request! {
    /// A poll.
    pub struct PollMessage<'a> {
        /// A number in international format, or a JID. Also read: `to`, `jid`, `chat_jid`, `number`.
        phone,
        /// Also read: `name`.
        #[serde(default, alias = "name")]
        #[schema(required = true, example = "¿Cuándo?")]
        question: String,
        /// Two to twelve, all different.
        #[serde(default)]
        #[schema(required = true, example = json!(["Hoy", "Mañana"]))]
        options: Vec<String>,
        /// Maximum number of answers that a recipient may select; 0 is unlimited.
        #[serde(default = "one")]
        #[schema(default = 1)]
        selectable_count: u32,
    }
}

fn one() -> u32 {
    1
}

/// Sends a poll. Linked devices only.
#[utoipa::path(post, path = "/instances/{id}/messages/poll", tag = "messages", request_body = PollMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_poll(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let parse = || {
        let mut request: PollMessage<'_> = json::parse(&body)?;
        let envelope = request.envelope(state.recipients())?;
        let content = Content::Poll(Poll {
            question: required_text("question", request.question)?,
            options: request.options,
            selectable: request.selectable_count,
        });
        Ok(envelope::draft(envelope, content)?)
    };
    SubmitRequest::new(&state, &instance, &sending, "poll", &body).submit(parse).await
}
