//! Splitting of bytes into records, and of records into cells.
//!
//! The streaming [`RecordSplitter`] and the [`Cells`] of a record use one transition table, so that they agree about
//! every byte. The dialect is RFC 4180, extended for files written by hand: a quote opens a quoted cell only at the
//! start of the cell (blanks may precede it) and is literal elsewhere. A quoted cell that continues after its closing
//! quote on the same line (`"Tienda" Sur`) is accepted literally. If the quotes span lines, such text is an error:
//! otherwise an unclosed quote would silently consume the following rows. LF, CR LF and CR end a record.

use std::borrow::Cow;

use super::{BadFile, MAX_LINE, Separator};

/// State of the parser within a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Only blanks so far.
    Start,
    Plain,
    /// Within quotes.
    Quoted {
        spans: bool,
    },
    /// Directly after a quote that closes the cell or is the first of an escaped pair.
    Closed {
        spans: bool,
    },
    /// Blanks after the closing quote.
    Trailing {
        spans: bool,
    },
}

/// What a byte does.
enum Transition {
    To(State),
    CellEnd,
    RecordEnd,
    /// Text after a closing quote whose opening quote is on another line.
    StrayText,
}

impl State {
    fn transition(self, byte: u8, separator: u8) -> Transition {
        match self {
            State::Quoted { spans } => Transition::To(match byte {
                b'"' => State::Closed { spans },
                b'\n' | b'\r' => State::Quoted { spans: true },
                _ => self,
            }),
            _ if byte == separator => Transition::CellEnd,
            _ if matches!(byte, b'\n' | b'\r') => Transition::RecordEnd,
            State::Plain => Transition::To(State::Plain),
            State::Start => Transition::To(match byte {
                b' ' | b'\t' => State::Start,
                b'"' => State::Quoted { spans: false },
                _ => State::Plain,
            }),
            State::Closed { spans } | State::Trailing { spans } => match byte {
                b'"' if matches!(self, State::Closed { .. }) => Transition::To(State::Quoted { spans }),
                b' ' | b'\t' => Transition::To(State::Trailing { spans }),
                _ if spans => Transition::StrayText,
                _ => Transition::To(State::Plain),
            },
        }
    }

    fn is_quoted(self) -> bool {
        matches!(self, State::Closed { .. } | State::Trailing { .. })
    }
}

/// Finds the ends of records in bytes that arrive in pieces of any size.
#[derive(Debug)]
pub(super) struct RecordSplitter {
    separator: u8,
    state: State,
    /// Length of the current record so far, in bytes.
    length: usize,
    /// Line of the next byte, from 1; line breaks within quotes count.
    line: u64,
    /// Line of the opening quote of the cell.
    quote_line: u64,
    /// The last byte was a carriage return within quotes; a line feed that follows belongs to it.
    after_quoted_cr: bool,
    /// The record ended with a carriage return; a line feed that follows belongs to it.
    after_record_cr: bool,
}

impl RecordSplitter {
    pub(super) fn new(separator: Separator, line: u64) -> Self {
        Self {
            separator: separator.byte(),
            state: State::Start,
            length: 0,
            line,
            quote_line: line,
            after_quoted_cr: false,
            after_record_cr: false,
        }
    }

    /// The line on which the next record begins.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Number of `bytes` that complete the current record, including its line end. `None`: the record continues after
    /// `bytes`.
    pub(super) fn record_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadFile> {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.after_record_cr {
                self.next_record();
                return Ok(Some(if byte == b'\n' { at.saturating_add(1) } else { at }));
            }
            match self.state.transition(byte, self.separator) {
                Transition::To(state) => self.enter(state, byte),
                Transition::CellEnd => self.state = State::Start,
                Transition::RecordEnd if byte == b'\r' => {
                    self.after_record_cr = true;
                    continue;
                }
                Transition::RecordEnd => {
                    self.next_record();
                    return Ok(Some(at.saturating_add(1)));
                }
                Transition::StrayText => return Err(BadFile::UnclosedQuote { line: self.quote_line }),
            }
            self.length = self.length.saturating_add(1);
            if self.length > MAX_LINE {
                return Err(self.too_long());
            }
        }
        Ok(None)
    }

    /// Ends the current record at the end of the file.
    pub(super) fn finish(&mut self) -> Result<(), BadFile> {
        match self.state {
            State::Quoted { .. } => Err(BadFile::UnclosedQuote { line: self.quote_line }),
            _ => {
                self.next_record();
                Ok(())
            }
        }
    }

    fn enter(&mut self, state: State, byte: u8) {
        if let State::Quoted { .. } = state {
            if self.state == State::Start {
                self.quote_line = self.line;
            }
            if byte == b'\r' || (byte == b'\n' && !self.after_quoted_cr) {
                self.line = self.line.saturating_add(1);
            }
            self.after_quoted_cr = byte == b'\r';
        }
        self.state = state;
    }

    fn next_record(&mut self) {
        self.line = self.line.saturating_add(1);
        self.state = State::Start;
        self.length = 0;
        self.after_quoted_cr = false;
        self.after_record_cr = false;
    }

    fn too_long(&self) -> BadFile {
        match self.state {
            State::Quoted { .. } => BadFile::UnclosedQuote { line: self.quote_line },
            _ => BadFile::LineTooLong { line: self.line, limit: MAX_LINE },
        }
    }
}

/// The cells of one record of a [`RecordSplitter`], without quotes and surrounding blanks.
pub(super) struct Cells<'a> {
    rest: Option<&'a str>,
    separator: u8,
}

impl<'a> Cells<'a> {
    pub(super) fn new(record: &'a str, separator: Separator) -> Self {
        Self { rest: Some(record), separator: separator.byte() }
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Cow<'a, str>> {
        let text = self.rest.take()?;
        let mut state = State::Start;
        for (at, byte) in text.bytes().enumerate() {
            match state.transition(byte, self.separator) {
                Transition::To(next) => state = next,
                Transition::CellEnd => {
                    self.rest = text.get(at.saturating_add(1)..);
                    return text.get(..at).map(|cell| unquote(cell, state));
                }
                Transition::RecordEnd => return text.get(..at).map(|cell| unquote(cell, state)),
                // The splitter refuses such a record.
                Transition::StrayText => state = State::Plain,
            }
        }
        Some(unquote(text, state))
    }
}

/// The value of a cell, from its spelling and the state in which it ended.
fn unquote(cell: &str, state: State) -> Cow<'_, str> {
    let cell = cell.trim();
    let quoted = || cell.strip_prefix('"')?.strip_suffix('"');
    match quoted().filter(|_| state.is_quoted()) {
        Some(inner) if inner.contains("\"\"") => Cow::Owned(inner.replace("\"\"", "\"").trim().to_owned()),
        Some(inner) => Cow::Borrowed(inner.trim()),
        None => Cow::Borrowed(cell),
    }
}

/// Whether a record is empty: only blanks, separators, quotes, control and invisible characters.
pub(super) fn is_blank(record: &str, separator: Separator) -> bool {
    let separator = char::from(separator.byte());
    record
        .chars()
        .all(|c| c == separator || c == '"' || c.is_whitespace() || c.is_control() || is_invisible(c))
}

/// Whether a character is a zero-width character or a direction mark. Copying from pages or chats inserts them.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}
