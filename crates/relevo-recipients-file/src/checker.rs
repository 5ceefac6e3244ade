//! The check of a file while it streams in: counts rows, finds bad phone numbers, and refuses files that cannot be read.

use relevo_domain::{PlanMismatch, Recipient, RecipientParser};
use serde::{Deserialize, Serialize};

use super::dialect::{self, SAMPLE_BYTES};
use super::error::EncodingFault;
use super::parser::{Cells, RecordSplitter, is_blank};
use super::{BadFile, Format, MAX_ROWS, MAX_SAMPLE, Position, Separator};

/// The result of a successful check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSummary {
    /// How the rows are read later.
    pub format: Format,
    /// Number of rows, including the bad ones.
    pub rows: u32,
    /// Number of rows whose phone number is bad.
    pub bad: u32,
    /// The first [`MAX_SAMPLE`] bad rows.
    pub bad_sample: Vec<BadRow>,
    /// Number of rows whose phone number is outside the plan of its country.
    pub unusual: u32,
    /// The first [`MAX_SAMPLE`] of these rows.
    pub unusual_sample: Vec<UnusualRow>,
}

/// A row whose phone number is outside the plan of its country. It is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusualRow {
    /// Line of the file, from 1, as an editor counts.
    pub line: u64,
    /// The number, and its country.
    pub mismatch: PlanMismatch,
}

/// A row whose phone number is bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Line of the file, from 1, as an editor counts.
    pub line: u64,
    /// Why the phone number is bad.
    pub reason: String,
}

/// Checks a file that arrives in pieces of any size. It buffers at most one record (64 KiB) or the first 64 KiB of the
/// file. The result does not depend on the sizes of the pieces.
#[derive(Debug)]
pub struct Checker {
    max_rows: u32,
    recipients: RecipientParser,
    stage: CheckStage,
}

#[derive(Debug)]
enum CheckStage {
    /// The beginning of the file, until it suffices to choose a separator.
    Sample(Vec<u8>),
    Rows(Box<RowChecker>),
}

impl Default for Checker {
    fn default() -> Self {
        Self::new(MAX_ROWS, RecipientParser::default())
    }
}

impl Checker {
    /// A checker that refuses files with more than `max_rows` rows.
    pub fn new(max_rows: u32, recipients: RecipientParser) -> Self {
        Self { max_rows, recipients, stage: CheckStage::Sample(Vec::new()) }
    }

    /// Checks the next piece of the file.
    ///
    /// # Errors
    ///
    /// The reason why the whole file is refused. The checker must not be used after an error.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), BadFile> {
        if let CheckStage::Sample(sample) = &mut self.stage {
            let missing = SAMPLE_BYTES.saturating_sub(sample.len()).min(bytes.len());
            let (taken, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            sample.extend_from_slice(taken);
            bytes = rest;
            if sample.len() < SAMPLE_BYTES {
                return Ok(());
            }
            let sample = std::mem::take(sample);
            self.stage = CheckStage::Rows(RowChecker::new(&sample, false, self.max_rows, self.recipients)?);
        }
        match &mut self.stage {
            CheckStage::Rows(rows) => rows.push(bytes),
            CheckStage::Sample(_) => Ok(()),
        }
    }

    /// Ends the check of a complete file.
    ///
    /// # Errors
    ///
    /// The reason why the whole file is refused, for example [`BadFile::Empty`].
    pub fn finish(self) -> Result<FileSummary, BadFile> {
        match self.stage {
            CheckStage::Sample(sample) => {
                RowChecker::new(&sample, true, self.max_rows, self.recipients)?.finish()
            }
            CheckStage::Rows(rows) => rows.finish(),
        }
    }
}

#[derive(Debug)]
struct RowChecker {
    max_rows: u32,
    recipients: RecipientParser,
    separator: Separator,
    header: Option<Vec<String>>,
    /// Where the first row begins, as far as it is known.
    start: Position,
    /// Whether a record that is not blank was checked.
    seen_first_record: bool,
    splitter: RecordSplitter,
    /// The beginning of a record whose end has not arrived yet.
    partial_record: Vec<u8>,
    /// Where the current record begins.
    position: Position,
    bad: u32,
    bad_sample: Vec<BadRow>,
    unusual: u32,
    unusual_sample: Vec<UnusualRow>,
}

impl RowChecker {
    fn new(
        sample: &[u8],
        is_complete: bool,
        max_rows: u32,
        recipients: RecipientParser,
    ) -> Result<Box<Self>, BadFile> {
        let (separator, start) = dialect::detect_dialect(sample, is_complete, recipients)?;
        let mut checker = Box::new(Self {
            max_rows,
            recipients,
            separator,
            header: None,
            start,
            seen_first_record: false,
            splitter: RecordSplitter::new(separator, start.line),
            partial_record: Vec::new(),
            position: start,
            bad: 0,
            bad_sample: Vec::new(),
            unusual: 0,
            unusual_sample: Vec::new(),
        });
        let skipped = usize::try_from(start.offset).unwrap_or(usize::MAX);
        checker.push(sample.get(skipped..).unwrap_or_default())?;
        Ok(checker)
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), BadFile> {
        while let Some(end) = self.splitter.record_end(bytes)? {
            let (record, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
            bytes = rest;
            if self.partial_record.is_empty() {
                self.check_record(record)?;
            } else {
                let mut carried = std::mem::take(&mut self.partial_record);
                carried.extend_from_slice(record);
                self.check_record(&carried)?;
                carried.clear();
                self.partial_record = carried;
            }
        }
        self.partial_record.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self) -> Result<FileSummary, BadFile> {
        self.splitter.finish()?;
        let last = std::mem::take(&mut self.partial_record);
        self.check_record(&last)?;
        match self.position.row {
            0 if self.header.is_some() => Err(BadFile::OnlyHeader),
            0 => Err(BadFile::Empty),
            rows => Ok(FileSummary {
                format: Format {
                    separator: self.separator,
                    header: self.header,
                    start: self.start,
                    recipients: self.recipients,
                },
                rows,
                bad: self.bad,
                bad_sample: self.bad_sample,
                unusual: self.unusual,
                unusual_sample: self.unusual_sample,
            }),
        }
    }

    /// Checks one record, including its line end, and moves past it.
    fn check_record(&mut self, record: &[u8]) -> Result<(), BadFile> {
        let line = self.position.line;
        let text = decode_text(record, line)?;
        self.position.offset = self.position.offset.saturating_add(record.len() as u64);
        self.position.line = self.splitter.line();
        if is_blank(text, self.separator) {
            return Ok(());
        }
        let first = Cells::new(text, self.separator).next().unwrap_or_default();
        if !std::mem::replace(&mut self.seen_first_record, true)
            && dialect::is_header(&first, self.recipients)
        {
            self.header = Some(Cells::new(text, self.separator).map(String::from).collect());
            self.start = self.position;
            return Ok(());
        }
        if self.position.row >= self.max_rows {
            return Err(BadFile::TooManyRows { limit: self.max_rows, line });
        }
        self.position.row = self.position.row.saturating_add(1);
        match self.recipients.parse(&first) {
            Err(bad) => {
                self.bad = self.bad.saturating_add(1);
                if self.bad_sample.len() < MAX_SAMPLE {
                    self.bad_sample.push(BadRow { line, reason: bad.reason });
                }
            }
            Ok(recipient) => self.check_plan(line, &recipient),
        }
        Ok(())
    }

    fn check_plan(&mut self, line: u64, recipient: &Recipient) {
        let Some(mismatch) = recipient.phone().and_then(|phone| phone.plan_mismatch()) else { return };
        self.unusual = self.unusual.saturating_add(1);
        if self.unusual_sample.len() < MAX_SAMPLE {
            self.unusual_sample.push(UnusualRow { line, mismatch });
        }
    }
}

/// Decodes a record as UTF-8 text. The error has the line and column of the first bad byte.
fn decode_text(record: &[u8], line: u64) -> Result<&str, BadFile> {
    let (valid, bad) = match std::str::from_utf8(record) {
        Ok(text) => (text, None),
        Err(error) => {
            let (valid, rest) = record.split_at_checked(error.valid_up_to()).unwrap_or((record, &[]));
            (std::str::from_utf8(valid).unwrap_or_default(), rest.first().copied().map(EncodingFault::Byte))
        }
    };
    let zero = valid.split_once('\0').map(|(before, _)| (before, EncodingFault::NulByte));
    let Some((before, found)) = zero.or(bad.map(|found| (valid, found))) else { return Ok(valid) };
    let breaks = before.replace("\r\n", "\n");
    let mut lines = breaks.split(['\n', '\r']);
    let last = lines.next_back().unwrap_or_default();
    Err(BadFile::Encoding {
        line: line.saturating_add(lines.count() as u64),
        column: (last.chars().count() as u64).saturating_add(1),
        found,
    })
}
