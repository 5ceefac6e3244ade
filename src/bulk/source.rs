//! The source of a job: its rows, in either format, read page by page from any position.

use std::path::Path;

use serde::{Deserialize, Serialize};

use relevo_domain::{Content, Recipient, RecipientParser};

use super::json_lines;
use relevo_recipients_file::{self as recipients_file, TextTemplate};

/// A position between two rows of a source, from which reading can continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourcePosition {
    /// Number of bytes before it.
    pub offset: u64,
    /// Number of rows before it, which is the number of the next row.
    pub row: u32,
    /// Number of the line that begins here, from 1.
    pub line: u32,
}

impl SourcePosition {
    pub const START: SourcePosition = SourcePosition { offset: 0, row: 0, line: 1 };
}

/// One row of a source.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourceRow {
    pub position: SourcePosition,
    /// The recipient, or why it is invalid.
    pub to: Result<Recipient, String>,
    /// The recipient as the source spells it.
    pub phone: String,
    pub payload: RowPayload,
}

/// What a row has besides its recipient.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RowPayload {
    Nothing,
    /// The values for a template.
    Cells(Box<recipients_file::RecipientRow>),
    Content(Box<Content>),
}

/// Consecutive rows of a source.
#[derive(Debug, PartialEq)]
pub(super) struct SourcePage {
    pub rows: Vec<SourceRow>,
    /// Where the next page begins.
    pub next: SourcePosition,
}

/// The format of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SourceFormat {
    /// One line of JSON per row.
    Lines,
    /// An uploaded CSV file.
    File(recipients_file::Format),
}

impl SourceFormat {
    /// The position of the first row.
    pub fn start(&self) -> SourcePosition {
        match self {
            SourceFormat::Lines => SourcePosition::START,
            SourceFormat::File(format) => format.start.into(),
        }
    }

    /// Reads up to `limit` rows from `from`; the page is empty at the end of the source.
    pub fn page(&self, path: &Path, from: SourcePosition, limit: usize) -> std::io::Result<SourcePage> {
        match self {
            SourceFormat::Lines => json_lines::page(path, from, limit),
            SourceFormat::File(format) => read_file_page(path, format, from, limit),
        }
    }

    /// Compiles a text with placeholders for the values of these rows.
    pub fn template(&self, message: &str) -> Result<TextTemplate, recipients_file::BadTemplate> {
        match self {
            SourceFormat::File(format) => TextTemplate::parse(message, format),
            SourceFormat::Lines => {
                let start = recipients_file::Position { offset: 0, row: 0, line: 1 };
                let format = recipients_file::Format {
                    separator: recipients_file::Separator::Pipe,
                    header: None,
                    start,
                    recipients: RecipientParser::default(),
                };
                TextTemplate::parse(message, &format)
            }
        }
    }
}

fn read_file_page(
    path: &Path,
    format: &recipients_file::Format,
    from: SourcePosition,
    limit: usize,
) -> std::io::Result<SourcePage> {
    let mut source = recipients_file::RowReader::open(path, format)?;
    let mut position =
        recipients_file::Position { offset: from.offset, row: from.row, line: u64::from(from.line) };
    loop {
        let page = source.page(position, limit)?;
        let last = page.rows.last().map_or(position, |row| recipients_file::Position {
            offset: row.offset,
            row: row.number.saturating_add(1),
            line: row.line,
        });
        match page.next {
            // Only blank lines.
            Some(next) if page.rows.is_empty() => position = next,
            next => {
                let rows = page.rows.into_iter().map(SourceRow::from).collect();
                return Ok(SourcePage { rows, next: next.unwrap_or(last).into() });
            }
        }
    }
}

impl From<recipients_file::Position> for SourcePosition {
    fn from(position: recipients_file::Position) -> Self {
        let line = u32::try_from(position.line).unwrap_or(u32::MAX);
        Self { offset: position.offset, row: position.row, line }
    }
}

impl From<recipients_file::RecipientRow> for SourceRow {
    fn from(row: recipients_file::RecipientRow) -> Self {
        let position = recipients_file::Position { offset: row.offset, row: row.number, line: row.line };
        let to = row.to.clone().map_err(|bad| bad.reason);
        Self {
            position: position.into(),
            to,
            phone: row.cell.clone(),
            payload: RowPayload::Cells(Box::new(row)),
        }
    }
}
