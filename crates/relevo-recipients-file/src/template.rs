//! A message with places for the values of a row.

use super::{BadTemplate, Format, RecipientRow};

/// What stands where a row has no value. Source: the documented API of bulk files.
const MISSING_VALUE: &str = "---";

/// The documented name of a column by its place, without its number.
const COLUMN_PREFIX: &str = "valor";

/// A message template, compiled once for all rows of a file.
///
/// - `@valorN`, N from 1 and as many digits as follow: the N-th column after the recipient.
/// - `@name` with a name from the header, whole (`@nombres` is not `@nombre`), without regard to case, the
///   longest name that fits; not right after a letter or digit, so that `ana@nombre.com` stays an address. The
///   name of the first column gives the recipient.
/// - Any other `@word` stays as it is: it may be an address or a handle.
///
/// A value that is absent or empty is written `---`. Values are inserted as they are: what looks like a place in
/// a value is not filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTemplate {
    parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    /// The recipient's number.
    Recipient,
    /// A place in [`Row::values`].
    Value(usize),
}

impl TextTemplate {
    /// Refuses a message without any text.
    pub fn parse(message: &str, format: &Format) -> Result<Self, BadTemplate> {
        if message.trim().is_empty() {
            return Err(BadTemplate::Empty);
        }
        let names = ColumnNames::new(format);
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = message;
        while let Some(at) = rest.find('@') {
            let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
            text.push_str(before);
            let word = from.strip_prefix('@').unwrap_or(from);
            let within = text.chars().next_back().is_some_and(is_word);
            match parse_numbered(word).or_else(|| names.find(word).filter(|_| !within)) {
                Some((piece, after)) => {
                    if !text.is_empty() {
                        pieces.push(TemplatePart::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(piece);
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
            pieces.push(TemplatePart::Text(text));
        }
        Ok(Self { parts: pieces })
    }

    /// A message as short as any row's: one letter in the place of each value.
    pub fn minimal_text(&self) -> String {
        let piece = |piece: &TemplatePart| match piece {
            TemplatePart::Text(text) => text.clone(),
            TemplatePart::Recipient | TemplatePart::Value(_) => "x".to_owned(),
        };
        self.parts.iter().map(piece).collect()
    }

    /// The message for one row, of any length.
    pub fn render(&self, row: &RecipientRow) -> String {
        let mut message = String::new();
        for piece in &self.parts {
            match piece {
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

/// `valor12…`: the piece and what follows it.
fn parse_numbered(word: &str) -> Option<(TemplatePart, &str)> {
    let (name, rest) = word.split_at_checked(COLUMN_PREFIX.len())?;
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, after) = rest.split_at_checked(length)?;
    if !name.eq_ignore_ascii_case(COLUMN_PREFIX) || digits.is_empty() {
        return None;
    }
    // A number beyond any column is a missing value like any other.
    let column = digits.parse::<usize>().unwrap_or(usize::MAX);
    Some((TemplatePart::Value(column.checked_sub(1)?), after))
}

/// The names of the columns, the longest first.
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
        // Stable: of two columns with one name, the first is meant.
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.chars().count()));
        Self { names }
    }

    fn find<'t>(&self, text: &'t str) -> Option<(TemplatePart, &'t str)> {
        self.names.iter().find_map(|(name, piece)| {
            let after = strip_name(text, name)?;
            Some((piece.clone(), after))
        })
    }
}

/// What follows `name` at the beginning of `text`, if the word ends there.
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

/// Whether a character continues a word.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
