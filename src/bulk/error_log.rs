//! What went wrong with the rows of a job, in the order in which it did: a log that only grows.
//!
//! An entry is its length in two bytes and a record. Readers keep their own place and never see half an entry: what a
//! crash left unfinished, or unmentioned by the result file, is cut off before the log grows again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use relevo_domain::{ProviderMessageId, Timestamp};
use relevo_store as store;

use super::results::{RowRecord, StoredId};

/// The longest text that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
const HEADER_BYTES: usize = 2;

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ErrorLogEntry {
    #[serde(rename = "r")]
    pub row: u32,
    #[serde(rename = "l")]
    pub line: u32,
    /// The recipient as the source spells it.
    #[serde(rename = "p")]
    pub phone: String,
    /// `None`: nothing went wrong; the entry keeps a long provider id.
    #[serde(rename = "e")]
    pub error: Option<String>,
    #[serde(rename = "c", default)]
    pub code: Option<i64>,
    #[serde(rename = "a", default)]
    pub ambiguous: bool,
    #[serde(rename = "t")]
    pub at: Timestamp,
    #[serde(rename = "d", default)]
    pub device: u8,
    #[serde(rename = "i", default)]
    pub id: Option<ProviderMessageId>,
}

#[derive(Debug)]
pub(super) struct ErrorLog {
    file: File,
    /// Something was written that is not synced.
    dirty: bool,
    /// Where the next entry goes.
    end: u64,
}

impl ErrorLog {
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)?;
        file.sync_all()?;
        Ok(Self { file, dirty: false, end: 0 })
    }

    /// For the one who writes. `last` is the last entry that the result file mentions; what follows it is cut off.
    pub fn open(path: &Path, last: Option<u64>) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = match last {
            Some(at) => at + HEADER_BYTES as u64 + u64::from(length_at(&file, at)?.unwrap_or(0)),
            None => 0,
        };
        if file.metadata()?.len() > end {
            file.set_len(end)?;
        }
        Ok(Self { file, dirty: false, end })
    }

    /// For those who read.
    pub fn read_only(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        Ok(Self { file, dirty: false, end })
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// What was added behind `end` is not wanted: the next entry goes there.
    pub fn rewind(&mut self, end: u64) {
        self.end = self.end.min(end);
    }

    /// Adds an entry and tells where it is; durable after [`sync`](Self::sync).
    pub fn append(&mut self, mut note: ErrorLogEntry) -> std::io::Result<u64> {
        note.error.iter_mut().for_each(truncate_text);
        truncate_text(&mut note.phone);
        let body = store::encode(&note).map_err(std::io::Error::other)?;
        let length = u16::try_from(body.len()).map_err(std::io::Error::other)?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(body);
        let at = self.end;
        self.dirty = true;
        self.file.write_all_at(&bytes, at)?;
        self.end = at + bytes.len() as u64;
        Ok(at)
    }

    /// Makes durable what was added since.
    pub fn sync(&mut self) -> std::io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }

    /// The entry at `at`, and where the next one begins. `None` where the log ends.
    pub fn get(&self, at: u64) -> std::io::Result<Option<(ErrorLogEntry, u64)>> {
        let Some(length) = length_at(&self.file, at)? else { return Ok(None) };
        let mut body = vec![0; usize::from(length)];
        let begins = at + HEADER_BYTES as u64;
        if begins + u64::from(length) > self.end {
            return Ok(None);
        }
        self.file.read_exact_at(&mut body, begins)?;
        let note = store::decode(&body).map_err(std::io::Error::other)?;
        Ok(Some((note, begins + u64::from(length))))
    }

    /// WhatsApp's id of a row, wherever it is kept.
    pub fn provider_id_of(&self, record: &RowRecord) -> std::io::Result<Option<ProviderMessageId>> {
        Ok(match (&record.provider_id, record.log_offset) {
            (StoredId::Inline(id), _) => Some(id.clone()),
            (StoredId::InErrorLog, Some(at)) => self.get(at)?.and_then(|(note, _)| note.id),
            (StoredId::InErrorLog, None) | (StoredId::None, _) => None,
        })
    }
}

/// Cuts a text that is too long between two letters.
fn truncate_text(text: &mut String) {
    let end = (0..=MAX_TEXT_BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
}

fn length_at(file: &File, at: u64) -> std::io::Result<Option<u16>> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, at) {
        Ok(()) => Ok(Some(u16::from_be_bytes(header))),
        Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(cause) => Err(cause),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn entry(row: u32, error: &str) -> ErrorLogEntry {
        ErrorLogEntry {
            row,
            line: row + 1,
            phone: "573001234567".to_owned(),
            error: Some(error.to_owned()),
            code: Some(131_026),
            ambiguous: false,
            at: Timestamp(5),
            device: 1,
            id: None,
        }
    }

    /// A note that keeps a long id.
    pub fn entry_with_long_id(row: u32, id: &ProviderMessageId) -> ErrorLogEntry {
        ErrorLogEntry { error: None, id: Some(id.clone()), ..entry(row, "") }
    }

    #[test]
    fn entries_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut notes = ErrorLog::create(&path).unwrap();
        let places: Vec<_> = (0..3).map(|row| notes.append(entry(row, "undeliverable")).unwrap()).collect();
        let reader = ErrorLog::read_only(&path).unwrap();
        let (first, next) = reader.get(0).unwrap().unwrap();
        assert_eq!((first, next), (entry(0, "undeliverable"), places[1]));
        assert_eq!(reader.get(places[2]).unwrap().unwrap().1, notes.end());
        assert_eq!(reader.get(notes.end()).unwrap(), None);
    }

    #[test]
    fn unreferenced_entries_are_truncated_on_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut notes = ErrorLog::create(&path).unwrap();
        let kept = notes.append(entry(0, "one")).unwrap();
        let lost = notes.append(entry(1, "two")).unwrap();
        let mut again = ErrorLog::open(&path, Some(kept)).unwrap();
        assert_eq!(again.end(), lost);
        assert_eq!(again.get(lost).unwrap(), None);
        assert_eq!(again.append(entry(2, "three")).unwrap(), lost);
        assert_eq!(ErrorLog::open(&path, None).unwrap().end(), 0);
    }

    #[test]
    fn long_text_is_truncated_at_a_char_boundary() {
        let dir = tempfile::tempdir().unwrap();
        let mut notes = ErrorLog::create(&dir.path().join("notes")).unwrap();
        notes.append(entry(0, &"ñ".repeat(5_000))).unwrap();
        let (back, _) = notes.get(0).unwrap().unwrap();
        assert_eq!(back.error.unwrap().len(), MAX_TEXT_BYTES);
    }
}
