//! The layers of the configuration, laid over each other: the manual, a file, the environment.
//!
//! The manual (`config/default.toml`) holds every key, so it is also the list of what may be set, and the kind of
//! its value tells what the text of an environment variable means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::document::{self, SyntaxError};
use super::error::{ConfigProblem, ValueSource};
use super::value::{ConfigValue, ParseResult, optional, secret};
use relevo_domain::Secret;

/// Every key with its default and its explanation.
pub(super) const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// How the names of the environment variables begin.
pub(super) const PREFIX: &str = "RELEVO_";

struct LayerEntry {
    /// The manual's value: its kind tells what a variable's text means.
    default: ConfigValue,
    value: ConfigValue,
    source: ValueSource,
    secret: bool,
}

/// The values in force, and what went wrong while they were gathered and read.
pub(super) struct Layers {
    /// The known keys, in the manual's order.
    keys: Vec<String>,
    entries: BTreeMap<String, LayerEntry>,
    /// Keys that were read and made sense.
    read_keys: BTreeSet<&'static str>,
    /// `false` when a file could not be read or is not TOML.
    complete: bool,
    pub(super) problems: Vec<ConfigProblem>,
}

impl Layers {
    /// The lowest layer alone.
    pub(super) fn from_defaults() -> Self {
        let mut layers = Self {
            keys: Vec::new(),
            entries: BTreeMap::new(),
            read_keys: BTreeSet::new(),
            complete: true,
            problems: Vec::new(),
        };
        match document::leaves(DEFAULT_TOML) {
            Ok(leaves) => {
                for leaf in leaves {
                    layers.keys.push(leaf.key.clone());
                    let (default, source) = (leaf.value.clone(), ValueSource::Default);
                    let entry = LayerEntry { default, value: leaf.value, source, secret: false };
                    layers.entries.insert(leaf.key, entry);
                }
            }
            Err(errors) => layers.add_syntax_errors(Path::new("config/default.toml"), errors),
        }
        layers
    }

    pub(super) fn add_file(&mut self, path: &Path) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(cause) => {
                self.complete = false;
                return self.add_problem(None, format!("cannot read {}: {cause}", path.display()));
            }
        };
        let leaves = match document::leaves(&text) {
            Ok(leaves) => leaves,
            Err(errors) => return self.add_syntax_errors(path, errors),
        };
        for leaf in leaves {
            let source = ValueSource::File { path: path.to_owned(), line: leaf.line };
            if let Some(entry) = self.entries.get_mut(&leaf.key) {
                entry.value = leaf.value;
                entry.source = source;
            } else if !self.is_section(&leaf.key) {
                let nearest = nearest(&leaf.key, self.keys.iter().map(String::as_str));
                self.add_problem(
                    Some(source),
                    format!("unknown key `{}`; did you mean `{nearest}`?", leaf.key),
                );
            } else if leaf.value != ConfigValue::Other("a table") {
                self.add_problem(
                    Some(source),
                    format!("`{0}` is a section, not a value; write [{0}] and its keys below", leaf.key),
                );
            }
        }
    }

    /// Takes the variables that begin with [`PREFIX`]; those in `reserved` are not settings.
    pub(super) fn add_environment(&mut self, variables: &BTreeMap<String, String>, reserved: &[&str]) {
        let names: BTreeMap<String, String> =
            self.keys.iter().map(|key| (variable_name(key), key.clone())).collect();
        for (name, text) in variables {
            if !name.starts_with(PREFIX) || reserved.contains(&name.as_str()) {
                continue;
            }
            if let Some(key) = names.get(name) {
                self.put_text(key, text, ValueSource::Variable(name.clone()));
            } else if !is_kubernetes_link(name, text) {
                let known = names.keys().map(String::as_str).chain(reserved.iter().copied());
                let nearest = nearest(name, known);
                let source = Some(ValueSource::Variable(name.clone()));
                self.add_problem(source, format!("unknown variable; did you mean {nearest}?"));
            }
        }
    }

    /// Lays the text of a variable over a key.
    pub(super) fn put_text(&mut self, key: &str, text: &str, source: ValueSource) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.value = ConfigValue::from_text(text, &entry.default);
            entry.source = source;
        }
    }

    /// The text in force for a key whose value is text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.entries.get(key)?.value {
            ConfigValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn source(&self, key: &str) -> Option<&ValueSource> {
        self.entries.get(key).map(|entry| &entry.source)
    }

    /// The setting, or a problem and `None`.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parser: impl Fn(&ConfigValue) -> ParseResult<T>,
    ) -> Option<T> {
        let Some(entry) = self.entries.get(key) else {
            self.add_problem(
                None,
                format!("`{key}` is missing in the embedded defaults: a defect of relevo"),
            );
            return None;
        };
        match parser(&entry.value) {
            Ok(setting) => {
                self.read_keys.insert(key);
                Some(setting)
            }
            Err(expected) => {
                let text = if entry.secret {
                    format!("`{key}` (not shown) does not fit; expected {expected}")
                } else {
                    format!("`{key}` is {}; expected {expected}", entry.value)
                };
                let source = Some(entry.source.clone());
                self.add_problem(source, text);
                None
            }
        }
    }

    /// Reads a setting into its place, which keeps what it has when there is a problem.
    pub(super) fn set<T>(
        &mut self,
        place: &mut T,
        key: &'static str,
        parser: impl Fn(&ConfigValue) -> ParseResult<T>,
    ) {
        if let Some(setting) = self.read(key, parser) {
            *place = setting;
        }
    }

    /// Reads a credential: from here on its value is shown nowhere.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Option<Secret>> {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.secret = true;
        }
        self.read(key, optional(secret))
    }

    /// Whether both values are what the operator meant: they made sense, and no layer is missing.
    pub(super) fn are_comparable(&self, keys: [&str; 2]) -> bool {
        self.complete && keys.iter().all(|key| self.read_keys.contains(key))
    }

    pub(super) fn add_problem(&mut self, source: Option<ValueSource>, text: String) {
        self.problems.push(ConfigProblem { source, text });
    }

    fn add_syntax_errors(&mut self, path: &Path, errors: Vec<SyntaxError>) {
        self.complete = false;
        for SyntaxError { line, message } in errors {
            let source = ValueSource::File { path: path.to_owned(), line };
            self.add_problem(Some(source), format!("not valid TOML: {message}"));
        }
    }

    fn is_section(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// How a message names a key: its value and where that comes from.
    pub(super) fn describe(&self, key: &str) -> String {
        match self.entries.get(key) {
            Some(entry) if entry.secret => format!("`{key}` ({})", entry.source),
            Some(entry) => format!("`{key}` = {} ({})", entry.value, entry.source),
            None => format!("`{key}`"),
        }
    }

    /// Keys of the manual that no setting was read from.
    #[cfg(test)]
    pub(super) fn unread_keys(&self) -> Vec<&str> {
        self.keys.iter().map(String::as_str).filter(|key| !self.read_keys.contains(key)).collect()
    }

    /// The keys in the manual's order, each with its value as it may be shown and its source.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, String, &ValueSource)> {
        self.keys.iter().filter_map(|key| {
            let entry = self.entries.get(key)?;
            let is_set = entry.value != ConfigValue::Text(String::new());
            let shown = if entry.secret && is_set { "********".to_owned() } else { entry.value.to_string() };
            Some((key.as_str(), shown, &entry.source))
        })
    }
}

/// `retry.bulk.max_delay` is `RELEVO_RETRY__BULK__MAX_DELAY`.
fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The known name that resembles `name` most, as a whole or by its last part (a key in the wrong section).
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_uppercase();
    let alike = |candidate: &str| {
        let whole = strsim::normalized_damerau_levenshtein(&name.to_uppercase(), &candidate.to_uppercase());
        let part = strsim::normalized_damerau_levenshtein(&last(name), &last(candidate));
        whole.max(part * 0.95)
    };
    // Of equals the first: `listen` alone is rather `http.listen` than `sandbox.listen`.
    known.min_by(|a, b| alike(b).total_cmp(&alike(a))).unwrap_or_default()
}

/// Kubernetes gives every container variables for each service of its namespace; those of a service called
/// `relevo` would look like ours (kubernetes.io, “Service: environment variables”).
fn is_kubernetes_link(name: &str, text: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    let is_part = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
        name.split_once(protocol).is_some_and(|(head, tail)| {
            head.contains("_PORT_") && matches!(tail, "" | "_PROTO" | "_PORT" | "_ADDR")
        })
    });
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || is_part
        || (name.ends_with("_PORT") && is_url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let layers = Layers::from_defaults();
        assert!(layers.problems.is_empty(), "{:?}", layers.problems);
        let names: BTreeSet<String> = layers.keys.iter().map(|key| variable_name(key)).collect();
        assert_eq!(names.len(), layers.keys.len());
        assert!(names.contains("RELEVO_HTTP__LISTEN") && names.contains("RELEVO_DATA_DIR"));
    }

    #[test]
    fn the_nearest_name_is_found_by_whole_and_by_part() {
        let known = ["http.listen", "queue.capacity", "retry.bulk.max_attempts"];
        for (name, expected) in [
            ("http.listn", "http.listen"),
            ("listen", "http.listen"),
            ("htpp.listen", "http.listen"),
            ("capacity", "queue.capacity"),
            ("retry.max_attempts", "retry.bulk.max_attempts"),
        ] {
            assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        }
    }

    #[test]
    fn links_of_kubernetes_are_recognised() {
        for (name, text) in [
            ("RELEVO_SERVICE_HOST", "10.0.0.11"),
            ("RELEVO_SERVICE_PORT", "8080"),
            ("RELEVO_SERVICE_PORT_HTTP", "8080"),
            ("RELEVO_PORT", "tcp://10.0.0.11:8080"),
            ("RELEVO_PORT_8080_TCP", "tcp://10.0.0.11:8080"),
            ("RELEVO_PORT_8080_TCP_ADDR", "10.0.0.11"),
            ("RELEVO_WEB_PORT_8080_TCP_PROTO", "tcp"),
        ] {
            assert!(is_kubernetes_link(name, text), "{name}");
        }
        for (name, text) in [("RELEVO_PORT", "8080"), ("RELEVO_HTTP_LISTEN", "x"), ("RELEVO_TCP", "1")] {
            assert!(!is_kubernetes_link(name, text), "{name}");
        }
    }
}
