//! The log: its segments in the order of their positions, and their messages up to the first one that is torn.
//!
//! The functions follow sled's `iterator.rs` step by step, because the store must see what sled will see.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::RecoveryError;
use super::format::{
    HeaderWindow, Lsn, MAX_MESSAGE_HEADER, MessageKind, Reader, SEGMENT_HEADER, SEGMENT_SIZE, SIZE,
    SegmentHeader, segment_number, segment_start,
};
use super::snapshot::{Location, read_blob};

/// A message that changes a page.
pub(super) struct PageMessage {
    pub kind: MessageKind,
    pub page: u64,
    pub location: Location,
}

/// Reads the messages of segments in order.
pub(super) struct LogReader<'a> {
    file: &'a File,
    db: &'a Path,
    /// Segments that are not read yet.
    segments: BTreeMap<Lsn, u64>,
    /// The segment that is being read.
    segment: Option<Segment>,
    /// The last position that is read.
    max_lsn: Option<Lsn>,
    next_lsn: Option<Lsn>,
    /// A torn message ends its segment only, not the log: its position is known to be complete.
    skips_torn: bool,
}

struct Segment {
    offset: u64,
    bytes: Vec<u8>,
}

/// A message as it stands in a segment.
enum Parsed {
    Page {
        message: PageMessage,
        size: Lsn,
    },
    BatchManifest {
        last: Lsn,
        size: Lsn,
    },
    /// Nothing that recovery uses.
    Ignored {
        size: Lsn,
    },
    EndOfSegment,
    Torn,
    /// The file ends inside the message.
    Unreadable,
}

impl<'a> LogReader<'a> {
    /// A reader of the messages from `from` on.
    pub fn new(file: &'a File, db: &'a Path, from: Lsn) -> Result<Self, RecoveryError> {
        let first = segment_start(from);
        let (segments, max_stable_lsn) = scan_segments(file, first)?;
        let end = end_of_tail(file, db, &segments, max_stable_lsn)?;
        Ok(Self { file, db, segments, segment: None, max_lsn: Some(end), next_lsn: None, skips_torn: true })
    }

    /// The position behind the last message that was read; none before the first segment.
    pub fn position(&self) -> Option<Lsn> {
        self.next_lsn
    }

    /// The last position that is read.
    pub fn max_lsn(&self) -> Option<Lsn> {
        self.max_lsn
    }

    /// Whether the reader stands inside a segment.
    pub fn is_in_segment(&self) -> bool {
        self.segment.is_some()
    }

    /// The next message that changes a page; none at the end of the log.
    pub fn next(&mut self) -> Result<Option<PageMessage>, RecoveryError> {
        loop {
            let offset_in_segment = u64::try_from(self.next_lsn.unwrap_or(0)).unwrap_or(0) % SEGMENT_SIZE;
            let fits =
                (SEGMENT_HEADER as u64..=SEGMENT_SIZE - MAX_MESSAGE_HEADER).contains(&offset_in_segment);
            if !fits {
                self.segment = None;
            }
            if self.segment.is_none() && !self.read_segment()? {
                return Ok(None);
            }
            let (Some(segment), Some(lsn)) = (&self.segment, self.next_lsn) else { return Ok(None) };
            if self.max_lsn.is_some_and(|max| lsn > max) {
                return Ok(None);
            }
            match parse(segment, lsn, self.db)? {
                Parsed::Page { message, size } => {
                    self.next_lsn = Some(lsn + size);
                    return Ok(Some(message));
                }
                Parsed::BatchManifest { last, size } => {
                    if self.max_lsn.is_some_and(|max| last > max) {
                        return Ok(None);
                    }
                    self.next_lsn = Some(lsn + size);
                }
                Parsed::Ignored { size } => self.next_lsn = Some(lsn + size),
                Parsed::EndOfSegment => self.segment = None,
                Parsed::Torn if self.skips_torn => self.segment = None,
                Parsed::Torn | Parsed::Unreadable => return Ok(None),
            }
        }
    }

    /// Loads the next segment; false when there is none.
    fn read_segment(&mut self) -> Result<bool, RecoveryError> {
        let Some((&lsn, &offset)) = self.segments.first_key_value() else { return Ok(false) };
        if self.max_lsn.is_some_and(|max| lsn > max) {
            return Ok(false);
        }
        self.segments.remove(&lsn);
        let mut bytes = vec![0; SEGMENT_SIZE as usize];
        let count = read_up_to(self.file, &mut bytes, offset)?;
        bytes.truncate(count);
        self.next_lsn = Some(lsn + SEGMENT_HEADER as Lsn);
        self.segment = Some(Segment { offset, bytes });
        Ok(true)
    }
}

fn parse(segment: &Segment, lsn: Lsn, db: &Path) -> Result<Parsed, RecoveryError> {
    let at = usize::try_from(lsn % SIZE).unwrap_or(0);
    let Some(available) = segment.bytes.get(at..) else { return Ok(Parsed::Unreadable) };
    let window = HeaderWindow::new(available);
    let Some(header) = window.header() else { return Ok(Parsed::Torn) };
    let room = SEGMENT_SIZE.saturating_sub((at + header.len) as u64);
    if header.body_len > room || header.kind == MessageKind::Corrupted {
        return Ok(Parsed::Torn);
    }
    let body = match window.body(&header) {
        Some(body) => body,
        None => {
            let end = at + header.len + usize::try_from(header.body_len).unwrap_or(usize::MAX);
            match segment.bytes.get(at + header.len..end) {
                Some(body) => body,
                None => return Ok(Parsed::Unreadable),
            }
        }
    };
    if !window.verify(&header, body) || header.segment_number != segment_number(lsn) {
        return Ok(Parsed::Torn);
    }
    let size = header.len as Lsn + Lsn::try_from(header.body_len).unwrap_or(0);
    let blob = if header.is_blob {
        let Some(number) = Reader::new(body).i64() else { return Ok(Parsed::Unreadable) };
        match read_blob(db, number) {
            Ok(Some(_)) => Some(number),
            // The page was written again since, and sled has removed the file.
            Ok(None) => return Ok(Parsed::Ignored { size }),
            Err(RecoveryError::Damaged(_)) => return Ok(Parsed::Unreadable),
            Err(cause) => return Err(cause),
        }
    } else {
        None
    };
    Ok(match header.kind {
        MessageKind::Canceled => Parsed::Ignored { size },
        MessageKind::Cap => Parsed::EndOfSegment,
        MessageKind::BatchManifest => match Reader::new(body).i64() {
            Some(last) => Parsed::BatchManifest { last, size },
            None => Parsed::Unreadable,
        },
        kind => {
            let location = Location { lsn, offset: segment.offset + at as u64, blob };
            Parsed::Page { message: PageMessage { kind, page: header.page, location }, size }
        }
    })
}

/// The segments whose position is `first` or higher, and the highest position that one of them calls stable.
fn scan_segments(file: &File, first: Lsn) -> Result<(BTreeMap<Lsn, u64>, Lsn), RecoveryError> {
    let len = file.metadata()?.len();
    let (mut segments, mut max_stable_lsn) = (BTreeMap::new(), first);
    let mut offset = 0;
    while offset + SEGMENT_HEADER as u64 <= len {
        let mut bytes = [0; SEGMENT_HEADER];
        file.read_exact_at(&mut bytes, offset)?;
        if let Some(header) = SegmentHeader::parse(&bytes).filter(|header| header.lsn >= first) {
            if header.lsn % SIZE != 0 {
                return Err(RecoveryError::damaged(format!("the segment at {offset} has a wrong position")));
            }
            max_stable_lsn = max_stable_lsn.max(header.max_stable_lsn);
            if let Some(other) = segments.insert(header.lsn, offset) {
                let text = format!("the segments at {other} and {offset} have the same position");
                return Err(RecoveryError::damaged(text));
            }
        }
        offset += SEGMENT_SIZE;
    }
    Ok((segments, max_stable_lsn))
}

/// The position of the last byte of the contiguous messages in the segments that were not yet called stable.
fn end_of_tail(
    file: &File,
    db: &Path,
    segments: &BTreeMap<Lsn, u64>,
    max_stable_lsn: Lsn,
) -> Result<Lsn, RecoveryError> {
    let lowest = segment_start(max_stable_lsn).max(0);
    let (mut expected, mut missing, mut tail) = (lowest, None, BTreeMap::new());
    for (&lsn, &offset) in segments.range(lowest..) {
        if lsn != expected {
            missing = Some(expected);
            break;
        }
        tail.insert(lsn, offset);
        expected += SIZE;
    }
    let mut reader = LogReader {
        file,
        db,
        segments: tail,
        segment: None,
        max_lsn: missing,
        next_lsn: None,
        skips_torn: false,
    };
    while reader.next()?.is_some() {}
    Ok(reader.next_lsn.unwrap_or(0) - 1)
}

/// Reads until the buffer is full or the file ends; returns the number of bytes.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(count)
}
