//! sled's snapshot file: the page table at the last start, with a checksum over all of it.

use std::fs;
use std::io;
use std::path::Path;

use super::RecoveryError;
use super::format::{Lsn, Reader};

/// The page table as of a position of the log.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The position behind the last message that the table contains; none in an empty database.
    pub stable_lsn: Option<Lsn>,
    pub pages: Vec<PageState>,
}

/// Where the parts of a page are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PageState {
    /// The page itself, and the changes that were appended to it since, oldest first.
    Present {
        base: Location,
        links: Vec<Location>,
    },
    Free(Location),
    /// The log names the page, and no message of it was found.
    Uninitialized,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub lsn: Lsn,
    pub offset: u64,
    /// The number of the file that holds the contents, if they are not in the log.
    pub blob: Option<Lsn>,
}

/// Reads the newest snapshot; none when there is no snapshot file.
pub(super) fn read_newest(db: &Path) -> Result<Option<Snapshot>, RecoveryError> {
    let mut newest = None;
    for entry in fs::read_dir(db)? {
        let name = entry?.file_name();
        let Some(text) = name.to_str() else { continue };
        // The store removes unfinished snapshots before sled opens the folder.
        let is_snapshot = text.starts_with("snap.") && !text.ends_with(".generating");
        if is_snapshot && newest.as_ref().is_none_or(|newest| *newest < name) {
            newest = Some(name);
        }
    }
    let Some(name) = newest else { return Ok(None) };
    let file = fs::read(db.join(&name))?;
    let name = name.to_string_lossy();
    let parsed = parse(&file);
    parsed
        .map(Some)
        .ok_or_else(|| RecoveryError::damaged(format!("the checksum of the file {name} does not hold")))
}

fn parse(file: &[u8]) -> Option<Snapshot> {
    let (rest, crc) = file.split_last_chunk::<4>()?;
    let (body, _length) = rest.split_last_chunk::<8>()?;
    if body.is_empty() || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut reader = Reader::new(body);
    let (stable_lsn, _active_segment) = (reader.optional_lsn()?, reader.optional_offset()?);
    let mut pages = Vec::new();
    while !reader.is_empty() {
        pages.push(page_state(&mut reader)?);
    }
    Some(Snapshot { stable_lsn, pages })
}

fn page_state(reader: &mut Reader) -> Option<PageState> {
    match reader.u8()? {
        0 => {
            let lsn = reader.i64()?;
            Some(PageState::Free(location(lsn, reader)?))
        }
        parts => {
            let base = sized_location(reader)?;
            let links = (1..parts).map(|_| sized_location(reader)).collect::<Option<_>>()?;
            Some(PageState::Present { base, links })
        }
    }
}

/// A location, followed by the size of the message.
fn sized_location(reader: &mut Reader) -> Option<Location> {
    let lsn = reader.i64()?;
    let location = location(lsn, reader)?;
    reader.varint()?;
    Some(location)
}

fn location(lsn: Lsn, reader: &mut Reader) -> Option<Location> {
    let is_blob = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let offset = reader.varint()?;
    let blob = if is_blob { Some(reader.i64()?) } else { None };
    Some(Location { lsn, offset, blob })
}

/// Reads the contents of a file of sled's folder `blobs`. None when it does not exist.
///
/// # Errors
/// [`RecoveryError::Damaged`] when its checksum does not hold.
pub(super) fn read_blob(db: &Path, number: Lsn) -> Result<Option<Vec<u8>>, RecoveryError> {
    let file = match fs::read(db.join("blobs").join(number.to_string())) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cause.into()),
    };
    let kind_and_contents = file
        .split_first_chunk::<4>()
        .filter(|(crc, rest)| crc32fast::hash(rest) == u32::from_le_bytes(**crc));
    match kind_and_contents.and_then(|(_, rest)| rest.split_first()) {
        Some((_kind, contents)) => Ok(Some(contents.to_vec())),
        None => Err(RecoveryError::damaged(format!("the checksum of the file blobs/{number} does not hold"))),
    }
}
