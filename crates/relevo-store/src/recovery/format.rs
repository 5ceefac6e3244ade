//! The encoding of sled's numbers, message headers and segment headers.

/// Size of a segment, the unit in which sled allocates its file (its default; the store does not change it).
pub(super) const SEGMENT_SIZE: u64 = 512 * 1024;

/// Size of the header at the start of a segment.
pub(super) const SEGMENT_HEADER: usize = 20;

/// Maximum size of a message's header. No message begins closer than this to the end of its segment.
pub(super) const MAX_MESSAGE_HEADER: u64 = 32;

/// Number of bytes that sled reads for a message's header. Bytes behind the end of the file are zero.
const HEADER_WINDOW: usize = 128;

/// Position in the log. It only grows; segments of the file are reused for new positions.
pub(super) type Lsn = i64;

/// Reads sled's encoding from a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A number in one to nine bytes.
    pub fn varint(&mut self) -> Option<u64> {
        let first = self.u8()?;
        match first {
            0..=240 => Some(u64::from(first)),
            241..=248 => Some(240 + 256 * (u64::from(first) - 241) + u64::from(self.u8()?)),
            249 => {
                let [high, low] = self.array()?;
                Some(2288 + 256 * u64::from(high) + u64::from(low))
            }
            250..=255 => {
                let size = usize::from(first) - 247;
                let mut number = [0; 8];
                number.get_mut(..size)?.copy_from_slice(self.bytes(size)?);
                Some(u64::from_le_bytes(number))
            }
        }
    }

    /// Bytes that are preceded by their number.
    pub fn counted_bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.varint()?).ok()?;
        self.bytes(count)
    }

    /// An optional position: zero is none, other positions are stored plus one.
    pub fn optional_lsn(&mut self) -> Option<Option<Lsn>> {
        Some(match self.i64()? {
            0 => None,
            negative @ ..0 => Some(negative),
            shifted => Some(shifted - 1),
        })
    }

    /// An optional offset, stored like [`optional_lsn`](Self::optional_lsn) in a varint.
    pub fn optional_offset(&mut self) -> Option<Option<u64>> {
        self.varint().map(|shifted| shifted.checked_sub(1))
    }
}

/// The kind of a message, with the names that sled uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    Corrupted,
    Canceled,
    Cap,
    BatchManifest,
    Free,
    Counter,
    Meta,
    Node,
    Link,
}

/// The header of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageHeader {
    crc: u32,
    pub kind: MessageKind,
    /// The contents are in a file of their own, and the message holds the number of that file.
    pub is_blob: bool,
    pub segment_number: u64,
    pub page: u64,
    pub body_len: u64,
    /// Size of the header itself.
    pub len: usize,
}

/// A window over the bytes of a message's header, filled with zeros behind the end of the file.
pub(super) struct HeaderWindow([u8; HEADER_WINDOW]);

impl HeaderWindow {
    /// `available`: the bytes of the file from the start of the message on.
    pub fn new(available: &[u8]) -> Self {
        let mut window = [0; HEADER_WINDOW];
        window.iter_mut().zip(available).for_each(|(target, byte)| *target = *byte);
        Self(window)
    }

    pub fn header(&self) -> Option<MessageHeader> {
        let mut reader = Reader::new(&self.0);
        let (crc, kind) = (reader.u32()?, reader.u8()?);
        let (body_len, segment_number, page) = (reader.varint()?, reader.varint()?, reader.varint()?);
        let (kind, is_blob) = match kind {
            1 => (MessageKind::Canceled, false),
            2 => (MessageKind::Cap, false),
            3 => (MessageKind::BatchManifest, false),
            4 => (MessageKind::Free, false),
            5 => (MessageKind::Counter, false),
            6 | 7 => (MessageKind::Meta, kind == 7),
            8 | 9 => (MessageKind::Node, kind == 9),
            10 | 11 => (MessageKind::Link, kind == 11),
            _ => (MessageKind::Corrupted, false),
        };
        let len = HEADER_WINDOW - reader.0.len();
        Some(MessageHeader { crc, kind, is_blob, segment_number, page, body_len, len })
    }

    /// The body, if it ends inside the window.
    pub fn body(&self, header: &MessageHeader) -> Option<&[u8]> {
        let len = usize::try_from(header.body_len).ok()?;
        self.0.get(header.len..header.len.checked_add(len)?)
    }

    /// Whether the checksum over header and body holds.
    pub fn verify(&self, header: &MessageHeader, body: &[u8]) -> bool {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(body);
        hasher.update(self.0.get(4..header.len).unwrap_or_default());
        hasher.finalize() ^ u32::MAX == header.crc
    }
}

/// The header of a segment whose checksum held.
#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentHeader {
    /// Position of the segment's first byte.
    pub lsn: Lsn,
    /// The position up to which the log was on the disk when the segment was begun.
    pub max_stable_lsn: Lsn,
}

impl SegmentHeader {
    pub fn parse(bytes: &[u8; SEGMENT_HEADER]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let crc = reader.u32()? ^ u32::MAX;
        let (lsn, max_stable_lsn) = (reader.i64()? ^ i64::MAX, reader.i64()? ^ i64::MAX);
        let [_, _, _, _, covered @ ..] = bytes;
        (crc32fast::hash(covered) == crc).then_some(Self { lsn, max_stable_lsn })
    }
}

/// The number of the segment that holds a position.
pub(super) fn segment_number(lsn: Lsn) -> u64 {
    u64::try_from(lsn).unwrap_or(0) / SEGMENT_SIZE
}

/// The position of the first byte of the segment that holds a position.
pub(super) fn segment_start(lsn: Lsn) -> Lsn {
    lsn / SIZE * SIZE
}

/// [`SEGMENT_SIZE`] for arithmetic with positions.
pub(super) const SIZE: Lsn = SEGMENT_SIZE as Lsn;
