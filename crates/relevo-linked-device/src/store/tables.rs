//! The tables of a linked device and the layout of their keys.

use sha2::{Digest as _, Sha256};

use relevo_domain::InstanceNumber;
use relevo_store::{Key, Space};

/// The tables, each with the byte that identifies it in keys. The bytes are on the disk: none may change or be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Table {
    /// nothing → id of the client that may write. It sorts first, so that a deletion of the device removes it first.
    Holder = 0,
    /// nothing → record of the device: its keys, its account.
    Device = 1,
    /// user · address → key.
    Identity = 2,
    /// user · address → ratchets.
    Session = 3,
    /// id → one-time key.
    PreKey = 4,
    /// id → key.
    SignedPreKey = 5,
    /// group and sender → ratchets.
    SenderKey = 6,
    /// key id → key of the account's app state.
    SyncKey = 7,
    /// nothing → id of the newest of these keys.
    LatestSyncKey = 8,
    /// collection → version and hash.
    Version = 9,
    /// collection · index → MAC of the value.
    MutationMac = 10,
    /// group · device → JID of the device, and whether it has our sender key.
    GroupDevice = 11,
    /// device · group → nothing.
    DeviceGroup = 12,
    /// LID → mapping.
    Lid = 13,
    /// phone → its newest LID.
    Phone = 14,
    /// user → list of devices.
    DeviceList = 15,
    /// group → metadata.
    Group = 16,
    /// user → token.
    TcToken = 17,
    /// chat and message → date, content; and, in the next table, date · chat and message → nothing. The next three pairs
    /// have the same layout.
    Sent = 18,
    SentDate = 19,
    Pending = 20,
    PendingDate = 21,
    BaseKey = 22,
    BaseKeyDate = 23,
    Secret = 24,
    SecretDate = 25,
}

/// The first half of a SHA-256. It turns names of any length into keys of one length.
pub(super) type NameDigest = [u8; 16];

/// The digest of a name of one or several parts.
pub(super) fn digest<const N: usize>(names: [&[u8]; N]) -> NameDigest {
    let mut hash = Sha256::new();
    for name in names {
        // The length separates the names, so that different lists have different digests.
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied().unwrap_or_default()
}

/// The digest at the end of a key.
pub(super) fn last_digest(key: &[u8]) -> NameDigest {
    key.last_chunk().copied().unwrap_or_default()
}

/// The key range of one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceKeyspace(pub InstanceNumber);

impl DeviceKeyspace {
    /// The prefix of all keys.
    pub fn prefix(self) -> Key {
        Key::new(Space::LinkedDevice).u32(self.0.get())
    }

    /// The prefix of all keys of a table; for a table of one row, the key of that row.
    pub fn table_key(self, table: Table) -> Key {
        self.prefix().u8(table as u8)
    }

    /// The key of a name, or the prefix of keys that begin with it.
    pub fn name_key(self, table: Table, name: &str) -> Key {
        self.table_key(table).bytes(&digest([name.as_bytes()]))
    }

    /// The key of a numeric id.
    pub fn id_key(self, table: Table, id: u32) -> Key {
        self.table_key(table).u32(id)
    }

    /// The key of a Signal address, `user[:device]@server.0`. Its prefix is the key of the user.
    pub fn address_key(self, table: Table, address: &str) -> Key {
        let user = address.split([':', '@']).next().unwrap_or_default();
        self.name_key(table, user).bytes(&digest([address.as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_separates_names() {
        assert_ne!(digest([b"ab", b"c"]), digest([b"a", b"bc"]));
        assert_ne!(digest([b"ab", b""]), digest([b"ab"]));
    }

    #[test]
    fn address_keys_are_prefixed_by_their_user() {
        let keyspace = DeviceKeyspace(InstanceNumber::FIRST);
        let user = keyspace.name_key(Table::Session, "573000000001");
        for address in ["573000000001@c.us.0", "573000000001:7@c.us.0"] {
            assert!(
                keyspace.address_key(Table::Session, address).as_slice().starts_with(user.as_slice()),
                "{address}"
            );
        }
        let longer = keyspace.address_key(Table::Session, "5730000000011@c.us.0");
        assert!(!longer.as_slice().starts_with(user.as_slice()));
    }
}
