//! The filter of a reader: the kinds of events that it receives.

use serde::{Deserialize, Serialize};

use relevo_domain::{EventKind, ValidationError};

use super::event_kind::{self, parse_kind};

/// Maximum number of kinds in one filter.
const MAX_KINDS: usize = 32;

/// The kinds of events that a reader receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventFilter {
    /// Every kind.
    All,
    /// These kinds, and gaps. A stored filter may contain [`EventKind::Other`], which is kept.
    Only(Vec<EventKind>),
}

impl EventFilter {
    /// The filter for a list of names. An empty list, or `all` or `*` in the list, is [`EventFilter::All`]. `field` is
    /// the field of the request that contains the names.
    ///
    /// # Errors
    ///
    /// There are too many names, or one of them is unknown; the error then suggests the nearest known name.
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
        let kinds = names.iter().map(|name| parse_kind(name)).collect::<Result<_, _>>();
        kinds.map(EventFilter::Only).map_err(|reason| ValidationError::new(field, reason))
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
    pub fn matches(&self, kind: &EventKind) -> bool {
        match self {
            EventFilter::All => true,
            EventFilter::Only(kinds) => {
                let kind = canonical(kind);
                kind == EventKind::Gap.as_str() || kinds.iter().any(|wanted| canonical(wanted) == kind)
            }
        }
    }

    /// The kinds of a stored filter that this version does not emit.
    pub fn unknown_kinds(&self) -> Vec<&EventKind> {
        match self {
            EventFilter::All => Vec::new(),
            EventFilter::Only(kinds) => kinds.iter().filter(|kind| !event_kind::is_accepted(kind)).collect(),
        }
    }

    /// The names in the form that [`parse`](Self::parse) reads.
    pub fn names(&self) -> Vec<String> {
        match self {
            EventFilter::All => vec!["all".to_owned()],
            EventFilter::Only(kinds) => kinds.iter().map(EventKind::to_string).collect(),
        }
    }
}

/// The current name of a kind, for a kind that may have a former name.
fn canonical(kind: &EventKind) -> &str {
    if event_kind::is_former_receipt(kind) { EventKind::Receipt.as_str() } else { kind.as_str() }
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
        assert!(EventFilter::All.matches(&EventKind::Raw));
        for bad in [&["mess age"][..], &[""], &["a*"]] {
            assert!(names(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn filter_matches_named_kinds_and_always_gaps() {
        let some = names(&["message_ack", "message"]).unwrap();
        for kind in [EventKind::Message, EventKind::MessageAck, EventKind::Gap] {
            assert!(some.matches(&kind), "{kind}");
        }
        assert!(!some.matches(&EventKind::Raw) && !some.matches(&EventKind::Receipt));
        assert!(names(&["raw"]).unwrap().matches(&EventKind::Raw));
    }

    #[test]
    fn receipt_filter_accepts_its_former_name() {
        let documented = names(&["message", "status", "receipt"]).unwrap();
        let former = names(&["message_status"]).unwrap();
        for kinds in [documented, former] {
            assert!(kinds.matches(&EventKind::Receipt));
            assert!(kinds.matches(&EventKind::from_stored("message_status")));
            assert!(!kinds.matches(&EventKind::MessageAck));
            assert!(kinds.unknown_kinds().is_empty());
        }
        assert_eq!(names(&["message_status"]).unwrap().names(), ["message_status"]);
    }

    #[test]
    fn unknown_kind_is_refused_with_the_nearest_name() {
        let error = names(&["message_ack", "mesage"]).unwrap_err();
        assert_eq!(error.field, "events");
        assert_eq!(error.reason, "unknown event kind `mesage`; did you mean `message`?");
        let error = EventFilter::from_names("types", vec!["hologram".repeat(100)]).unwrap_err();
        assert_eq!(error.field, "types");
        assert!(error.reason.len() < 200, "{}", error.reason);
    }

    #[test]
    fn stored_filter_keeps_unknown_kinds_and_its_encoding() {
        let stored = r#"{"only":["message","hologram","message_status"]}"#;
        let filter: EventFilter = serde_json::from_str(stored).unwrap();
        assert_eq!(serde_json::to_string(&filter).unwrap(), stored);
        assert_eq!(filter.unknown_kinds(), [&EventKind::from_stored("hologram")]);
        assert!(filter.matches(&EventKind::from_stored("hologram")) && !filter.matches(&EventKind::Raw));
    }
}
