//! Message templates with placeholders for the values of a row.

use super::{BadTemplate, Format, RecipientRow};

/// Replaces a missing value. Source: the documented API of bulk files.
const MISSING_VALUE: &str = "---";

/// The documented placeholder of a column by its position, without the number.
const COLUMN_PREFIX: &str = "valor";

/// A message template, compiled once for all rows of a file.
///
/// - `@valorN`, with N from 1 and all digits that follow, is the N-th column after the recipient.
/// - `@name` is the column that the header calls `name`. The whole name must match (`@nombres` is not `@nombre`), the
///   case does not matter, and the longest matching name is used. It is not replaced directly after a letter or digit,
///   so that `ana@nombre.com` stays an address. The name of the first column is replaced by the recipient.
/// - Any other `@word` is literal text, for example an address or a handle.
///
/// An absent or empty value is rendered as `---`. Values are inserted literally: placeholders in a value are not
/// replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTemplate {
    parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    /// The recipient's number.
    Recipient,
    /// An index into [`RecipientRow::values`].
    Value(usize),
}

impl TextTemplate {
    /// Compiles a template for the rows of one file.
    ///
    /// # Errors
    ///
    /// [`BadTemplate::Empty`]: the message has no text.
    pub fn parse(message: &str, format: &Format) -> Result<Self, BadTemplate> {
        if message.trim().is_empty() {
            return Err(BadTemplate::Empty);
        }
        let names = ColumnNames::new(format);
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = message;
        while let Some(at) = rest.find('@') {
            let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
            text.push_str(before);
            let word = from.strip_prefix('@').unwrap_or(from);
            let is_within_word = text.chars().next_back().is_some_and(is_word);
            match parse_numbered(word).or_else(|| names.find(word).filter(|_| !is_within_word)) {
                Some((part, after)) => {
                    if !text.is_empty() {
                        parts.push(TemplatePart::Text(std::mem::take(&mut text)));
                    }
                    parts.push(part);
                    rest = after;
                }
                None => {
                    text.push('@');
                    rest = word;
                }
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(TemplatePart::Text(text));
        }
        Ok(Self { parts })
    }

    /// A message no longer than that of any row: each placeholder is replaced by one letter.
    pub fn minimal_text(&self) -> String {
        let render_part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => text.clone(),
            TemplatePart::Recipient | TemplatePart::Value(_) => "x".to_owned(),
        };
        self.parts.iter().map(render_part).collect()
    }

    /// Renders the message for one row. Its length is not limited.
    pub fn render(&self, row: &RecipientRow) -> String {
        let mut message = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => message.push_str(text),
                TemplatePart::Recipient => match &row.to {
                    Ok(to) => message.push_str(&to.to_string()),
                    Err(_) => message.push_str(MISSING_VALUE),
                },
                TemplatePart::Value(column) => {
                    let value = row.values.get(*column).map(String::as_str).filter(|value| !value.is_empty());
                    message.push_str(value.unwrap_or(MISSING_VALUE));
                }
            }
        }
        message
    }
}

/// Parses `valor12…`; returns the placeholder and the text after it.
fn parse_numbered(word: &str) -> Option<(TemplatePart, &str)> {
    let (name, rest) = word.split_at_checked(COLUMN_PREFIX.len())?;
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, after) = rest.split_at_checked(length)?;
    if !name.eq_ignore_ascii_case(COLUMN_PREFIX) || digits.is_empty() {
        return None;
    }
    // A number without a column is a missing value.
    let column = digits.parse::<usize>().unwrap_or(usize::MAX);
    Some((TemplatePart::Value(column.checked_sub(1)?), after))
}

/// The names of the columns, longest first.
struct ColumnNames<'a> {
    names: Vec<(&'a str, TemplatePart)>,
}

impl<'a> ColumnNames<'a> {
    fn new(format: &'a Format) -> Self {
        let columns = format.header.iter().flatten().enumerate();
        let mut names: Vec<_> = columns
            .map(|(at, name)| (name.trim_start_matches('@').trim(), at.checked_sub(1)))
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| (name, value.map_or(TemplatePart::Recipient, TemplatePart::Value)))
            .collect();
        // The sort is stable: of two columns with the same name, the first is used.
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.chars().count()));
        Self { names }
    }

    /// The column whose name begins `text`, and the text after the name.
    fn find<'t>(&self, text: &'t str) -> Option<(TemplatePart, &'t str)> {
        self.names.iter().find_map(|(name, part)| {
            let after = strip_name(text, name)?;
            Some((part.clone(), after))
        })
    }
}

/// The text after `name` if `text` begins with it and the word ends there.
fn strip_name<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let mut chars = text.chars();
    for expected in name.chars() {
        let found = chars.next()?;
        if found != expected && !found.to_lowercase().eq(expected.to_lowercase()) {
            return None;
        }
    }
    let after = chars.as_str();
    let ends = !name.ends_with(is_word) || !after.starts_with(is_word);
    ends.then_some(after)
}

/// Whether a character is part of a word.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
