//! Reading of the rows of a checked file, page by page.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use relevo_domain::{Recipient, RecipientParser, ValidationError};

use super::parser::{Cells, RecordSplitter, is_blank};
use super::{Format, Position, Separator};

/// Maximum number of bytes of a file that one page covers; it bounds the memory of a page with wide rows.
const MAX_PAGE_BYTES: u64 = 1024 * 1024;

/// Size of the read buffer, in bytes.
const BUFFER: usize = 64 * 1024;

/// A checked file, open for reading. Reads block the thread.
#[derive(Debug)]
pub struct RowReader {
    file: BufReader<File>,
    separator: Separator,
    recipients: RecipientParser,
}

/// Consecutive rows of a file.
#[derive(Debug)]
pub struct RowPage {
    /// In the order of the file.
    pub rows: Vec<RecipientRow>,
    /// Where the next page begins; `None` at the end of the file. A page before the end may be empty if many lines are
    /// blank.
    pub next: Option<Position>,
}

/// One row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientRow {
    /// Number of the row, from 0.
    pub number: u32,
    /// Line on which it begins, from 1.
    pub line: u64,
    /// Number of bytes of the file before it.
    pub offset: u64,
    /// The first cell as the file spells it.
    pub cell: String,
    /// The recipient, parsed from the first cell.
    pub to: Result<Recipient, ValidationError>,
    /// The cells after the first; `@valor1` is the first of them. Empty cells at the end are removed.
    pub values: Vec<String>,
}

impl RowReader {
    /// Opens a file that a [`Checker`](super::Checker) accepted, with the format that it detected.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(path: &Path, format: &Format) -> io::Result<Self> {
        let file = BufReader::with_capacity(BUFFER, File::open(path)?);
        Ok(Self { file, separator: format.separator, recipients: format.recipients })
    }

    /// Reads up to `limit` rows (at least 1) from `from`, which is [`Format::start`] or [`RowPage::next`] of an earlier
    /// page. Returns fewer rows if they are large.
    ///
    /// # Errors
    ///
    /// The file cannot be read. `InvalidData`: the file is no longer the one that was checked.
    pub fn page(&mut self, from: Position, limit: usize) -> io::Result<RowPage> {
        self.file.seek(SeekFrom::Start(from.offset))?;
        let mut splitter = RecordSplitter::new(self.separator, from.line);
        let mut position = from;
        let mut rows = Vec::new();
        let mut record = Vec::new();
        while rows.len() < limit && position.offset.saturating_sub(from.offset) < MAX_PAGE_BYTES {
            record.clear();
            self.read_record(&mut splitter, &mut record)?;
            if record.is_empty() {
                return Ok(RowPage { rows, next: None });
            }
            let text = std::str::from_utf8(&record).map_err(invalid_data)?;
            let start = position;
            position.offset = position.offset.saturating_add(record.len() as u64);
            position.line = splitter.line();
            if !is_blank(text, self.separator) {
                rows.push(self.parse_row(text, start));
                position.row = position.row.saturating_add(1);
            }
        }
        let is_at_end = self.file.fill_buf()?.is_empty();
        Ok(RowPage { rows, next: (!is_at_end).then_some(position) })
    }

    fn parse_row(&self, record: &str, start: Position) -> RecipientRow {
        let mut cells = Cells::new(record, self.separator);
        let cell = cells.next().unwrap_or_default().trim().to_owned();
        let to = self.recipients.parse(&cell);
        let mut values: Vec<String> = cells.map(|cell| strip_formula(&cell).to_owned()).collect();
        let filled =
            values.iter().rposition(|value| !value.is_empty()).map_or(0, |last| last.saturating_add(1));
        values.truncate(filled);
        RecipientRow { number: start.row, line: start.line, offset: start.offset, cell, to, values }
    }

    /// Appends one record with its line end to `record`; appends nothing at the end of the file.
    fn read_record(&mut self, splitter: &mut RecordSplitter, record: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return splitter.finish().map_err(invalid_data);
            }
            let end = splitter.record_end(bytes).map_err(invalid_data)?;
            let used = end.unwrap_or(bytes.len());
            record.extend(bytes.iter().take(used));
            self.file.consume(used);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

/// Removes `="…"`, which exports write around a value so that Excel does not reformat it.
fn strip_formula(cell: &str) -> &str {
    let inner = cell.strip_prefix("=\"").and_then(|rest| rest.strip_suffix('"'));
    inner.map_or(cell, str::trim)
}

fn invalid_data(cause: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
