//! What of a webhook goes to the relay.
//!
//! The consumer behind the relay reads the first message of a frame and no other. So a webhook of several messages is
//! told as one frame for each, and whatever else it holds as one more; any other webhook is told as it came.

use std::collections::HashSet;

use serde_json::Value;

use crate::domain::ProviderMessageId;
use crate::provider::cloud_api::{count_messages, split_messages, without_messages};

/// The frames of one webhook.
#[derive(Debug)]
pub(super) enum Frames {
    Whole(Value),
    Each { messages: Vec<(ProviderMessageId, Value)>, rest: Option<Value> },
}

/// What of a webhook was not delivered before.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub messages: HashSet<ProviderMessageId>,
    /// Anything but messages of users.
    pub others: bool,
}

impl Frames {
    pub fn of(webhook: Value) -> Self {
        if count_messages(&webhook) > 1 {
            Self::Each { messages: split_messages(&webhook), rest: without_messages(&webhook) }
        } else {
            Self::Whole(webhook)
        }
    }

    /// Those that tell something new, in the webhook's order.
    pub fn that_are(self, mut fresh: Fresh) -> Vec<Value> {
        match self {
            Self::Whole(webhook) if fresh.others || !fresh.messages.is_empty() => vec![webhook],
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
    use serde_json::json;

    use super::*;

    fn message(id: &str, from: &str) -> Value {
        json!({ "id": id, "from": from, "timestamp": "1", "type": "text", "text": { "body": id } })
    }

    fn contact(wa_id: &str) -> Value {
        json!({ "wa_id": wa_id, "profile": { "name": wa_id } })
    }

    fn webhook(value: Value) -> Value {
        let change = json!({ "field": "messages", "value": value });
        json!({ "object": "whatsapp_business_account", "entry": [{ "id": "W", "changes": [change] }] })
    }

    fn fresh(ids: &[&str], others: bool) -> Fresh {
        Fresh { messages: ids.iter().map(|id| id.parse().unwrap()).collect(), others }
    }

    #[test]
    fn one_message_is_told_as_it_came_and_only_when_it_is_new() {
        let one = webhook(json!({ "messages": [message("a", "1")], "contacts": [contact("1")] }));
        assert_eq!(Frames::of(one.clone()).that_are(fresh(&["a"], false)), std::slice::from_ref(&one));
        assert_eq!(Frames::of(one).that_are(fresh(&[], false)), [Value::Null; 0]);
        let statuses = webhook(json!({ "statuses": [{ "id": "x" }, { "id": "y" }] }));
        assert_eq!(Frames::of(statuses.clone()).that_are(fresh(&[], true)), [statuses]);
    }

    #[test]
    fn several_messages_are_told_one_by_one_each_with_its_author() {
        let metadata = json!({ "phone_number_id": "1065" });
        let batch = webhook(json!({
            "metadata": metadata,
            "messages": [message("a", "1"), message("b", "2"), message("c", "1"), message("a", "1")],
            "contacts": [contact("1"), contact("2")],
            "statuses": [{ "id": "x" }],
        }));
        let single = |id, from| {
            webhook(json!({
                "metadata": metadata, "messages": [message(id, from)], "contacts": [contact(from)],
            }))
        };
        let rest = webhook(json!({ "metadata": metadata, "statuses": [{ "id": "x" }] }));
        let frames = Frames::of(batch.clone()).that_are(fresh(&["a", "b", "c"], true));
        assert_eq!(frames, [single("a", "1"), single("b", "2"), single("c", "1"), rest]);
        assert_eq!(Frames::of(batch).that_are(fresh(&["b"], false)), [single("b", "2")]);
    }
}
