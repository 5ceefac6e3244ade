//! The layers of the configuration, from low to high: the defaults, a file, the environment.
//!
//! The defaults (`config/default.toml`) hold every key, so they are also the list of valid keys. The type of a
//! default determines how the text of an environment variable is parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::document::{self, SyntaxError};
use super::error::{ConfigProblem, ValueSource};
use super::value::{ConfigValue, ParseResult, optional, secret};
use relevo_domain::Secret;

/// Every key with its default and its documentation.
pub(super) const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Prefix of the environment variables.
pub(super) const PREFIX: &str = "RELEVO_";

struct LayerEntry {
    /// The default. Its type determines how a variable's text is parsed.
    default: ConfigValue,
    value: ConfigValue,
    source: ValueSource,
    secret: bool,
}

/// The effective values, and the problems found while they were collected and read.
pub(super) struct Layers {
    /// The known keys, in the order of the defaults file.
    keys: Vec<String>,
    entries: BTreeMap<String, LayerEntry>,
    /// Keys whose values were parsed without a problem.
    read_keys: BTreeSet<&'static str>,
    /// `false` when a file could not be read or is not TOML.
    complete: bool,
    pub(super) problems: Vec<ConfigProblem>,
}

impl Layers {
    /// The defaults without any other layer.
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

    /// Overrides values with those of a TOML file.
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

    /// Overrides values with the variables that begin with [`PREFIX`]; those in `reserved` are not settings.
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

    /// Overrides the value of a key with the text of a variable.
    pub(super) fn put_text(&mut self, key: &str, text: &str, source: ValueSource) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.value = ConfigValue::from_text(text, &entry.default);
            entry.source = source;
        }
    }

    /// The effective text of a key whose value is text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.entries.get(key)?.value {
            ConfigValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The source of a key's effective value.
    pub(super) fn source(&self, key: &str) -> Option<&ValueSource> {
        self.entries.get(key).map(|entry| &entry.source)
    }

    /// Parses a value. On failure, records a problem and returns `None`.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        parser: impl Fn(&ConfigValue) -> ParseResult<T>,
    ) -> Option<T> {
        let Some(entry) = self.entries.get(key) else {
            self.add_problem(
                None,
                format!("`{key}` is missing in the embedded defaults; this is a bug in relevo"),
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

    /// Parses a value into `place`, which stays unchanged on failure.
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

    /// Parses a credential. From this call on, no message and no row shows its value.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Option<Secret>> {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.secret = true;
        }
        self.read(key, optional(secret))
    }

    /// Whether both values were parsed without a problem and no layer is missing.
    pub(super) fn are_comparable(&self, keys: [&str; 2]) -> bool {
        self.complete && keys.iter().all(|key| self.read_keys.contains(key))
    }

    /// Records a problem.
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

    /// The key with its value and its source, for messages.
    pub(super) fn describe(&self, key: &str) -> String {
        match self.entries.get(key) {
            Some(entry) if entry.secret => format!("`{key}` ({})", entry.source),
            Some(entry) => format!("`{key}` = {} ({})", entry.value, entry.source),
            None => format!("`{key}`"),
        }
    }

    /// Keys of the defaults that no setting was read from.
    #[cfg(test)]
    pub(super) fn unread_keys(&self) -> Vec<&str> {
        self.keys.iter().map(String::as_str).filter(|key| !self.read_keys.contains(key)).collect()
    }

    /// The keys in the order of the defaults file, each with its printable value and its source. Secrets are masked.
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

/// The known name that is most similar to `name`, as a whole or by its last part (a key in the wrong section).
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_uppercase();
    let similarity = |candidate: &str| {
        let whole = strsim::normalized_damerau_levenshtein(&name.to_uppercase(), &candidate.to_uppercase());
        let part = strsim::normalized_damerau_levenshtein(&last(name), &last(candidate));
        whole.max(part * 0.95)
    };
    // The first of several equal candidates: `listen` alone suggests `http.listen`, not `sandbox.listen`.
    known.min_by(|a, b| similarity(b).total_cmp(&similarity(a))).unwrap_or_default()
}

/// Whether Kubernetes set the variable for a service named `relevo`. Kubernetes sets such variables in every
/// container, for each service of the namespace (kubernetes.io, “Service: environment variables”).
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
    fn every_key_has_a_distinct_variable() {
        let layers = Layers::from_defaults();
        assert!(layers.problems.is_empty(), "{:?}", layers.problems);
        let names: BTreeSet<String> = layers.keys.iter().map(|key| variable_name(key)).collect();
        assert_eq!(names.len(), layers.keys.len());
        assert!(names.contains("RELEVO_HTTP__LISTEN") && names.contains("RELEVO_DATA_DIR"));
    }

    #[test]
    fn nearest_name_is_found_by_whole_and_by_last_part() {
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
    fn kubernetes_service_variables_are_recognised() {
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
