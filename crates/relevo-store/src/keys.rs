//! Key spaces and the construction of keys.

use super::Error;

/// Declares [`Space`] and the list of all spaces.
macro_rules! spaces {
    (
        $(#[$docs:meta])*
        pub enum Space {
            $($(#[$doc:meta])* $name:ident = $byte:literal,)*
        }
    ) => {
        $(#[$docs])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Space {
            $($(#[$doc])* $name = $byte,)*
        }

        impl Space {
            /// Every space, in the order of the declaration.
            pub const ALL: &[Space] = &[$(Space::$name,)*];
        }
    };
}

spaces! {
    /// The key spaces of the tree. Each is the first byte of its keys; the one list keeps them distinct.
    ///
    /// The spaces of `LARGE_SPACES` allow values of up to about 268 MB, which the store splits into parts; the others
    /// allow 4096 bytes.
    pub enum Space {
        /// Jobs not yet settled. instance · class · message id → content (`queue`).
        Job = b'Q',
        /// Jobs that wait behind others of their lane. instance · class · lane · order → message id, and the
        /// time before which a head that was attempted is not retried (`queue`).
        Lane = b'L',
        /// When a waiting lane is due. instance · class · due · lane → nothing (`queue`).
        Wake = b'W',
        /// Jobs outside any lane until they are due. instance · due · message id → nothing (`queue`).
        Due = b'D',
        /// Attempts under way. instance · class · lane → record (`queue`).
        InFlight = b'F',
        /// Counters of an instance's queue, and the position up to which its arrivals were read. instance → record (`queue`).
        QueueCounters = b'B',
        /// Status and history of a message. message id → row (`queue`).
        Ledger = b'S',
        /// The message id of a provider's message id. instance · hash → message id (`queue`).
        ProviderId = b'P',
        /// Dead letters with their content. instance · message id → job (`queue`).
        DeadLetter = b'X',
        /// Idempotency keys. instance · hash → answer (`queue`).
        Idempotency = b'I',
        /// Expiry of idempotency keys. expiry · instance · hash → nothing (`queue`).
        IdempotencyExpiry = b'E',
        /// Instances. number → configuration and desired state (`instance`).
        Instance = b'N',
        /// Counters of the node itself: one byte each (`queue`, `instance`); no byte → the record of the last commit
        /// (`store`).
        NodeCounters = b'M',
        /// Media uploaded to a provider. account · content hash → media id (`provider`).
        MediaId = b'U',
        /// The event log. instance · sequence → envelope (`events`).
        Event = b'V',
        /// The end of an event log: its last sequence, and the bytes ever appended. instance → numbers (`events`).
        EventTail = b'T',
        /// Inbound duplicates. time · hash → nothing, hash → time (`inbound`).
        InboundDedupe = b'Y',
        /// Inbound bodies that could not be parsed. time · random → body (`inbound`).
        Quarantine = b'R',
        /// Webhook endpoints. endpoint id → configuration (`webhook`).
        Endpoint = b'H',
        /// Delivery cursor of an endpoint. endpoint id · instance → sequence (`webhook`).
        EndpointCursor = b'K',
        /// Events that an endpoint rejected permanently. endpoint id · instance · sequence → reason (`webhook`).
        Parked = b'G',
        /// The address book. phone → record, no phone → counters (`contacts`).
        Contact = b'A',
        /// The address book by last change. newest first → phone (`contacts`).
        ContactOrder = b'a',
        /// Suppressed recipients. recipient → reason (`contacts`).
        Suppressed = b'O',
        /// Inbound messages queued for the relay. order → frame, nothing → counters (`relay`).
        Relay = b'J',
        /// Media of inbound messages. instance · hash of the message's id → location, and time · the same → nothing
        /// (`media`).
        InboundMedia = b'C',
        /// Bulk jobs. job → record (`bulk`).
        BulkJob = b'j',
        /// Outcomes of rows of bulk jobs, until their job has recorded them. job → its first message, job · row → outcome
        /// (`queue`).
        ItemOutcome = b'o',
        /// Recipients known to a linked device, and its first contacts. instance · table · hash → nothing or numbers
        /// (`provider`).
        LinkedContact = b'c',
        /// A linked device's cache of its latest messages and polls. instance · ring · slot → name, instance · ring ·
        /// name → entry (`provider`).
        LinkedMessageCache = b'i',
        /// The keys and protocol state of a linked device. instance · table · hash → record (`provider`).
        LinkedDevice = b'd',
        /// The further parts of values that exceed 4 KB. key · number → bytes (`store`).
        Part = b'Z',
    }
}

/// What becomes of the entries of a space that belong to a deleted instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceEntries {
    /// The number of the instance follows the byte of the space. The queue deletes these entries, in the order of
    /// [`Space::ALL`]: jobs before the attempts that say what became of them.
    Purged,
    /// The module that writes them deletes them: `webhook`, a provider, or `instance`, whose record is deleted last.
    DeletedByModule,
    /// They expire: they are sorted by time.
    Expire,
    /// There are none.
    None,
}

impl Space {
    /// What becomes of the entries of a deleted instance. The only list of what belongs to an instance.
    pub const fn instance_entries(self) -> InstanceEntries {
        match self {
            Space::Job
            | Space::Lane
            | Space::Wake
            | Space::Due
            | Space::InFlight
            | Space::QueueCounters
            | Space::ProviderId
            | Space::DeadLetter
            | Space::Idempotency
            | Space::Event
            | Space::EventTail => InstanceEntries::Purged,
            Space::Instance
            | Space::Endpoint
            | Space::EndpointCursor
            | Space::Parked
            | Space::LinkedContact
            | Space::LinkedMessageCache
            | Space::LinkedDevice => InstanceEntries::DeletedByModule,
            Space::Ledger | Space::IdempotencyExpiry | Space::InboundDedupe | Space::InboundMedia => {
                InstanceEntries::Expire
            }
            // Parts are deleted with their values. Uploads belong to an account of the provider, outcomes to a job.
            Space::NodeCounters
            | Space::MediaId
            | Space::Quarantine
            | Space::Contact
            | Space::ContactOrder
            | Space::Suppressed
            | Space::Relay
            | Space::BulkJob
            | Space::ItemOutcome
            | Space::Part => InstanceEntries::None,
        }
    }

    /// What an operator calls the entries of a space, by its byte: the spaces that hold what users sent and received.
    pub(super) fn noun(space: u8) -> &'static str {
        const NOUNS: [(Space, &str); 9] = [
            (Space::Job, "queued messages"),
            (Space::Ledger, "statuses of messages"),
            (Space::DeadLetter, "dead letters"),
            (Space::Event, "events"),
            (Space::Instance, "instances"),
            (Space::Endpoint, "webhook endpoints"),
            (Space::Contact, "contacts"),
            (Space::Suppressed, "suppressed recipients"),
            (Space::BulkJob, "bulk jobs"),
        ];
        NOUNS.iter().find(|(known, _)| *known as u8 == space).map_or("other records", |(_, noun)| noun)
    }
}

/// Spaces whose values are stored in parts. Data folders depend on this list: a space must never join or leave it once
/// it has been written.
const LARGE_SPACES: [Space; 10] = [
    Space::Job,
    Space::DeadLetter,
    Space::Instance,
    Space::Event,
    Space::Quarantine,
    Space::Endpoint,
    Space::Contact,
    Space::Relay,
    Space::BulkJob,
    Space::LinkedDevice,
];

/// A key: the byte of its space, then its parts. Numbers are big-endian, so that keys sort by them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(Vec<u8>);

impl Key {
    /// The key that consists of the space's byte alone.
    pub fn new(space: Space) -> Self {
        let mut bytes = Vec::with_capacity(40);
        bytes.push(space as u8);
        Self(bytes)
    }

    /// Appends one byte.
    #[must_use]
    pub fn u8(mut self, part: u8) -> Self {
        self.0.push(part);
        self
    }

    /// Appends a number in four bytes.
    #[must_use]
    pub fn u32(self, part: u32) -> Self {
        self.bytes(&part.to_be_bytes())
    }

    /// Appends a number in eight bytes.
    #[must_use]
    pub fn u64(self, part: u64) -> Self {
        self.bytes(&part.to_be_bytes())
    }

    /// Appends bytes as they are.
    #[must_use]
    pub fn bytes(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self
    }

    /// The bytes of the key.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Whether the value under this key is stored in parts. A key that is only the byte of a space holds counters, which
    /// are never stored in parts.
    pub(super) fn is_large(&self) -> bool {
        is_large_key(&self.0)
    }

    /// The error of a value of `size` bytes under this key.
    pub(super) fn too_large(&self, size: usize, limit: usize) -> Error {
        let space = self.0.first().map_or('?', |&space| char::from(space));
        Error::TooLarge { space, size, limit }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The smallest key that is greater than every key with this prefix: the exclusive end of a prefix range.
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

    /// The smallest key that is greater than this one.
    #[must_use]
    pub fn successor(self) -> Self {
        self.u8(0)
    }
}

/// See [`Key::is_large`].
pub(super) fn is_large_key(key: &[u8]) -> bool {
    match key {
        [] | [_] => false,
        [first, ..] => LARGE_SPACES.iter().any(|space| *space as u8 == *first),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Existing data folders depend on this list.
    #[test]
    fn spaces_of_large_values_never_change() {
        let bytes = LARGE_SPACES.map(|space| space as u8);
        assert_eq!(&bytes, b"QXNVRHAJjd");
        let (counters, record) = (Key::new(Space::Contact), Key::new(Space::Contact).u8(0));
        assert!(!counters.is_large() && record.is_large());
    }
}
