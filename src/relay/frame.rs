//! A frame of the relay queue: its record, and the text that is pushed.

use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;

/// The record of a queued frame. It is never rewritten: failed attempts are counted in the record of the queue.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RelayFrame {
    pub queued_at: Timestamp,
    /// A JSON object, without the members that are added at the time of the push.
    pub json: String,
}

impl RelayFrame {
    /// The text that is pushed after `attempts` failed attempts.
    pub fn to_text(&self, attempts: u32) -> String {
        let (seconds, millis) = (self.queued_at.seconds(), self.queued_at.millis() % 1000);
        append_members(
            &self.json,
            &format!("{{\"queued_at\":{seconds}.{millis:03},\"attempts\":{attempts}}}"),
        )
    }
}

/// Appends the members of one JSON object to those of another. Keeps the bytes of both.
pub(super) fn append_members(object: &str, other: &str) -> String {
    let object = object.strip_suffix('}').unwrap_or(object).trim_ascii_end();
    let comma = if object.ends_with('{') { "" } else { "," };
    format!("{object}{comma}{}", other.strip_prefix('{').unwrap_or(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queued_at_and_attempts_are_appended_last() {
        let text = |json: &str| {
            RelayFrame { queued_at: Timestamp(1_705_491_000_007), json: json.to_owned() }.to_text(3)
        };
        assert_eq!(text(r#"{ "a":{} }"#), r#"{ "a":{},"queued_at":1705491000.007,"attempts":3}"#);
        for empty in ["{}", "{ }", "{\n}"] {
            assert_eq!(text(empty), r#"{"queued_at":1705491000.007,"attempts":3}"#, "{empty:?}");
        }
    }
}
