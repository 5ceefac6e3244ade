//! The stored form of values in the spaces of large values (see [`Key::is_large`]): parts that each fit the limit of one
//! stored value.
//!
//! The head, stored under the key itself, begins with the number of further parts (two bytes, big-endian). The further
//! parts are in [`Space::Part`], so that ranges over the key's own space contain only heads. Values in other spaces are
//! stored as they are.

use super::tx::MAX_VALUE;
use super::{Error, Key, Space};

/// Size of the part count in a head.
const HEADER: usize = 2;

/// Maximum size of a large value, about 268 MB.
const MAX_LARGE_VALUE: usize = MAX_VALUE - HEADER + u16::MAX as usize * MAX_VALUE;

/// A value, split into its head and further parts.
pub(super) struct SplitValue<'a> {
    pub head: Vec<u8>,
    pub parts: std::slice::Chunks<'a, u8>,
}

/// Splits a value for storage.
pub(super) fn split<'a>(key: &Key, value: &'a [u8]) -> Result<SplitValue<'a>, Error> {
    let (first, rest) = value.split_at(value.len().min(MAX_VALUE - HEADER));
    let parts = rest.chunks(MAX_VALUE);
    let count = u16::try_from(parts.len()).map_err(|_| key.too_large(value.len(), MAX_LARGE_VALUE))?;
    let mut head = Vec::with_capacity(HEADER + first.len());
    head.extend_from_slice(&count.to_be_bytes());
    head.extend_from_slice(first);
    Ok(SplitValue { head, parts })
}

/// Joins a value from its head and the further parts that `get` reads.
pub(super) fn join(
    key: &Key,
    head: &[u8],
    get: impl Fn(&Key) -> Result<Option<Vec<u8>>, Error>,
) -> Result<Vec<u8>, Error> {
    let count = part_count(head)?;
    let mut value = first_part(head).to_vec();
    for number in 0..count {
        let part = get(&part_key(key, number))?;
        value.extend(part.ok_or_else(|| Error::Codec(format!("part {number} of {count} is missing")))?);
    }
    Ok(value)
}

/// The contents of a head: the whole value, or its first 4094 bytes when it has further parts. Empty when the head is
/// damaged.
pub(super) fn first_part(head: &[u8]) -> &[u8] {
    head.get(HEADER..).unwrap_or_default()
}

/// The number of further parts.
pub(super) fn part_count(head: &[u8]) -> Result<u16, Error> {
    let header = head.first_chunk::<HEADER>();
    header
        .map(|bytes| u16::from_be_bytes(*bytes))
        .ok_or_else(|| Error::Codec("a large value has no part count".into()))
}

/// The key of a further part.
pub(super) fn part_key(key: &Key, number: u16) -> Key {
    Key::new(Space::Part).bytes(key.as_slice()).bytes(&number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyValue, TestStore, Tx};

    fn key() -> Key {
        Key::new(Space::BulkJob).u8(1)
    }

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    fn range(tx: &Tx, start: &Key) -> Vec<KeyValue> {
        tx.range(start, &start.clone().after_prefix()).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn values_of_any_size_replace_each_other_and_are_deleted_whole() {
        let store = TestStore::new();
        for size in [0, 1, MAX_VALUE - HEADER, MAX_VALUE - 1, MAX_VALUE, 3 * MAX_VALUE, 10, 50_000, 5_000] {
            store.write(|tx| tx.put(key(), bytes(size))).unwrap();
            assert_eq!(store.write(|tx| tx.get(&key())).unwrap(), Some(bytes(size)), "{size}");
            let parts = (size + HEADER).saturating_sub(1) / MAX_VALUE;
            assert_eq!(store.entries().len(), 1 + parts, "{size}");
        }
        store.write(|tx| tx.delete(key())).unwrap();
        assert_eq!(store.entries(), []);
        store.write(|tx| tx.delete(key())).unwrap();
    }

    #[test]
    fn range_contains_one_entry_for_each_large_value() {
        let store = TestStore::new();
        let other = || Key::new(Space::BulkJob).u8(2);
        store.write(|tx| tx.put(key(), bytes(9_000))).unwrap();
        let check = |tx: &mut Tx| {
            tx.put(other(), bytes(3))?;
            let found = range(tx, &Key::new(Space::BulkJob));
            let first = (key().as_slice().to_vec(), bytes(MAX_VALUE - HEADER));
            assert_eq!(found, [first.clone(), (other().as_slice().to_vec(), bytes(3))]);
            assert_eq!(tx.first(&key(), &other())?, Some(first));
            Ok(())
        };
        store.write(check).unwrap();
    }

    #[test]
    fn failed_closure_restores_all_parts() {
        let store = TestStore::new();
        store.write(|tx| tx.put(key(), bytes(20_000))).unwrap();
        let before = store.entries();
        for size in [1, 9_000, 40_000] {
            let failed: Result<(), Error> = store.write(|tx| {
                tx.put(key(), bytes(size))?;
                tx.delete(key())?;
                Err(Error::Closed)
            });
            assert!(failed.is_err() && store.entries() == before);
        }
    }

    /// The stored form must never change: data folders hold it.
    #[test]
    fn stored_form_is_a_count_and_parts() {
        let store = TestStore::new();
        let small = Key::new(Space::NodeCounters).u8(7);
        let meta = Key::new(Space::Relay);
        store
            .write(|tx| {
                tx.put(key(), bytes(9_000))?;
                tx.put(meta.clone(), vec![5])?;
                tx.put(small.clone(), vec![6])
            })
            .unwrap();
        let value = bytes(9_000);
        let expected = [
            (meta.as_slice().to_vec(), vec![5]),
            (small.as_slice().to_vec(), vec![6]),
            (vec![b'Z', b'j', 1, 0, 0], value[4_094..8_190].to_vec()),
            (vec![b'Z', b'j', 1, 0, 1], value[8_190..].to_vec()),
            (vec![b'j', 1], [&[0, 2], &value[..4_094]].concat()),
        ];
        assert_eq!(store.entries(), expected);
    }

    #[test]
    fn damaged_value_is_an_error() {
        let store = TestStore::new();
        store.write(|tx| tx.put(key(), bytes(9_000))).unwrap();
        store.write(|tx| tx.delete(part_key(&key(), 1))).unwrap();
        let damaged = store.write(|tx| tx.get(&key()));
        assert!(matches!(damaged, Err(Error::Codec(_))), "{damaged:?}");
    }
}
