//! Values of any size, in pieces that each fit the limit of one value.
//!
//! The value under the key itself begins with the number of further parts (two bytes, big-endian); the parts lie
//! in a space of their own, so that ranges over the key's space never meet them.

use super::tx::MAX_VALUE;
use super::{Error, Key, Space, Tx};

const HEADER: usize = 2;

/// Writes a value of up to about 250 MB.
pub fn put_large(tx: &mut Tx, key: Key, bytes: &[u8]) -> Result<(), Error> {
    let parts_before = match tx.get(&key)? {
        Some(value) => part_count(&value)?,
        None => 0,
    };
    let (first, rest) = bytes.split_at(bytes.len().min(MAX_VALUE - HEADER));
    let chunks = rest.chunks(MAX_VALUE);
    let count = u16::try_from(chunks.len()).map_err(|_| Error::TooLarge {
        space: key.as_slice().first().map_or('?', |&space| char::from(space)),
        size: bytes.len(),
        limit: usize::from(u16::MAX) * MAX_VALUE,
    })?;
    for (number, chunk) in (0u16..).zip(chunks) {
        tx.put(part_key(&key, number), chunk.to_vec())?;
    }
    for number in count..parts_before {
        tx.delete(part_key(&key, number));
    }
    let mut value = Vec::with_capacity(HEADER + first.len());
    value.extend_from_slice(&count.to_be_bytes());
    value.extend_from_slice(first);
    tx.put(key, value)
}

/// The value that [`put_large`] wrote under `key`, given what `get` finds there and at its parts. Works on a
/// transaction and on a store alike.
pub fn get_large(
    key: &Key,
    get: impl Fn(&Key) -> Result<Option<Vec<u8>>, Error>,
) -> Result<Option<Vec<u8>>, Error> {
    let Some(mut value) = get(key)? else { return Ok(None) };
    let count = part_count(&value)?;
    value.drain(..HEADER);
    for number in 0..count {
        let part = get(&part_key(key, number))?;
        value.extend(part.ok_or_else(|| Error::Codec(format!("part {number} of {count} is missing")))?);
    }
    Ok(Some(value))
}

/// The beginning of a value that [`put_large`] wrote, out of what a range shows under its key: all of it, or the
/// first 4 KB of what goes on in parts.
pub fn large_prefix(value: &[u8]) -> Result<&[u8], Error> {
    part_count(value).map(|_| value.get(HEADER..).unwrap_or_default())
}

/// A value that [`put_large`] wrote, out of what lies under its key, if it has no parts.
pub fn single_part_large(value: &[u8]) -> Result<Option<&[u8]>, Error> {
    let whole = part_count(value)? == 0;
    Ok(value.get(HEADER..).filter(|_| whole))
}

/// Deletes a value with its parts.
pub fn delete_large(tx: &mut Tx, key: Key) -> Result<(), Error> {
    if let Some(value) = tx.get(&key)? {
        for number in 0..part_count(&value)? {
            tx.delete(part_key(&key, number));
        }
        tx.delete(key);
    }
    Ok(())
}

fn part_count(value: &[u8]) -> Result<u16, Error> {
    let header = value.first_chunk::<HEADER>();
    header
        .map(|bytes| u16::from_be_bytes(*bytes))
        .ok_or_else(|| Error::Codec("a large value has no header".into()))
}

fn part_key(key: &Key, number: u16) -> Key {
    Key::new(Space::Part).bytes(key.as_slice()).bytes(&number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_values_of_any_size_round_trip_and_are_deleted_whole() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let mut tx = Tx::new(&db);
        let key = || Key::new(Space::Job).u8(1);
        for size in [0, 1, MAX_VALUE - HEADER, MAX_VALUE, 3 * MAX_VALUE, 10, 50_000] {
            let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            put_large(&mut tx, key(), &bytes).unwrap();
            assert_eq!(get_large(&key(), |key| tx.get(key)).unwrap(), Some(bytes), "{size}");
        }
        delete_large(&mut tx, key()).unwrap();
        let all = tx.range(&Key::from(vec![0]), &Key::from(vec![255])).count();
        assert_eq!(all, 0);
    }
}
