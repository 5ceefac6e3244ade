//! The digest of the whole database: what tells a complete database from one that lost entries.
//!
//! Every commit carries a [`CommitRecord`] with the number of the commit and the digest of all entries after it. The
//! digest is a sum (modulo 2^128) of the hashes of the entries, so a commit updates it with the entries that it changes,
//! and a scan in any order computes it again. The contents that are found on the disk are complete exactly when their
//! digest is that of the record among them.

use sha2::{Digest, Sha256};

use relevo_domain::Timestamp;

use super::tx::ValueChange;
use super::{Error, Key, Space};

/// Number of values of a byte: keys are counted by their first.
const SPACES: usize = 256;

/// Digest and counts of all entries, the record of commits excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub digest: u128,
    /// Number of entries by the first byte of their key.
    counts: Box<[u64; SPACES]>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { digest: 0, counts: Box::new([0; SPACES]) }
    }
}

impl Contents {
    /// Adds an entry.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.digest = self.digest.wrapping_add(entry_hash(key, value));
        if let Some(count) = self.count_of(key) {
            *count = count.saturating_add(1);
        }
    }

    /// Removes an entry that was added.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.digest = self.digest.wrapping_sub(entry_hash(key, value));
        if let Some(count) = self.count_of(key) {
            *count = count.saturating_sub(1);
        }
    }

    /// Applies changes; `before` reads the value that a key has before them.
    ///
    /// # Errors
    /// Those of `before`.
    pub fn apply<'a>(
        &mut self,
        changes: impl Iterator<Item = (&'a Vec<u8>, &'a ValueChange)>,
        before: impl Fn(&[u8]) -> Result<Option<sled::IVec>, Error>,
    ) -> Result<(), Error> {
        for (key, change) in changes {
            if let Some(value) = before(key)? {
                self.remove(key, &value);
            }
            if let Some(value) = change {
                self.add(key, value);
            }
        }
        Ok(())
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The spaces that have entries, with the number of these.
    pub fn counts(&self) -> impl Iterator<Item = (u8, u64)> {
        (0..=u8::MAX).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }

    fn count_of(&mut self, key: &[u8]) -> Option<&mut u64> {
        self.counts.get_mut(usize::from(*key.first()?))
    }
}

/// The first 128 bits of the SHA-256 of the key's length, the key and the value.
fn entry_hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update(u64::try_from(key.len()).unwrap_or(u64::MAX).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    first_half(&hasher.finalize().into())
}

/// The first 128 bits of a SHA-256.
fn first_half(hash: &[u8; 32]) -> u128 {
    hash.first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

/// What every commit writes about itself, in the same batch as its changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommitRecord {
    /// Number of the commit. It grows by one with each commit, over restarts.
    pub number: u64,
    pub at: Timestamp,
    /// Digest and number of all entries after the commit.
    pub digest: u128,
    pub entries: u64,
}

impl CommitRecord {
    /// The key of the record: one byte, next to small entries that most commits change anyway, so that the page that holds
    /// it is small.
    pub fn key() -> Key {
        Key::new(Space::NodeCounters)
    }

    /// Whether a key is that of the record.
    pub fn is_key(key: &[u8]) -> bool {
        key == [Space::NodeCounters as u8]
    }

    pub fn new(number: u64, at: Timestamp, contents: &Contents) -> Self {
        Self { number, at, digest: contents.digest, entries: contents.entries() }
    }

    pub fn encode(&self) -> Vec<u8> {
        let (number, at) = (self.number.to_be_bytes(), self.at.millis().to_be_bytes());
        [&number[..], &at, &self.digest.to_be_bytes(), &self.entries.to_be_bytes()].concat()
    }

    /// Parses a stored record; none when it has another form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let (digest, rest) = rest.split_first_chunk()?;
        let entries = rest.try_into().ok()?;
        Some(Self {
            number: u64::from_be_bytes(*number),
            at: Timestamp(u64::from_be_bytes(*at)),
            digest: u128::from_be_bytes(*digest),
            entries: u64::from_be_bytes(entries),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_depends_on_the_entries_and_not_on_their_order() {
        let (mut one, mut other) = (Contents::default(), Contents::default());
        for (key, value) in [("a", "1"), ("b", "2"), ("bc", "")] {
            one.add(key.as_bytes(), value.as_bytes());
        }
        for (key, value) in [("bc", ""), ("x", "9"), ("b", "2"), ("a", "1")] {
            other.add(key.as_bytes(), value.as_bytes());
        }
        assert_ne!(one, other);
        other.remove(b"x", b"9");
        assert_eq!(one, other);
        assert_eq!(one.counts().collect::<Vec<_>>(), [(b'a', 1), (b'b', 2)]);
        // A byte that moves from the value to the key changes the digest.
        other.remove(b"a", b"1");
        other.add(b"a1", b"");
        assert_ne!(one.digest, other.digest);
    }

    /// The stored form must never change: data folders hold it.
    #[test]
    fn record_is_stored_in_forty_bytes() {
        let mut contents = Contents::default();
        contents.add(b"ab", b"c");
        let record = CommitRecord::new(7, Timestamp(9), &contents);
        let stored = record.encode();
        assert_eq!(stored.len(), 40);
        assert_eq!(&stored[..16], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(CommitRecord::decode(&stored), Some(record));
        assert_eq!(CommitRecord::decode(&stored[1..]), None);
    }
}
