/// The key spaces of the tree. One byte each, all in one place, so that no two rooms can ever meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Space {
    /// Jobs not yet settled. instance · class · message id → content (`queue`).
    Job = b'Q',
    /// Jobs that wait behind others of their lane. instance · class · lane · order → message id, and the
    /// moment before which a head that was tried may not go (`queue`).
    Lane = b'L',
    /// When a waiting lane may go on. instance · class · due · lane → nothing (`queue`).
    Wake = b'W',
    /// Jobs outside any lane until they are due. instance · due · message id → nothing (`queue`).
    Due = b'D',
    /// Attempts under way. instance · class · lane → record (`queue`).
    InFlight = b'F',
    /// Counters of an instance's queue, and how far its arrivals were read. instance → record (`queue`).
    QueueCounters = b'B',
    /// Where a message stands and its history. message id → row (`queue`).
    Ledger = b'S',
    /// Our id for a provider's id. instance · hash → message id (`queue`).
    ProviderId = b'P',
    /// Dead letters with their content. instance · message id → job (`queue`).
    DeadLetter = b'X',
    /// Idempotency keys. instance · hash → answer (`queue`).
    Idempotency = b'I',
    /// When idempotency keys end. expiry · instance · hash → nothing (`queue`).
    IdempotencyExpiry = b'E',
    /// Instances. number → configuration and wanted state (`instance`).
    Instance = b'N',
    /// Counters of the node itself: one byte each (`queue`, `instance`).
    NodeCounters = b'M',
    /// Media already at a provider. account · content hash → media id (`provider`).
    MediaId = b'U',
    /// The event log. instance · sequence → envelope (`events`).
    Event = b'V',
    /// The end of an event log: its last sequence, and the bytes ever appended. instance → numbers (`events`).
    EventTail = b'T',
    /// Inbound duplicates. time · hash → nothing, hash → time (`inbound`).
    InboundDedupe = b'Y',
    /// Inbound bodies that could not be understood. time · random → body (`inbound`).
    Quarantine = b'R',
    /// Webhook endpoints. endpoint id → configuration (`webhook`).
    Endpoint = b'H',
    /// How far an endpoint was told. endpoint id · instance → sequence (`webhook`).
    EndpointCursor = b'K',
    /// Events that an endpoint refused for good. endpoint id · instance · sequence → why (`webhook`).
    Parked = b'G',
    /// The address book that the API fills. phone → record, no phone → counters (`contacts`).
    Contact = b'A',
    /// The address book by age of its entries. newest first → phone (`contacts`).
    ContactOrder = b'a',
    /// Who must not be written to unasked. recipient → why (`contacts`).
    Suppressed = b'O',
    /// Inbound messages that wait for the relay. order → frame, nothing → counters (`relay`).
    Relay = b'J',
    /// Media of inbound messages. instance · hash of the message's id → where it is, and time · the same → nothing
    /// (`media`).
    InboundMedia = b'C',
    /// Bulk jobs. job → record (`bulk`).
    BulkJob = b'j',
    /// How rows of bulk jobs ended, until their job took note. job → its first message, job · row → outcome (`queue`).
    ItemOutcome = b'o',
    /// Whom a linked device knows, and its first contacts. instance · table · hash → nothing or numbers (`provider`).
    LinkedContact = b'c',
    /// What a linked device remembers of its latest messages and polls. instance · ring · slot → name, instance · ring ·
    /// name → note (`provider`).
    LinkedMessageCache = b'i',
    /// The keys of a linked device, and what the protocol makes it remember. instance · table · hash → record in pieces
    /// (`provider`).
    LinkedDevice = b'd',
    /// What does not fit one value of another space. key · number → bytes (`store`).
    Part = b'Z',
}

/// A key under construction: a space, then parts in big-endian, so that byte order is the order of meaning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new(space: Space) -> Self {
        let mut bytes = Vec::with_capacity(40);
        bytes.push(space as u8);
        Self(bytes)
    }

    #[must_use]
    pub fn u8(mut self, part: u8) -> Self {
        self.0.push(part);
        self
    }

    #[must_use]
    pub fn u32(self, part: u32) -> Self {
        self.bytes(&part.to_be_bytes())
    }

    #[must_use]
    pub fn u64(self, part: u64) -> Self {
        self.bytes(&part.to_be_bytes())
    }

    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The first key after every key that begins with this one.
    #[must_use]
    pub fn after_prefix(mut self) -> Self {
        while let Some(last) = self.0.pop() {
            if last < u8::MAX {
                self.0.push(last + 1);
                break;
            }
        }
        self
    }

    /// The first key after exactly this one.
    #[must_use]
    pub fn successor(self) -> Self {
        self.u8(0)
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
