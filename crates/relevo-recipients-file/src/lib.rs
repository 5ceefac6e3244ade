//! CSV files of recipients, and the template of the message that each recipient gets.
//!
//! [`Checker`] checks a file while it streams in, in bounded memory. [`RowReader`] reads the checked file page by page,
//! from any [`Position`] that a page returned. Both find the same rows: they share the functions that split and parse
//! records, and the [`Format`] carries what the checker detected at the beginning of the file.
//!
//! - **Rows.** A row is one record: first the recipient, then the values. Empty records (blanks, separators, empty
//!   quotes) are not rows. Surrounding blanks of a cell are removed, and `="…"` around a value.
//! - **Separator.** A first line `sep=;` decides, as in Excel. Otherwise the separator is the one of `|`, tab, `;` and
//!   `,` that follows a phone number in most of the first rows. `|` is preferred if the first row contains it. Equal
//!   counts are refused as ambiguous. A file without separators has one column.
//! - **Header.** The first row is a header if its first cell is no recipient and either has letters and no digit, or has
//!   a usual word for a phone (`Phone 1 - Value`) and at most two digits. Any other first row is data, even with a bad
//!   phone number.
//! - **Phone numbers** are read by [`RecipientParser`], as everywhere. Numbers outside the plan of their country are good, and
//!   reported.
//! - **Bad phone numbers** are counted and reported with their line. They make a row bad, never the file.

mod checker;
mod dialect;
mod error;
mod parser;
mod reader;
mod template;
#[cfg(test)]
mod tests;

use std::fmt;

use relevo_domain::RecipientParser;
use serde::{Deserialize, Serialize};

pub use checker::{BadRow, Checker, FileSummary, UnusualRow};
pub use error::{BadFile, BadTemplate, DocumentType, EncodingFault};
pub use reader::{RecipientRow, RowPage, RowReader};
pub use template::TextTemplate;

/// Maximum number of rows of a file. Source: the documented API of bulk files.
pub const MAX_ROWS: u32 = 1_000_000;

/// Maximum length of a record, in bytes.
pub const MAX_LINE: usize = 64 * 1024;

/// Maximum number of bad rows that are reported with line and reason; further ones are only counted.
pub const MAX_SAMPLE: usize = 100;

/// How the rows of one file are read. Detected once and stored with the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// What separates the columns.
    pub separator: Separator,
    /// The names of all columns as the file spells them; the first is the recipient's.
    pub header: Option<Vec<String>>,
    /// Where the first row begins: after a byte order mark, a `sep=` line and the header.
    pub start: Position,
    /// How the recipients are read.
    #[serde(default)]
    pub recipients: RecipientParser,
}

/// The character between two columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Separator {
    Pipe,
    Tab,
    Semicolon,
    Comma,
}

impl Separator {
    /// Every separator, the preferred first.
    const ALL: [Separator; 4] = [Separator::Pipe, Separator::Tab, Separator::Semicolon, Separator::Comma];

    fn byte(self) -> u8 {
        match self {
            Separator::Pipe => b'|',
            Separator::Tab => b'\t',
            Separator::Semicolon => b';',
            Separator::Comma => b',',
        }
    }
}

impl fmt::Display for Separator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Separator::Pipe => "|",
            Separator::Tab => "tabulador",
            Separator::Semicolon => ";",
            Separator::Comma => ",",
        })
    }
}

/// A position between two records of a file, from which reading can continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Number of bytes before it.
    pub offset: u64,
    /// Number of rows before it, which is the number of the next row.
    pub row: u32,
    /// Number of the line that begins here, from 1.
    pub line: u64,
}
