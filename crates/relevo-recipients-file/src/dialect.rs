//! Detection of the dialect (separator, header, file type) from the beginning of a file.

use super::error::{DocumentType, EncodingFault};
use super::parser::{Cells, RecordSplitter, is_blank};
use super::{BadFile, Position, Separator};
use relevo_domain::RecipientParser;

/// Size of the sample, in bytes and in rows.
pub(super) const SAMPLE_BYTES: usize = 64 * 1024;
const SAMPLE_ROWS: usize = 100;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// First bytes of file types that users upload in place of CSV.
const MAGIC: [(&[u8], DocumentType); 5] = [
    (b"PK\x03\x04", DocumentType::Workbook),
    (b"\xD0\xCF\x11\xE0", DocumentType::OldWorkbook),
    (b"%PDF", DocumentType::Pdf),
    (b"\x1F\x8B", DocumentType::Gzip),
    (b"{\\rtf", DocumentType::Rtf),
];

/// Names of a column with phone numbers.
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

/// Detects the separator and where the first record begins. `is_complete`: `sample` is the entire file.
pub(super) fn detect_dialect(
    sample: &[u8],
    is_complete: bool,
    recipients: RecipientParser,
) -> Result<(Separator, Position), BadFile> {
    reject_documents(sample)?;
    let mut start = Position { offset: 0, row: 0, line: 1 };
    let mut text = sample;
    if let Some(rest) = text.strip_prefix(BOM) {
        text = rest;
        start.offset = 3;
    }
    if let Some((separator, length)) = declared_separator(text) {
        start.offset = start.offset.saturating_add(length as u64);
        start.line = 2;
        return Ok((separator, start));
    }
    Ok((guess_separator(text, is_complete, recipients)?, start))
}

/// Whether the first cell of the first row is the name of a column.
pub(super) fn is_header(cell: &str, recipients: RecipientParser) -> bool {
    if !cell.chars().any(char::is_alphabetic) || recipients.parse(cell).is_ok() {
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

fn reject_documents(sample: &[u8]) -> Result<(), BadFile> {
    if sample.starts_with(b"\xFF\xFE") || sample.starts_with(b"\xFE\xFF") {
        return Err(BadFile::Encoding { line: 1, column: 1, found: EncodingFault::Utf16 });
    }
    if let Some((_, document)) = MAGIC.iter().find(|(magic, _)| sample.starts_with(magic)) {
        return Err(BadFile::NotText(*document));
    }
    let text = sample.strip_prefix(BOM).unwrap_or(sample).trim_ascii_start();
    match text.first() {
        Some(b'<') => Err(BadFile::NotText(DocumentType::Markup)),
        Some(b'{' | b'[') => Err(BadFile::NotText(DocumentType::Json)),
        _ => Ok(()),
    }
}

/// The separator of a first line `sep=;` (an Excel convention), and the length of that line.
fn declared_separator(text: &[u8]) -> Option<(Separator, usize)> {
    let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(text.len());
    let (line, rest) = text.split_at_checked(end)?;
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    let (key, value) = line.split_at_checked(4)?;
    let separator = Separator::ALL.into_iter().find(|separator| value == [separator.byte()])?;
    let ending = if rest.starts_with(b"\r\n") { 2 } else { rest.len().min(1) };
    key.eq_ignore_ascii_case(b"sep=").then(|| (separator, end.saturating_add(ending)))
}

/// How well a separator fits the first rows.
#[derive(Debug, Clone, Copy)]
struct SeparatorScore {
    separator: Separator,
    /// The first row contains it.
    in_first: bool,
    /// It follows the first cell of a header.
    after_header: bool,
    /// Number of rows in which it follows a phone number.
    matches: usize,
    /// Line of the first of those rows.
    line: u64,
}

fn guess_separator(
    text: &[u8],
    is_complete: bool,
    recipients: RecipientParser,
) -> Result<Separator, BadFile> {
    let scores = Separator::ALL.map(|separator| score_separator(text, is_complete, separator, recipients));
    let pipe = scores.iter().find(|score| score.separator == Separator::Pipe && score.in_first);
    let most = scores.iter().map(|score| score.matches).max().unwrap_or_default();
    if most == 0 {
        // No row has a valid phone number. With any separator, all rows are reported as bad.
        let guess = scores.iter().find(|score| score.after_header);
        let guess = pipe.or(guess).or_else(|| scores.iter().find(|score| score.in_first));
        return Ok(guess.map_or(Separator::Pipe, |score| score.separator));
    }
    if pipe.is_some_and(|pipe| pipe.matches > 0) {
        return Ok(Separator::Pipe);
    }
    let mut best = scores.iter().filter(|score| score.matches == most);
    match (best.next(), best.next()) {
        (Some(first), Some(second)) => Err(BadFile::AmbiguousSeparator {
            line: first.line.max(second.line),
            first: first.separator,
            second: second.separator,
        }),
        (first, _) => Ok(first.map_or(Separator::Pipe, |score| score.separator)),
    }
}

fn score_separator(
    text: &[u8],
    is_complete: bool,
    separator: Separator,
    recipients: RecipientParser,
) -> SeparatorScore {
    let mut score = SeparatorScore { separator, in_first: false, after_header: false, matches: 0, line: 1 };
    let mut splitter = RecordSplitter::new(separator, 1);
    let mut rest = text;
    let mut rows = 0;
    while rows < SAMPLE_ROWS && !rest.is_empty() {
        let line = splitter.line();
        // A file that cannot be split with this separator may be valid with another one.
        let Ok(end) = splitter.record_end(rest) else { break };
        if end.is_none() && !is_complete {
            break;
        }
        let Some((record, after)) = rest.split_at_checked(end.unwrap_or(rest.len())) else { break };
        rest = after;
        let Some(record) = std::str::from_utf8(record).ok().filter(|record| !is_blank(record, separator))
        else {
            continue;
        };
        rows = rows.saturating_add(1);
        let mut cells = Cells::new(record, separator);
        let first = cells.next().unwrap_or_default();
        if cells.next().is_none() {
            continue;
        }
        if rows == 1 {
            score.in_first = true;
            score.after_header = is_header(&first, recipients)
                && !Separator::ALL.iter().any(|other| first.contains(char::from(other.byte())));
        }
        if recipients.parse(&first).is_ok() {
            score.line = if score.matches == 0 { line } else { score.line };
            score.matches = score.matches.saturating_add(1);
        }
    }
    score
}
