//! The filter of a reader: the kinds of events that it receives.

use serde::{Deserialize, Serialize};

use relevo_domain::ValidationError;

use super::GAP;

/// Maximum number of kinds in one filter.
const MAX_KINDS: usize = 32;
/// Maximum length of the name of a kind, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The kinds of events that a reader receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventFilter {
    /// Every kind.
    All,
    /// The kinds with these names, and gaps.
    Only(Vec<String>),
}

impl EventFilter {
    /// The filter for a list of names. An empty list, or `all` or `*` in the list, is [`EventFilter::All`]. `field` is
    /// the field of the request that contains the names.
    ///
    /// # Errors
    ///
    /// There are too many names, or one of them cannot be the name of a kind.
    pub fn from_names(field: &'static str, mut names: Vec<String>) -> Result<Self, ValidationError> {
        if names.is_empty() || names.iter().any(|name| name == "all" || name == "*") {
            return Ok(EventFilter::All);
        }
        names.sort();
        names.dedup();
        if names.len() > MAX_KINDS {
            let reason = format!("name at most {MAX_KINDS} events, or \"all\" for every event");
            return Err(ValidationError::new(field, reason));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let good = |name: &str| !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(plain);
        match names.iter().find(|name| !good(name)) {
            None => Ok(EventFilter::Only(names)),
            Some(bad) => Err(ValidationError::new(
                field,
                format!(
                    "{bad:?} cannot be the name of an event; names are like message_ack, \"all\" is every event"
                ),
            )),
        }
    }

    /// [`from_names`](Self::from_names) for the field `events` of a webhook endpoint.
    ///
    /// # Errors
    ///
    /// As [`from_names`](Self::from_names).
    pub fn parse(names: Vec<String>) -> Result<Self, ValidationError> {
        Self::from_names("events", names)
    }

    /// Whether the reader receives events of this kind. Every filter matches gaps.
    pub fn matches(&self, kind: &str) -> bool {
        match self {
            EventFilter::All => true,
            EventFilter::Only(names) => {
                let kind = canonical(kind);
                kind == GAP || names.iter().any(|name| canonical(name) == kind)
            }
        }
    }

    /// The names in the form that [`parse`](Self::parse) reads.
    pub fn names(&self) -> Vec<String> {
        match self {
            EventFilter::All => vec!["all".to_owned()],
            EventFilter::Only(names) => names.clone(),
        }
    }
}

/// The current name of a kind: `message_status` is a former name of `receipt`, which filters may still contain.
fn canonical(kind: &str) -> &str {
    if kind == "message_status" { "receipt" } else { kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Result<EventFilter, ValidationError> {
        EventFilter::parse(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn empty_all_and_asterisk_match_everything() {
        for all in [&[][..], &["message", "all"], &["*"], &["message", "*"]] {
            assert_eq!(names(all), Ok(EventFilter::All), "{all:?}");
        }
        assert!(EventFilter::All.matches("raw"));
        for bad in [&["mess age"][..], &[""], &["a*"]] {
            assert!(names(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn filter_matches_named_kinds_and_always_gaps() {
        let some = names(&["message_ack", "message"]).unwrap();
        assert!(some.matches("message") && some.matches("message_ack") && some.matches(GAP));
        assert!(!some.matches("raw") && !some.matches("receipt"));
        assert!(names(&["raw"]).unwrap().matches("raw"));
    }

    #[test]
    fn receipt_filter_accepts_its_former_name() {
        let documented = names(&["message", "status", "receipt"]).unwrap();
        let former = names(&["message_status"]).unwrap();
        for kinds in [documented, former] {
            assert!(kinds.matches("receipt") && kinds.matches("message_status"));
            assert!(!kinds.matches("message_ack"));
        }
    }
}
