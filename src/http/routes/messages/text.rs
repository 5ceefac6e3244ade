//! `POST …/messages/text` and `…/text-with-typing`.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;

use super::envelope::{self, send_request};
use super::submit::{SendResponses, SubmitRequest, required_text};
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;
use crate::http::extract::{JsonBody, SendOptions, TargetInstance};
use crate::http::phone_text::PhoneText;
use crate::http::{AppState, json};
use relevo_domain::{Content, MessageOptions, Recipient, RecipientParser, ValidationError};

send_request! {
    /// A text message.
    pub struct TextMessage<'a> {
        /// A number in international format, a JID, or a user id. Also read: `to`, `jid`, `chat_jid`, `number`.
        phone,
        #[serde(default)]
        #[schema(required = true, example = "Hola")]
        message: String,
        /// Show a preview of the first link. Also read: `link_preview`.
        #[serde(default, alias = "link_preview")]
        preview_url: bool,
        /// The numbers of the people that the text mentions with `@`. Linked devices only.
        #[serde(default, borrow)]
        #[schema(value_type = Vec<String>, example = json!(["573001234567"]))]
        mentions: Vec<PhoneText<'a>>,
    }
}

send_request! {
    /// A text message after a typing indicator.
    pub struct TextWithTypingMessage<'a> {
        /// A number in international format, or a JID. Also read: `to`, `jid`, `chat_jid`, `number`.
        phone,
        #[serde(default)]
        #[schema(required = true, example = "Hola")]
        message: String,
        /// Duration of the typing indicator in milliseconds, up to 25000. Omitted or 0: according to the length of
        /// the text, from half a second to five seconds. Also read: `duration`.
        #[serde(alias = "duration")]
        #[schema(example = 2000)]
        typing_duration: Option<u64>,
    }
}

/// Sends a text message.
#[utoipa::path(post, path = "/instances/{id}/messages/text", tag = "messages", request_body = TextMessage,
    params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_text(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let parse = || {
        let mut request: TextMessage<'_> = json::parse(&body)?;
        let envelope = request.envelope(state.recipients())?;
        let content = Content::Text {
            body: required_text("message", request.message)?,
            preview_url: request.preview_url,
        };
        let mut draft = envelope::draft(envelope, content)?;
        draft.options = MessageOptions {
            mentions: parse_mentions(&request.mentions, state.recipients())?,
            ..MessageOptions::default()
        };
        Ok(draft)
    };
    SubmitRequest::new(&state, &instance, &sending, "text", &body).submit(parse).await
}

fn parse_mentions(
    phones: &[PhoneText<'_>],
    recipients: RecipientParser,
) -> Result<Vec<Recipient>, ValidationError> {
    let phones = phones.iter().enumerate();
    phones.map(|(n, phone)| phone.parse_field(recipients, format!("mentions[{n}]"))).collect()
}

/// Sends a text message after a typing indicator. Linked devices only.
#[utoipa::path(post, path = "/instances/{id}/messages/text-with-typing", tag = "messages",
    request_body = TextWithTypingMessage, params(TargetInstance, SendOptions), responses(SendResponses))]
pub async fn send_text_with_typing(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    sending: SendOptions,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let parse = || {
        let mut request: TextWithTypingMessage<'_> = json::parse(&body)?;
        let text = required_text("message", std::mem::take(&mut request.message))?;
        let typing = typing_duration(request.typing_duration, &text)?;
        let envelope = request.envelope(state.recipients())?;
        let mut draft = envelope::draft(envelope, Content::Text { body: text, preview_url: false })?;
        draft.options = MessageOptions { typing, ..MessageOptions::default() };
        Ok(draft)
    };
    SubmitRequest::new(&state, &instance, &sending, "text-with-typing", &body).submit(parse).await
}

/// Maximum duration of the typing indicator, in milliseconds: an attempt must end.
const MAX_TYPING_MILLIS: u64 = 25_000;

/// The duration of the typing indicator. Clients send 0 for the default: documented as 50 ms a character, half a
/// second to five seconds.
fn typing_duration(requested: Option<u64>, text: &str) -> Result<Duration, ValidationError> {
    let millis = match requested.filter(|millis| *millis > 0) {
        Some(millis) if millis > MAX_TYPING_MILLIS => {
            let reason = format!("is {millis}; it must be at most {MAX_TYPING_MILLIS} milliseconds");
            return Err(ValidationError::new("typing_duration", reason));
        }
        Some(millis) => millis,
        None => {
            let characters = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
            characters.saturating_mul(50).clamp(500, 5000)
        }
    };
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_duration_is_bounded_and_zero_is_automatic() {
        let time = |requested, text: &str| typing_duration(requested, text).map(|time| time.as_millis());
        assert_eq!(time(Some(1500), "x"), Ok(1500));
        for automatic in [None, Some(0)] {
            assert_eq!(time(automatic, "Hola"), Ok(500));
            assert_eq!(time(automatic, &"ñ".repeat(40)), Ok(2000));
            assert_eq!(time(automatic, &"x".repeat(4000)), Ok(5000));
        }
        assert_eq!(time(Some(25_001), "x").unwrap_err().field, "typing_duration");
    }

    #[test]
    fn invalid_mention_is_named() {
        let phones: Vec<PhoneText> = serde_json::from_str(r#"[573001234567, "ana"]"#).unwrap();
        let parse = |phones| parse_mentions(phones, RecipientParser::default());
        assert_eq!(parse(&phones).unwrap_err().field, "mentions[1]");
        assert_eq!(parse(&phones[..1]).unwrap()[0].to_string(), "573001234567");
    }
}
