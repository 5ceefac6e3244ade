//! The relay frames of a webhook.
//!
//! The consumer behind the relay reads only the first message of a frame. So a webhook with several messages becomes one
//! frame for each message, and one more for everything else. Any other webhook becomes one frame with its bytes
//! unchanged.

use std::collections::HashSet;

use serde_json::value::RawValue;

use relevo_cloud_api::{count_messages, first_sender, split_messages, without_messages};
use relevo_domain::ProviderMessageId;

/// The frames of one webhook.
#[derive(Debug)]
pub(super) enum WebhookFrames {
    Whole(WebhookFrame),
    Split { messages: Vec<(ProviderMessageId, WebhookFrame)>, rest: Option<WebhookFrame> },
}

/// A webhook, or a part of one in the form of a webhook.
#[derive(Debug)]
pub(super) struct WebhookFrame {
    pub webhook: Box<RawValue>,
    /// Sender of the first message in it.
    pub sender: Option<String>,
}

/// The parts of a webhook that were not delivered before.
#[derive(Debug, Default)]
pub(super) struct NewParts {
    /// Ids of new messages of users.
    pub messages: HashSet<ProviderMessageId>,
    /// Whether anything else is new.
    pub others: bool,
}

impl WebhookFrame {
    /// A frame with the bytes of a webhook.
    pub fn from_webhook(webhook: Box<RawValue>) -> Self {
        Self { sender: first_sender(&webhook), webhook }
    }
}

impl WebhookFrames {
    /// Splits a webhook into frames.
    pub fn from_webhook(webhook: Box<RawValue>) -> Self {
        if count_messages(&webhook) > 1 {
            let messages = split_messages(&webhook).into_iter();
            Self::Split {
                messages: messages.map(|(id, piece)| (id, WebhookFrame::from_webhook(piece))).collect(),
                rest: without_messages(&webhook).map(WebhookFrame::from_webhook),
            }
        } else {
            Self::Whole(WebhookFrame::from_webhook(webhook))
        }
    }

    /// The frames with new parts, in the order of the webhook.
    pub fn into_new(self, mut new_parts: NewParts) -> Vec<WebhookFrame> {
        match self {
            Self::Whole(whole) if new_parts.others || !new_parts.messages.is_empty() => vec![whole],
            Self::Whole(_) => Vec::new(),
            Self::Split { messages, rest } => {
                let messages = messages.into_iter().filter(|(id, _)| new_parts.messages.remove(id));
                let mut frames: Vec<_> = messages.map(|(_, frame)| frame).collect();
                frames.extend(rest.filter(|_| new_parts.others));
                frames
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JSON with unusual formatting, so that any re-encoding is visible.
    fn webhook(value: &str) -> String {
        let change = format!(r#"{{"value" :{value}, "field": "messages"}}"#);
        format!(
            r#"{{ "object":"whatsapp_business_account","entry":[{{"time":1.50,"id":"W","changes":[{change}]}}] }}"#
        )
    }

    /// The wrapping of a split part, which drops the blanks between its members.
    fn piece(value: &str) -> String {
        let change = format!(r#"{{"value":{value},"field":"messages"}}"#);
        format!(
            r#"{{"object":"whatsapp_business_account","entry":[{{"time":1.50,"id":"W","changes":[{change}]}}]}}"#
        )
    }

    fn message(id: &str, from: &str) -> String {
        format!(
            r#"{{"type":"text", "from":"{from}","id":"{id}","text":{{"body":"\u00a1{id}\/"}},"big":12345678901234567890.10}}"#
        )
    }

    fn frames(webhook: &str, new_parts: &[&str], others: bool) -> Vec<(String, Option<String>)> {
        let new_parts =
            NewParts { messages: new_parts.iter().map(|id| id.parse().unwrap()).collect(), others };
        let webhook = RawValue::from_string(webhook.to_owned()).unwrap();
        let frames = WebhookFrames::from_webhook(webhook).into_new(new_parts).into_iter();
        frames.map(|frame| (frame.webhook.get().to_owned(), frame.sender)).collect()
    }

    #[test]
    fn single_message_is_relayed_verbatim_and_only_when_new() {
        let one =
            webhook(&format!(r#"{{ "messages": [{}],"contacts":[{{"wa_id":"1"}}] }}"#, message("a", "1")));
        assert_eq!(frames(&one, &["a"], false), [(one.clone(), Some("1".to_owned()))]);
        assert_eq!(frames(&one, &[], false), []);
        let statuses = webhook(r#"{"statuses":[{"id":"x"},{"id":"y"}]}"#);
        assert_eq!(frames(&statuses, &[], true), [(statuses, None)]);
        let news =
            r#"{"entry":[{"changes":[{"field":"account_update","value":{"messages":[{"from":"1"}]}}]}]}"#;
        assert_eq!(frames(news, &[], true), [(news.to_owned(), None)]);
    }

    #[test]
    fn several_messages_are_split_into_frames_with_their_authors() {
        let (a, b, c) = (message("a", "1"), message("b", "2"), message("c", "1"));
        let (ana, eva) = (r#"{"wa_id":"1","n":1.0}"#, r#"{ "wa_id":"2" }"#);
        let metadata = r#"{ "phone_number_id":"1065" }"#;
        let batch = webhook(&format!(
            r#"{{"metadata":{metadata},"messages":[{a},{b},{c},{a}],"contacts":[{ana},{eva}],"statuses":[{{"id":"x"}}]}}"#
        ));
        let single = |message: &str, contact: &str, from: &str| {
            let value = format!(r#"{{"metadata":{metadata},"messages":[{message}],"contacts":[{contact}]}}"#);
            (piece(&value), Some(from.to_owned()))
        };
        let rest = (piece(&format!(r#"{{"metadata":{metadata},"statuses":[{{"id":"x"}}]}}"#)), None);
        let expected = [single(&a, ana, "1"), single(&b, eva, "2"), single(&c, ana, "1"), rest];
        assert_eq!(frames(&batch, &["a", "b", "c"], true), expected);
        assert_eq!(frames(&batch, &["b"], false), [single(&b, eva, "2")]);
    }
}
