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
pub(super) enum Frames {
    Whole(Frame),
    Each { messages: Vec<(ProviderMessageId, Frame)>, rest: Option<Frame> },
}

/// A webhook, or a piece of one that is a webhook itself.
#[derive(Debug)]
pub(super) struct Frame {
    pub webhook: Box<RawValue>,
    /// Who sent the first message that it holds.
    pub sender: Option<String>,
}

/// What of a webhook was not delivered before.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub messages: HashSet<ProviderMessageId>,
    /// Anything but messages of users.
    pub others: bool,
}

impl Frame {
    pub fn of(webhook: Box<RawValue>) -> Self {
        Self { sender: first_sender(&webhook), webhook }
    }
}

impl Frames {
    pub fn of(webhook: Box<RawValue>) -> Self {
        if count_messages(&webhook) > 1 {
            let messages = split_messages(&webhook).into_iter();
            Self::Each {
                messages: messages.map(|(id, piece)| (id, Frame::of(piece))).collect(),
                rest: without_messages(&webhook).map(Frame::of),
            }
        } else {
            Self::Whole(Frame::of(webhook))
        }
    }

    /// Those that tell something new, in the webhook's order.
    pub fn that_are(self, mut fresh: Fresh) -> Vec<Frame> {
        match self {
            Self::Whole(whole) if fresh.others || !fresh.messages.is_empty() => vec![whole],
            Self::Whole(_) => Vec::new(),
            Self::Each { messages, rest } => {
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
        let fresh = Fresh { messages: fresh.iter().map(|id| id.parse().unwrap()).collect(), others };
        let webhook = RawValue::from_string(webhook.to_owned()).unwrap();
        let frames = Frames::of(webhook).that_are(fresh).into_iter();
        frames.map(|frame| (frame.webhook.get().to_owned(), frame.sender)).collect()
    }

    #[test]
    fn one_message_is_told_as_it_came_and_only_when_it_is_new() {
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
    fn several_messages_are_told_one_by_one_each_with_its_author_in_metas_words() {
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
