//! The rows of a checked file, page by page.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use relevo_domain::Recipient;

use super::parser::{Cells, RecordSplitter, is_blank};
use super::{BadPhone, Format, Position, Separator, phone};

/// The most bytes of a file that one page covers, so that wide rows do not make pages large in memory.
const MAX_PAGE_BYTES: u64 = 1024 * 1024;

const BUFFER: usize = 64 * 1024;

/// A checked file, open for reading. Reads block: call it where blocking is allowed.
#[derive(Debug)]
pub struct RowReader {
    file: BufReader<File>,
    separator: Separator,
}

/// Some rows in a row.
#[derive(Debug)]
pub struct RowPage {
    pub rows: Vec<RecipientRow>,
    /// Where the next page begins; `None` at the end of the file. A page may be empty before the end where many
    /// lines are blank.
    pub next: Option<Position>,
}

/// One row of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientRow {
    /// From 0.
    pub number: u32,
    /// The line on which it begins, from 1.
    pub line: u64,
    /// Bytes of the file before it.
    pub offset: u64,
    /// The first cell as it is written.
    pub cell: String,
    pub to: Result<Recipient, BadPhone>,
    /// The cells after the first: `@valor1` is the first of them. Empty ones at the end are left out.
    pub values: Vec<String>,
}

impl RowReader {
    /// Opens a file that a `Checker` passed, with the format that it found.
    pub fn open(path: &Path, format: &Format) -> io::Result<Self> {
        let file = BufReader::with_capacity(BUFFER, File::open(path)?);
        Ok(Self { file, separator: format.separator })
    }

    /// Up to `limit` rows (at least 1) from a place that [`Format::start`] or an earlier page named; fewer where they are
    /// large. Fails with `InvalidData` if the file is no longer what was checked.
    pub fn page(&mut self, from: Position, limit: usize) -> io::Result<RowPage> {
        self.file.seek(SeekFrom::Start(from.offset))?;
        let mut cutter = RecordSplitter::new(self.separator, from.line);
        let mut place = from;
        let mut rows = Vec::new();
        let mut record = Vec::new();
        while rows.len() < limit && place.offset.saturating_sub(from.offset) < MAX_PAGE_BYTES {
            record.clear();
            self.read_record(&mut cutter, &mut record)?;
            if record.is_empty() {
                return Ok(RowPage { rows, next: None });
            }
            let text = std::str::from_utf8(&record).map_err(invalid_data)?;
            let begins = place;
            place.offset = place.offset.saturating_add(record.len() as u64);
            place.line = cutter.line();
            if !is_blank(text, self.separator) {
                rows.push(parse_row(text, self.separator, begins));
                place.row = place.row.saturating_add(1);
            }
        }
        let ended = self.file.fill_buf()?.is_empty();
        Ok(RowPage { rows, next: (!ended).then_some(place) })
    }

    /// Reads one record with its line end; nothing at the end of the file.
    fn read_record(&mut self, cutter: &mut RecordSplitter, record: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return cutter.finish().map_err(invalid_data);
            }
            let end = cutter.record_end(bytes).map_err(invalid_data)?;
            let used = end.unwrap_or(bytes.len());
            record.extend(bytes.iter().take(used));
            self.file.consume(used);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

fn parse_row(record: &str, separator: Separator, begins: Position) -> RecipientRow {
    let mut cells = Cells::new(record, separator);
    let cell = cells.next().unwrap_or_default().trim().to_owned();
    let to = phone::parse(&cell);
    let mut values: Vec<String> = cells.map(|cell| strip_formula(&cell).to_owned()).collect();
    let filled = values.iter().rposition(|value| !value.is_empty()).map_or(0, |last| last.saturating_add(1));
    values.truncate(filled);
    RecipientRow { number: begins.row, line: begins.line, offset: begins.offset, cell, to, values }
}

/// `="00123"` is how exports keep Excel from rewriting a value.
fn strip_formula(cell: &str) -> &str {
    let inner = cell.strip_prefix("=\"").and_then(|rest| rest.strip_suffix('"'));
    inner.map_or(cell, str::trim)
}

fn invalid_data(cause: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
