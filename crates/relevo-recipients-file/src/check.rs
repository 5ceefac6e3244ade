//! The pass over a file while it streams in.

use serde::{Deserialize, Serialize};

use super::error::Foreign;
use super::scan::{Cells, Cutter, is_blank};
use super::sniff::{self, SAMPLE};
use super::{BadFile, Format, MAX_ROWS, MAX_SAMPLE, Place, Separator, phone};

/// What a file was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub format: Format,
    /// Rows, the bad ones too.
    pub rows: u32,
    /// Rows whose telephone is bad.
    pub bad: u32,
    /// The first [`MAX_SAMPLE`] of them.
    pub bad_sample: Vec<BadRow>,
}

/// A row that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// From 1, as an editor counts.
    pub line: u64,
    pub reason: String,
}

/// Checks a file that comes in pieces of any size. Holds one record (64 KiB) and the first 64 KiB at most, and
/// finds the same whatever the pieces are.
#[derive(Debug)]
pub struct Checker {
    max_rows: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The beginning, until there is enough of it to choose a separator.
    Sniffing(Vec<u8>),
    Reading(Box<Reading>),
}

impl Default for Checker {
    fn default() -> Self {
        Self::new(MAX_ROWS)
    }
}

impl Checker {
    /// `max_rows`: the most rows that are accepted.
    pub fn new(max_rows: u32) -> Self {
        Self { max_rows, stage: Stage::Sniffing(Vec::new()) }
    }

    /// Takes the next piece of the file. After an error the checker has nothing more to say.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), BadFile> {
        if let Stage::Sniffing(sample) = &mut self.stage {
            let missing = SAMPLE.saturating_sub(sample.len()).min(bytes.len());
            let (taken, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            sample.extend_from_slice(taken);
            bytes = rest;
            if sample.len() < SAMPLE {
                return Ok(());
            }
            let sample = std::mem::take(sample);
            self.stage = Stage::Reading(Reading::begin(&sample, false, self.max_rows)?);
        }
        match &mut self.stage {
            Stage::Reading(reading) => reading.push(bytes),
            Stage::Sniffing(_) => Ok(()),
        }
    }

    /// The file is complete.
    pub fn finish(self) -> Result<Checked, BadFile> {
        match self.stage {
            Stage::Sniffing(sample) => Reading::begin(&sample, true, self.max_rows)?.finish(),
            Stage::Reading(reading) => reading.finish(),
        }
    }
}

#[derive(Debug)]
struct Reading {
    max_rows: u32,
    separator: Separator,
    header: Option<Vec<String>>,
    /// Where rows begin, as far as that is known.
    start: Place,
    /// A record that is not blank was seen.
    begun: bool,
    cutter: Cutter,
    /// The beginning of a record whose end has not come yet.
    carry: Vec<u8>,
    /// Where the current record begins.
    place: Place,
    bad: u32,
    bad_sample: Vec<BadRow>,
}

impl Reading {
    fn begin(sample: &[u8], whole: bool, max_rows: u32) -> Result<Box<Self>, BadFile> {
        let (separator, start) = sniff::sniff(sample, whole)?;
        let mut reading = Box::new(Self {
            max_rows,
            separator,
            header: None,
            start,
            begun: false,
            cutter: Cutter::new(separator, start.line),
            carry: Vec::new(),
            place: start,
            bad: 0,
            bad_sample: Vec::new(),
        });
        let skipped = usize::try_from(start.offset).unwrap_or(usize::MAX);
        reading.push(sample.get(skipped..).unwrap_or_default())?;
        Ok(reading)
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), BadFile> {
        while let Some(end) = self.cutter.cut(bytes)? {
            let (record, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
            bytes = rest;
            if self.carry.is_empty() {
                self.take(record)?;
            } else {
                let mut carried = std::mem::take(&mut self.carry);
                carried.extend_from_slice(record);
                self.take(&carried)?;
                carried.clear();
                self.carry = carried;
            }
        }
        self.carry.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self) -> Result<Checked, BadFile> {
        self.cutter.finish()?;
        let last = std::mem::take(&mut self.carry);
        self.take(&last)?;
        match self.place.row {
            0 if self.header.is_some() => Err(BadFile::OnlyHeader),
            0 => Err(BadFile::Empty),
            rows => Ok(Checked {
                format: Format { separator: self.separator, header: self.header, start: self.start },
                rows,
                bad: self.bad,
                bad_sample: self.bad_sample,
            }),
        }
    }

    /// Judges one record, its line end included, and moves past it.
    fn take(&mut self, record: &[u8]) -> Result<(), BadFile> {
        let line = self.place.line;
        let text = text(record, line)?;
        self.place.offset = self.place.offset.saturating_add(record.len() as u64);
        self.place.line = self.cutter.line();
        if is_blank(text, self.separator) {
            return Ok(());
        }
        let first = Cells::of(text, self.separator).next().unwrap_or_default();
        if !std::mem::replace(&mut self.begun, true) && sniff::is_header(&first) {
            self.header = Some(Cells::of(text, self.separator).map(String::from).collect());
            self.start = self.place;
            return Ok(());
        }
        if self.place.row >= self.max_rows {
            return Err(BadFile::TooManyRows { limit: self.max_rows, line });
        }
        self.place.row = self.place.row.saturating_add(1);
        if let Err(bad) = phone::read(&first) {
            self.bad = self.bad.saturating_add(1);
            if self.bad_sample.len() < MAX_SAMPLE {
                self.bad_sample.push(BadRow { line, reason: bad.to_string() });
            }
        }
        Ok(())
    }
}

/// The record as text, or where it stops being text.
fn text(record: &[u8], line: u64) -> Result<&str, BadFile> {
    let (valid, bad) = match std::str::from_utf8(record) {
        Ok(text) => (text, None),
        Err(error) => {
            let (valid, rest) = record.split_at_checked(error.valid_up_to()).unwrap_or((record, &[]));
            (std::str::from_utf8(valid).unwrap_or_default(), rest.first().copied().map(Foreign::Byte))
        }
    };
    let zero = valid.split_once('\0').map(|(before, _)| (before, Foreign::Zero));
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
