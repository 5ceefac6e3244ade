//! Names of event kinds in requests and in stored records: strict for requests, lenient for records.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use relevo_domain::EventKind;

/// Former name of [`EventKind::Receipt`], which filters and old records may contain.
const FORMER_RECEIPT: &str = "message_status";

/// Maximum length of an unknown name that an error repeats, in characters.
const MAX_EXCERPT_CHARS: usize = 64;

/// Maximum number of unknown kinds that are remembered so that each is logged once.
const MAX_WARNED: usize = 64;

/// Parses the name of a kind in a request. Former names are accepted and kept.
///
/// # Errors
///
/// The name is unknown; the error suggests the nearest known name.
pub fn parse_kind(name: &str) -> Result<EventKind, String> {
    let kind = EventKind::from_stored(name);
    if is_accepted(&kind) {
        return Ok(kind);
    }
    let excerpt: String = name.chars().take(MAX_EXCERPT_CHARS).collect();
    let nearest = nearest_name(&excerpt);
    Err(format!("unknown event kind `{excerpt}`; did you mean `{nearest}`?"))
}

/// Whether requests may name this kind.
pub(super) fn is_accepted(kind: &EventKind) -> bool {
    kind.is_known() || is_former_receipt(kind)
}

/// Whether this is the former name of receipts.
pub(super) fn is_former_receipt(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Other(name) if **name == *FORMER_RECEIPT)
}

/// Logs a kind from a stored record that this version does not emit, once for each kind.
pub(super) fn warn_if_unknown(kind: &EventKind) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if is_accepted(kind) {
        return;
    }
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.len() < MAX_WARNED && warned.insert(kind.to_string()) {
        tracing::warn!(%kind, "event log contains an unknown event kind; kept and delivered unchanged");
    }
}

/// The known name with the greatest similarity; the first one of equals.
fn nearest_name(name: &str) -> &'static str {
    let mut nearest = ("", -1.0);
    for candidate in EventKind::ALL.iter().map(EventKind::as_str) {
        let similarity = strsim::normalized_damerau_levenshtein(&name.to_lowercase(), candidate);
        if similarity > nearest.1 {
            nearest = (candidate, similarity);
        }
    }
    nearest.0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use relevo_domain::ProviderKind;

    const DOCUMENT: &str = "docs/events.md";
    const BEGIN: &str = "<!-- event kinds: begin (generated from relevo_domain::EventKind) -->";
    const END: &str = "<!-- event kinds: end -->";

    /// The table of all kinds for the document.
    fn table() -> String {
        let mut table = "| kind | when | what to do | provider |\n|---|---|---|---|\n".to_owned();
        for kind in EventKind::ALL {
            let provider = match kind.providers() {
                [ProviderKind::CloudApi] => "Cloud API",
                [ProviderKind::LinkedDevice] => "linked device",
                _ => "both",
            };
            table.push_str(&format!("| `{kind}` | {} | {} | {provider} |\n", kind.when(), kind.action()));
        }
        table
    }

    /// Fails if the table in the document differs from the enum. With `UPDATE_DOCS=1` in the environment, rewrites it.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "the variable is for developers, not a setting of the node"
    )]
    fn document_lists_every_kind() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
        let text = fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once(BEGIN).expect("the begin marker is missing");
        let (current, tail) = rest.split_once(END).expect("the end marker is missing");
        let expected = format!("\n\n{}\n", table());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, format!("{head}{BEGIN}{expected}{END}{tail}")).unwrap();
        } else {
            assert_eq!(current, expected, "run this test with UPDATE_DOCS=1 to rewrite {DOCUMENT}");
        }
    }

    /// Files and folders that name kinds without emitting them.
    const NOT_PRODUCERS: &[&str] = &["tests", "tests.rs", "http", "event.rs", "filter.rs", "kinds.rs"];

    /// Appends the sources in a folder that may emit events, without their tests.
    fn sources(folder: &Path, found: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if NOT_PRODUCERS.contains(&name) {
                continue;
            }
            if path.is_dir() {
                sources(&path, found);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }

    #[test]
    fn every_kind_is_emitted_somewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut text = String::new();
        sources(&root.join("src"), &mut text);
        for entry in fs::read_dir(root.join("crates")).unwrap() {
            sources(&entry.unwrap().path().join("src"), &mut text);
        }
        for kind in EventKind::ALL {
            let variant = format!("EventKind::{kind:?}");
            let is_whole = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
            let emitted = text.split(&variant).skip(1).any(is_whole);
            assert!(emitted, "no producer names {variant}");
        }
    }

    #[test]
    fn nearest_known_name_is_suggested() {
        for (name, suggestion) in
            [("mesage", "message"), ("MESSAGE_ACK", "message_ack"), ("jobstarted", "job_started")]
        {
            let reason = parse_kind(name).unwrap_err();
            assert_eq!(reason, format!("unknown event kind `{name}`; did you mean `{suggestion}`?"));
        }
        assert_eq!(parse_kind("receipt"), Ok(EventKind::Receipt));
        assert!(parse_kind("message_status").is_ok());
    }
}
