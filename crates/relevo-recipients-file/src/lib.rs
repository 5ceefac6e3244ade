//! Files of recipients, and the message that is written to each of them.
//!
//! A file is checked while it streams in ([`Checker`]), in bounded memory, and is read again page by page
//! ([`Source`]) from any [`Place`] that a page named. Both see the same rows: they cut, split and judge by the
//! same functions, and whatever was learned from the beginning of the file travels in the [`Format`].
//!
//! - **Rows.** One record each, first the recipient, then the values. Records with nothing in them (blanks,
//!   separators, empty quotes) are no rows. Cells lose surrounding blanks, and `="…"` around a value.
//! - **Separator.** A first line `sep=;` decides, as it does for Excel. Otherwise it is the one of `|`, tab, `;`
//!   and `,` before which most of the first rows have a telephone number; `|` is preferred where it stands in the
//!   first row. Equal counts are refused as ambiguous. A file without separators has one column.
//! - **Header.** The first row is one if its first cell has letters and no digit, or has a usual word for a
//!   telephone (`Phone 1 - Value`) and at most two digits, and is no recipient. Anything else there is data, a
//!   bad telephone too.
//! - **Bad telephones** are counted and named with their line; they cost a row and never the file.

mod checker;
mod dialect;
mod error;
mod parser;
mod phone;
mod reader;
mod template;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use checker::{BadRow, Checker, FileSummary};
pub use error::{BadFile, BadPhone, BadTemplate, DocumentType, EncodingFault};
pub use reader::{RecipientRow, RowPage, RowReader};
pub use template::TextTemplate;

/// The most rows of a file. Source: the documented API of bulk files.
pub const MAX_ROWS: u32 = 1_000_000;

/// The longest record, in bytes.
pub const MAX_LINE: usize = 64 * 1024;

/// How many bad rows are named; the others are only counted.
pub const MAX_SAMPLE: usize = 100;

/// How the rows of one file are read: learned once, kept with the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub separator: Separator,
    /// The names of all columns as they are written, that of the recipient first.
    pub header: Option<Vec<String>>,
    /// Where the first row begins: after a byte order mark, a `sep=` line and the header.
    pub start: Position,
}

/// What stands between columns.
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

/// A place between two records of a file, from which reading can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Bytes before it.
    pub offset: u64,
    /// Rows before it, which is the number of the next row.
    pub row: u32,
    /// The line that begins here, from 1.
    pub line: u64,
}
