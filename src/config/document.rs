//! Parses TOML text into a flat list of values, each with its dotted key and its line.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::ConfigValue;

/// A value of a document and its line. An empty table is a leaf as well, so that a misspelt empty section is
/// reported.
#[derive(Debug)]
pub(super) struct Leaf {
    /// The dotted key, for example `http.listen`.
    pub key: String,
    /// Counted from 1.
    pub line: usize,
    pub value: ConfigValue,
}

/// A syntax error. It does not repeat the text, which may hold secrets.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub line: usize,
    pub message: String,
}

/// The values of the text in the order of their lines.
pub(super) fn leaves(text: &str) -> Result<Vec<Leaf>, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let locate = |error: toml::de::Error| SyntaxError {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        };
        let mut located: Vec<SyntaxError> = errors.into_iter().map(locate).collect();
        located.sort_by_key(|error| error.line);
        return Err(located);
    }
    let mut leaves = Vec::new();
    collect(text, "", table.get_ref(), &mut leaves);
    leaves.sort_by_key(|leaf| leaf.line);
    Ok(leaves)
}

/// Parses a TOML array without a key: the value of an environment variable.
pub(super) fn parse_list(text: &str) -> Option<ConfigValue> {
    DeValue::parse(text.trim()).ok().map(|value| convert_value(value.get_ref()))
}

fn collect(text: &str, prefix: &str, table: &DeTable<'_>, leaves: &mut Vec<Leaf>) {
    for (name, value) in table {
        let key = join(prefix, name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => collect(text, &key, inner, leaves),
            _ => leaves.push(Leaf {
                key,
                line: line_of(text, start(name)),
                value: convert_value(value.get_ref()),
            }),
        }
    }
}

/// Appends a name to a dotted key. A name that contains a dot is quoted, so that `"http.listen"` differs from
/// `http.listen`.
fn join(prefix: &str, name: &str) -> String {
    let name = if name.contains('.') { format!("{name:?}") } else { name.to_owned() };
    if prefix.is_empty() { name } else { format!("{prefix}.{name}") }
}

fn start<T>(spanned: &Spanned<T>) -> usize {
    spanned.span().start
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn convert_value(value: &DeValue<'_>) -> ConfigValue {
    match value {
        DeValue::String(text) => ConfigValue::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(ConfigValue::Other("a number beyond 64 bits"), ConfigValue::Integer),
        DeValue::Float(number) => {
            number.as_str().parse().map_or(ConfigValue::Other("an unreadable number"), ConfigValue::Decimal)
        }
        DeValue::Boolean(truth) => ConfigValue::Boolean(*truth),
        DeValue::Datetime(_) => ConfigValue::Other("a date"),
        DeValue::Array(items) => {
            ConfigValue::List(items.iter().map(|item| convert_value(item.get_ref())).collect())
        }
        DeValue::Table(_) => ConfigValue::Other("a table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_have_keys_and_lines() {
        let text = "a = 1_000\n\n[b]\nc = \"x\" # why\nd.e = [true, 0x1F]\n[f]\n";
        let leaves = leaves(text).unwrap();
        let shown: Vec<String> =
            leaves.iter().map(|leaf| format!("{}:{}={}", leaf.line, leaf.key, leaf.value)).collect();
        assert_eq!(shown, ["1:a=1000", "4:b.c=\"x\"", "5:b.d.e=[true, 31]", "6:f=a table"]);
    }

    #[test]
    fn quoted_dot_does_not_separate_keys() {
        let leaves = leaves("\"http.listen\" = 1").unwrap();
        assert_eq!(leaves[0].key, "\"http.listen\"");
    }

    #[test]
    fn every_syntax_error_has_its_line_and_repeats_no_text() {
        let errors = leaves("a = 1\nb = \"hunter2\nc = = 2\n").unwrap_err();
        assert_eq!(errors[0].line, 2);
        assert!(errors.iter().any(|error| error.line == 3), "{errors:?}");
        assert!(errors.iter().all(|error| !error.message.contains("hunter2")), "{errors:?}");
    }

    #[test]
    fn duplicate_key_is_an_error() {
        assert_eq!(leaves("a = 1\na = 2\n").unwrap_err()[0].line, 2);
    }
}
