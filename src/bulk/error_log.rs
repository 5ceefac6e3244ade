//! The error log of a job: an append-only file of the errors of its rows, in the order in which they occurred.
//!
//! An entry is its length (two bytes), a record, and the first four bytes of the record's SHA-256. Entries of earlier
//! versions have no digest, and the highest bit of their length is not set. Readers keep their own offset and never see a partial entry: an entry
//! that a crash left incomplete, or that the result file does not refer to, is truncated before the log grows again.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use relevo_domain::{ProviderMessageId, Timestamp};
use relevo_store as store;

use super::row_record::{RowRecord, StoredId};

/// Maximum length of a stored text, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// Size of an entry's length field.
const HEADER_BYTES: usize = 2;
/// In the length field: a digest follows the record.
const HAS_DIGEST: u16 = 1 << 15;
/// Size of the digest of a record.
const DIGEST_BYTES: usize = 4;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ErrorLogEntry {
    #[serde(rename = "r")]
    pub row: u32,
    #[serde(rename = "l")]
    pub line: u32,
    /// The recipient as the source spells it.
    #[serde(rename = "p")]
    pub phone: String,
    /// `None`: not an error; the entry stores a provider id that is too long for the result file.
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

/// The file of the log.
#[derive(Debug)]
pub(super) struct ErrorLog {
    file: File,
    /// Whether entries were written since the last sync.
    dirty: bool,
    /// Offset of the next entry.
    end: u64,
}

impl ErrorLog {
    /// Creates an empty log.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)?;
        file.sync_all()?;
        Ok(Self { file, dirty: false, end: 0 })
    }

    /// Opens the log for writing. `last` is the last entry that the result file refers to; later entries are truncated.
    pub fn open(path: &Path, last: Option<u64>) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let end = match last {
            Some(last) => last + length_at(&file, last)?.map_or(HEADER_BYTES as u64, EntryLength::total),
            None => 0,
        };
        if file.metadata()?.len() > end {
            file.set_len(end)?;
        }
        Ok(Self { file, dirty: false, end })
    }

    /// Opens the log for reading.
    pub fn read_only(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        Ok(Self { file, dirty: false, end })
    }

    /// Offset of the next entry.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Discards entries after `end`; the next entry is written there.
    pub fn rewind(&mut self, end: u64) {
        self.end = self.end.min(end);
    }

    /// Appends an entry and returns its offset. It is durable after [`sync`](Self::sync).
    pub fn append(&mut self, mut entry: ErrorLogEntry) -> std::io::Result<u64> {
        if let Some(error) = &mut entry.error {
            truncate_text(error);
        }
        truncate_text(&mut entry.phone);
        let body = store::encode(&entry).map_err(std::io::Error::other)?;
        let length = u16::try_from(body.len()).map_err(std::io::Error::other)?;
        let mut bytes = (length | HAS_DIGEST).to_be_bytes().to_vec();
        bytes.extend(&body);
        bytes.extend(digest(&body));
        let offset = self.end;
        self.dirty = true;
        self.file.write_all_at(&bytes, offset)?;
        self.end = offset + bytes.len() as u64;
        Ok(offset)
    }

    /// Makes the appended entries durable.
    pub fn sync(&mut self) -> std::io::Result<()> {
        if self.dirty {
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }

    /// The entry at `offset`, and the offset of the next one. `None` at the end of the log.
    pub fn get(&self, offset: u64) -> std::io::Result<Option<(ErrorLogEntry, u64)>> {
        let Some(length) = length_at(&self.file, offset)? else { return Ok(None) };
        let next = offset + length.total();
        if next > self.end {
            return Ok(None);
        }
        let mut bytes = vec![0; length.body + length.digest];
        self.file.read_exact_at(&mut bytes, offset + HEADER_BYTES as u64)?;
        let (body, stored) = bytes.split_at(length.body);
        if !stored.is_empty() && *stored != digest(body) {
            let text = format!("the entry at {offset} of the error log is damaged");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
        }
        let entry = store::decode(body).map_err(std::io::Error::other)?;
        Ok(Some((entry, next)))
    }

    /// The provider message id of a row, from its record or from the log.
    pub fn provider_id_of(&self, record: &RowRecord) -> std::io::Result<Option<ProviderMessageId>> {
        Ok(match (&record.provider_id, record.log_offset) {
            (StoredId::Inline(id), _) => Some(id.clone()),
            (StoredId::InErrorLog, Some(offset)) => self.get(offset)?.and_then(|(entry, _)| entry.id),
            (StoredId::InErrorLog, None) | (StoredId::None, _) => None,
        })
    }
}

/// Truncates a text to [`MAX_TEXT_BYTES`], at a character boundary.
fn truncate_text(text: &mut String) {
    let end = (0..=MAX_TEXT_BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
}

/// The lengths of the parts of an entry.
#[derive(Debug, Clone, Copy)]
struct EntryLength {
    body: usize,
    digest: usize,
}

impl EntryLength {
    fn total(self) -> u64 {
        (HEADER_BYTES + self.body + self.digest) as u64
    }
}

/// The length of the entry at `offset`; `None` at the end of the file.
fn length_at(file: &File, offset: u64) -> std::io::Result<Option<EntryLength>> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, offset) {
        Ok(()) => {
            let field = u16::from_be_bytes(header);
            let digest = if field & HAS_DIGEST == 0 { 0 } else { DIGEST_BYTES };
            Ok(Some(EntryLength { body: usize::from(field & !HAS_DIGEST), digest }))
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// The first bytes of the SHA-256 of a record.
fn digest(body: &[u8]) -> [u8; DIGEST_BYTES] {
    let hash: [u8; 32] = Sha256::digest(body).into();
    hash.first_chunk().copied().unwrap_or_default()
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

    /// An entry that stores a long provider id.
    pub fn entry_with_long_id(row: u32, id: &ProviderMessageId) -> ErrorLogEntry {
        ErrorLogEntry { error: None, id: Some(id.clone()), ..entry(row, "") }
    }

    #[test]
    fn entries_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut log = ErrorLog::create(&path).unwrap();
        let offsets: Vec<_> = (0..3).map(|row| log.append(entry(row, "undeliverable")).unwrap()).collect();
        let reader = ErrorLog::read_only(&path).unwrap();
        let (first, next) = reader.get(0).unwrap().unwrap();
        assert_eq!((first, next), (entry(0, "undeliverable"), offsets[1]));
        assert_eq!(reader.get(offsets[2]).unwrap().unwrap().1, log.end());
        assert_eq!(reader.get(log.end()).unwrap(), None);
    }

    #[test]
    fn unreferenced_entries_are_truncated_on_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut log = ErrorLog::create(&path).unwrap();
        let referenced = log.append(entry(0, "one")).unwrap();
        let truncated = log.append(entry(1, "two")).unwrap();
        let mut reopened = ErrorLog::open(&path, Some(referenced)).unwrap();
        assert_eq!(reopened.end(), truncated);
        assert_eq!(reopened.get(truncated).unwrap(), None);
        assert_eq!(reopened.append(entry(2, "three")).unwrap(), truncated);
        assert_eq!(ErrorLog::open(&path, None).unwrap().end(), 0);
    }

    #[test]
    fn damaged_entry_is_an_error_and_an_entry_without_a_digest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut log = ErrorLog::create(&path).unwrap();
        log.append(entry(0, "one")).unwrap();
        let written = std::fs::read(&path).unwrap();
        for at in HEADER_BYTES..written.len() {
            let mut damaged = written.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, damaged).unwrap();
            assert!(ErrorLog::read_only(&path).unwrap().get(0).is_err(), "{at}");
        }
        let body = &written[HEADER_BYTES..written.len() - DIGEST_BYTES];
        let old = [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
        std::fs::write(&path, &old).unwrap();
        let (back, next) = ErrorLog::read_only(&path).unwrap().get(0).unwrap().unwrap();
        assert_eq!((back, next), (entry(0, "one"), old.len() as u64));
    }

    #[test]
    fn long_text_is_truncated_at_a_char_boundary() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = ErrorLog::create(&dir.path().join("notes")).unwrap();
        log.append(entry(0, &"ñ".repeat(5_000))).unwrap();
        let (back, _) = log.get(0).unwrap().unwrap();
        assert_eq!(back.error.unwrap().len(), MAX_TEXT_BYTES);
    }
}
