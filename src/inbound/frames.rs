//! What of a webhook goes to the relay.
//!
//! The consumer behind the relay reads the first message of a frame and no other. So a webhook of several messages is
//! told as one frame for each, and whatever else it holds as one more; any other webhook is told as it came, byte for byte.

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

/// A webhook, or a piece of one that is a webhook itself.
#[derive(Debug)]
pub(super) struct WebhookFrame {
    pub webhook: Box<RawValue>,
    /// Who sent the first message that it holds.
    pub sender: Option<String>,
}

/// What of a webhook was not delivered before.
#[derive(Debug, Default)]
pub(super) struct NewParts {
    pub messages: HashSet<ProviderMessageId>,
    /// Anything but messages of users.
    pub others: bool,
}

impl WebhookFrame {
    pub fn from_webhook(webhook: Box<RawValue>) -> Self {
        Self { sender: first_sender(&webhook), webhook }
    }
}

impl WebhookFrames {
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

    /// Those that tell something new, in the webhook's order.
    pub fn into_new(self, mut fresh: NewParts) -> Vec<WebhookFrame> {
        match self {
            Self::Whole(whole) if fresh.others || !fresh.messages.is_empty() => vec![whole],
            Self::Whole(_) => Vec::new(),
            Self::Split { messages, rest } => {
                let messages = messages.into_iter().filter(|(id, _)| fresh.messages.remove(id));
                let mut frames: Vec<_> = messages.map(|(_, frame)| frame).collect();
                frames.extend(rest.filter(|_| fresh.others));
                frames
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written as Meta never would, so that anything that writes it anew shows.
    fn webhook(value: &str) -> String {
        let change = format!(r#"{{"value" :{value}, "field": "messages"}}"#);
        format!(
            r#"{{ "object":"whatsapp_business_account","entry":[{{"time":1.50,"id":"W","changes":[{change}]}}] }}"#
        )
    }

    /// The same around a piece: between its members, blanks are not kept.
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

    fn frames(webhook: &str, fresh: &[&str], others: bool) -> Vec<(String, Option<String>)> {
        let fresh = NewParts { messages: fresh.iter().map(|id| id.parse().unwrap()).collect(), others };
        let webhook = RawValue::from_string(webhook.to_owned()).unwrap();
        let frames = WebhookFrames::from_webhook(webhook).into_new(fresh).into_iter();
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
