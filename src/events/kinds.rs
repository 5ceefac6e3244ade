use serde::{Deserialize, Serialize};

use relevo_domain::Invalid;

use super::GAP;

/// The most kinds that one reader may name, and the longest name.
const MAX_KINDS: usize = 32;
const MAX_NAME: usize = 64;

/// Which kinds of events a reader wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kinds {
    All,
    Only(Vec<String>),
}

impl Kinds {
    /// What a list of names asks for: none, or `all` or `*` among them, is everything. `field` is where the names
    /// were given.
    pub fn named(field: &'static str, mut names: Vec<String>) -> Result<Self, Invalid> {
        if names.is_empty() || names.iter().any(|name| name == "all" || name == "*") {
            return Ok(Kinds::All);
        }
        names.sort();
        names.dedup();
        if names.len() > MAX_KINDS {
            let reason = format!("name at most {MAX_KINDS} events, or \"all\" for every event");
            return Err(Invalid::new(field, reason));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let good = |name: &str| !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(plain);
        match names.iter().find(|name| !good(name)) {
            None => Ok(Kinds::Only(names)),
            Some(bad) => Err(Invalid::new(
                field,
                format!(
                    "{bad:?} cannot be the name of an event; names are like message_ack, \"all\" is every event"
                ),
            )),
        }
    }

    /// The same for the `events` of a webhook endpoint.
    pub fn parse(names: Vec<String>) -> Result<Self, Invalid> {
        Self::named("events", names)
    }

    /// Whether events called `kind` are wanted. A gap always is.
    pub fn want(&self, kind: &str) -> bool {
        match self {
            Kinds::All => true,
            Kinds::Only(names) => {
                let kind = canonical(kind);
                kind == GAP || names.iter().any(|name| canonical(name) == kind)
            }
        }
    }

    /// The names, as [`parse`](Self::parse) reads them.
    pub fn names(&self) -> Vec<String> {
        match self {
            Kinds::All => vec!["all".to_owned()],
            Kinds::Only(names) => names.clone(),
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

    fn names(names: &[&str]) -> Result<Kinds, Invalid> {
        Kinds::parse(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn none_all_and_the_asterisk_are_everything() {
        for all in [&[][..], &["message", "all"], &["*"], &["message", "*"]] {
            assert_eq!(names(all), Ok(Kinds::All), "{all:?}");
        }
        assert!(Kinds::All.want("raw"));
        for bad in [&["mess age"][..], &[""], &["a*"]] {
            assert!(names(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_named_is_wanted_and_gaps_always_are() {
        let some = names(&["message_ack", "message"]).unwrap();
        assert!(some.want("message") && some.want("message_ack") && some.want(GAP));
        assert!(!some.want("raw") && !some.want("receipt"));
        assert!(names(&["raw"]).unwrap().want("raw"));
    }

    #[test]
    fn receipts_answer_to_their_former_name() {
        let documented = names(&["message", "status", "receipt"]).unwrap();
        let former = names(&["message_status"]).unwrap();
        for kinds in [documented, former] {
            assert!(kinds.want("receipt") && kinds.want("message_status"));
            assert!(!kinds.want("message_ack"));
        }
    }
}
