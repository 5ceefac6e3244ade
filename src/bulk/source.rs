//! The rows of a job, whatever they are written in, page by page from any place.

use std::path::Path;

use serde::{Deserialize, Serialize};

use relevo_domain::{Content, Recipient};

use super::list;
use relevo_recipients_file::{self as recipients_file, Template};

/// A place between two rows of a source, from which reading can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Rows before it, which is the number of the next row.
    pub row: u32,
    /// The line that begins here, from 1.
    pub line: u32,
}

impl Place {
    pub const START: Place = Place { offset: 0, row: 0, line: 1 };
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub place: Place,
    /// The recipient, or why there is none.
    pub to: Result<Recipient, String>,
    /// The recipient as the source spells it.
    pub phone: String,
    pub body: Body,
}

/// What a row brings beside its recipient.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    Nothing,
    /// Values for a template.
    Cells(Box<recipients_file::Row>),
    Content(Box<Content>),
}

#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub rows: Vec<Row>,
    /// Where the next page begins.
    pub next: Place,
}

/// How the rows of a source are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// A line of JSON for each.
    Lines,
    /// An uploaded file.
    File(recipients_file::Format),
}

impl Format {
    /// Where the first row begins.
    pub fn start(&self) -> Place {
        match self {
            Format::Lines => Place::START,
            Format::File(format) => format.start.into(),
        }
    }

    /// Up to `limit` rows from `from` on; none where the source ends.
    pub fn page(&self, path: &Path, from: Place, limit: usize) -> std::io::Result<Page> {
        match self {
            Format::Lines => list::page(path, from, limit),
            Format::File(format) => page(path, format, from, limit),
        }
    }

    /// A text with places for the values of these rows.
    pub fn template(&self, message: &str) -> Result<Template, recipients_file::BadTemplate> {
        match self {
            Format::File(format) => Template::parse(message, format),
            Format::Lines => {
                let start = recipients_file::Place { offset: 0, row: 0, line: 1 };
                let format = recipients_file::Format {
                    separator: recipients_file::Separator::Pipe,
                    header: None,
                    start,
                };
                Template::parse(message, &format)
            }
        }
    }
}

fn page(path: &Path, format: &recipients_file::Format, from: Place, limit: usize) -> std::io::Result<Page> {
    let mut source = recipients_file::Source::open(path, format)?;
    let mut at = recipients_file::Place { offset: from.offset, row: from.row, line: u64::from(from.line) };
    loop {
        let page = source.page(at, limit)?;
        let last = page.rows.last().map_or(at, |row| recipients_file::Place {
            offset: row.offset,
            row: row.number.saturating_add(1),
            line: row.line,
        });
        match page.next {
            // Many blank lines.
            Some(next) if page.rows.is_empty() => at = next,
            next => {
                let rows = page.rows.into_iter().map(Row::from).collect();
                return Ok(Page { rows, next: next.unwrap_or(last).into() });
            }
        }
    }
}

impl From<recipients_file::Place> for Place {
    fn from(place: recipients_file::Place) -> Self {
        Self { offset: place.offset, row: place.row, line: u32::try_from(place.line).unwrap_or(u32::MAX) }
    }
}

impl From<recipients_file::Row> for Row {
    fn from(row: recipients_file::Row) -> Self {
        let place = recipients_file::Place { offset: row.offset, row: row.number, line: row.line };
        let to = row.to.clone().map_err(|bad| bad.to_string());
        Self { place: place.into(), to, phone: row.cell.clone(), body: Body::Cells(Box::new(row)) }
    }
}
