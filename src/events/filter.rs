use serde::{Deserialize, Serialize};

use relevo_domain::ValidationError;

use super::GAP;

/// The most kinds that one reader may name, and the longest name.
const MAX_KINDS: usize = 32;
const MAX_NAME_BYTES: usize = 64;

/// Which kinds of events a reader wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventFilter {
    All,
    Only(Vec<String>),
}

impl EventFilter {
    /// What a list of names asks for: none, or `all` or `*` among them, is everything. `field` is where the names
    /// were given.
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

    /// The same for the `events` of a webhook endpoint.
    pub fn parse(names: Vec<String>) -> Result<Self, ValidationError> {
        Self::from_names("events", names)
    }

    /// Whether events called `kind` are wanted. A gap always is.
    pub fn matches(&self, kind: &str) -> bool {
        match self {
            EventFilter::All => true,
            EventFilter::Only(names) => {
                let kind = canonical(kind);
                kind == GAP || names.iter().any(|name| canonical(name) == kind)
            }
        }
    }

    /// The names, as [`parse`](Self::parse) reads them.
    pub fn names(&self) -> Vec<String> {
        match self {
            EventFilter::All => vec!["all".to_owned()],
            EventFilter::Only(names) => names.clone(),
        }
    }
}

/// One name for each kind: receipts were once called `message_status`, and filters that say so go on working.
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
