//! What the beginning of a file tells about the rest.

use super::error::{Document, Foreign};
use super::scan::{Cells, Cutter, is_blank};
use super::{BadFile, Place, Separator, phone};

/// How much of a file is looked at, in bytes and in rows.
pub(super) const SAMPLE: usize = 64 * 1024;
const SAMPLE_ROWS: usize = 100;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// First bytes of files that people take for CSV.
const MAGIC: [(&[u8], Document); 5] = [
    (b"PK\x03\x04", Document::Workbook),
    (b"\xD0\xCF\x11\xE0", Document::OldWorkbook),
    (b"%PDF", Document::Pdf),
    (b"\x1F\x8B", Document::Gzip),
    (b"{\\rtf", Document::Rtf),
];

/// Words for a column of telephone numbers.
const PHONE_WORDS: [&str; 21] = [
    "phone",
    "phones",
    "telephone",
    "mobile",
    "cell",
    "cellphone",
    "number",
    "whatsapp",
    "wa",
    "to",
    "recipient",
    "telefono",
    "teléfono",
    "telefonos",
    "teléfonos",
    "tel",
    "cel",
    "celular",
    "movil",
    "móvil",
    "destinatario",
];
const NUMBER_WORDS: [&str; 5] = ["numero", "número", "nro", "num", "contacto"];

/// The separator, and where the first record begins. `whole`: `sample` is the entire file.
pub(super) fn sniff(sample: &[u8], whole: bool) -> Result<(Separator, Place), BadFile> {
    refuse_documents(sample)?;
    let mut start = Place { offset: 0, row: 0, line: 1 };
    let mut text = sample;
    if let Some(rest) = text.strip_prefix(BOM) {
        text = rest;
        start.offset = 3;
    }
    if let Some((separator, length)) = declared(text) {
        start.offset = start.offset.saturating_add(length as u64);
        start.line = 2;
        return Ok((separator, start));
    }
    Ok((separator(text, whole)?, start))
}

/// Whether the first cell of the first row names its column.
pub(super) fn is_header(cell: &str) -> bool {
    if !cell.chars().any(char::is_alphabetic) || phone::read(cell).is_ok() {
        return false;
    }
    match cell.chars().filter(|c| c.is_numeric()).count() {
        0 => true,
        1 | 2 => cell.split(|c: char| !c.is_alphabetic()).any(|word| {
            let word = word.to_lowercase();
            PHONE_WORDS.contains(&word.as_str()) || NUMBER_WORDS.contains(&word.as_str())
        }),
        _ => false,
    }
}

fn refuse_documents(sample: &[u8]) -> Result<(), BadFile> {
    if sample.starts_with(b"\xFF\xFE") || sample.starts_with(b"\xFE\xFF") {
        return Err(BadFile::Encoding { line: 1, column: 1, found: Foreign::Utf16 });
    }
    if let Some((_, document)) = MAGIC.iter().find(|(magic, _)| sample.starts_with(magic)) {
        return Err(BadFile::NotText(*document));
    }
    let text = sample.strip_prefix(BOM).unwrap_or(sample).trim_ascii_start();
    match text.first() {
        Some(b'<') => Err(BadFile::NotText(Document::Markup)),
        Some(b'{' | b'[') => Err(BadFile::NotText(Document::Json)),
        _ => Ok(()),
    }
}

/// The `sep=;` line that Excel understands, with its length.
fn declared(text: &[u8]) -> Option<(Separator, usize)> {
    let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(text.len());
    let (line, rest) = text.split_at_checked(end)?;
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    let (key, value) = line.split_at_checked(4)?;
    let separator = Separator::ALL.into_iter().find(|separator| value == [separator.byte()])?;
    let ending = if rest.starts_with(b"\r\n") { 2 } else { rest.len().min(1) };
    key.eq_ignore_ascii_case(b"sep=").then(|| (separator, end.saturating_add(ending)))
}

/// How well a separator explains the first rows.
#[derive(Debug, Clone, Copy)]
struct Tally {
    separator: Separator,
    /// It stands in the first row.
    in_first: bool,
    /// It stands after the first cell of a header.
    after_header: bool,
    /// Rows in which it stands after a telephone number, and the line of the first of them.
    fits: usize,
    line: u64,
}

fn separator(text: &[u8], whole: bool) -> Result<Separator, BadFile> {
    let tallies = Separator::ALL.map(|separator| tally(text, whole, separator));
    let pipe = tallies.iter().find(|tally| tally.separator == Separator::Pipe && tally.in_first);
    let most = tallies.iter().map(|tally| tally.fits).max().unwrap_or_default();
    if most == 0 {
        // No row can be sent to. Whatever is chosen, its rows are reported as bad.
        let guess = tallies.iter().find(|tally| tally.after_header);
        let guess = pipe.or(guess).or_else(|| tallies.iter().find(|tally| tally.in_first));
        return Ok(guess.map_or(Separator::Pipe, |tally| tally.separator));
    }
    if pipe.is_some_and(|pipe| pipe.fits > 0) {
        return Ok(Separator::Pipe);
    }
    let mut best = tallies.iter().filter(|tally| tally.fits == most);
    match (best.next(), best.next()) {
        (Some(first), Some(second)) => Err(BadFile::AmbiguousSeparator {
            line: first.line.max(second.line),
            first: first.separator,
            second: second.separator,
        }),
        (first, _) => Ok(first.map_or(Separator::Pipe, |tally| tally.separator)),
    }
}

fn tally(text: &[u8], whole: bool, separator: Separator) -> Tally {
    let mut tally = Tally { separator, in_first: false, after_header: false, fits: 0, line: 1 };
    let mut cutter = Cutter::new(separator, 1);
    let mut rest = text;
    let mut rows = 0;
    while rows < SAMPLE_ROWS && !rest.is_empty() {
        let line = cutter.line();
        // A file that cannot be cut this way may still be cut another way.
        let Ok(cut) = cutter.cut(rest) else { break };
        if cut.is_none() && !whole {
            break;
        }
        let Some((record, after)) = rest.split_at_checked(cut.unwrap_or(rest.len())) else { break };
        rest = after;
        let Some(record) = std::str::from_utf8(record).ok().filter(|record| !is_blank(record, separator))
        else {
            continue;
        };
        rows = rows.saturating_add(1);
        let mut cells = Cells::of(record, separator);
        let first = cells.next().unwrap_or_default();
        if cells.next().is_none() {
            continue;
        }
        if rows == 1 {
            tally.in_first = true;
            tally.after_header = is_header(&first)
                && !Separator::ALL.iter().any(|other| first.contains(char::from(other.byte())));
        }
        if phone::read(&first).is_ok() {
            tally.line = if tally.fits == 0 { line } else { tally.line };
            tally.fits = tally.fits.saturating_add(1);
        }
    }
    tally
}
