//! A frame, from the moment it joins the line until it is pushed.

use serde::{Deserialize, Serialize};

use relevo_domain::Timestamp;

/// A frame that waits. Never rewritten: how often it failed is known about the line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RelayFrame {
    pub queued_at: Timestamp,
    /// A JSON object, without what is only known when it is pushed.
    pub json: String,
}

impl RelayFrame {
    /// As it is pushed after so many attempts that failed.
    pub fn to_text(&self, attempts: u32) -> String {
        let (seconds, millis) = (self.queued_at.seconds(), self.queued_at.millis() % 1000);
        append_members(
            &self.json,
            &format!("{{\"queued_at\":{seconds}.{millis:03},\"attempts\":{attempts}}}"),
        )
    }
}

/// A JSON object, untouched, and behind its members those of another one.
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
