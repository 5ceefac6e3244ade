//! The cursor of a reader: its position in the logs of one or several instances, and the text form that callers get.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use relevo_domain::{InstanceNumber, ValidationError};

/// First byte of an encoded cursor, so that the encoding can change later.
const VERSION: u8 = 1;

/// Maximum length of an encoded cursor, in bytes; longer than a cursor for 5,000 logs.
const MAX_TEXT: usize = 64 << 10;

/// Position of a reader in the logs of several instances: for each log the last sequence that was read. A log without
/// an entry has not been read yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogCursor(BTreeMap<InstanceNumber, u64>);

impl LogCursor {
    /// The position after one event of one log.
    pub fn single(instance: InstanceNumber, sequence: u64) -> Self {
        Self(BTreeMap::from([(instance, sequence)]))
    }

    /// The last sequence that was read of a log; `None` if nothing was read.
    pub fn get(&self, instance: InstanceNumber) -> Option<u64> {
        self.0.get(&instance).copied()
    }

    /// Sets the last sequence that was read of a log.
    pub fn set(&mut self, instance: InstanceNumber, sequence: u64) {
        self.0.insert(instance, sequence);
    }

    /// The logs of the cursor, each with the last sequence that was read.
    pub fn iter(&self) -> impl Iterator<Item = (InstanceNumber, u64)> + '_ {
        self.0.iter().map(|(instance, sequence)| (*instance, *sequence))
    }

    /// Removes the logs of instances for which `exists` is false.
    pub fn retain(&mut self, exists: impl Fn(InstanceNumber) -> bool) {
        self.0.retain(|instance, _| exists(*instance));
    }

    /// The cursor as a short text that is opaque to callers.
    pub fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        for (instance, sequence) in &self.0 {
            write_varint(&mut bytes, u64::from(instance.get()));
            write_varint(&mut bytes, *sequence);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Parses the text of [`encode`](Self::encode).
    ///
    /// # Errors
    ///
    /// The text is not an encoded cursor; the error names the field `after`.
    pub fn decode(text: &str) -> Result<Self, ValidationError> {
        Self::parse(text).ok_or_else(|| {
            ValidationError::new("after", "must be the `next` or `cursor` of an answer, unchanged")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let mut rest = bytes.strip_prefix(&[VERSION])?;
        let mut positions = BTreeMap::new();
        while !rest.is_empty() {
            let number = u32::try_from(read_varint(&mut rest)?).ok()?;
            let instance = InstanceNumber::from_be_bytes(number.to_be_bytes())?;
            let sequence = read_varint(&mut rest)?;
            // Each cursor has one encoding: instances are in ascending order.
            if positions.last_key_value().is_some_and(|(last, _)| *last >= instance) {
                return None;
            }
            positions.insert(instance, sequence);
        }
        Some(Self(positions))
    }
}

/// Writes seven bits per byte, the lowest first; the highest bit is set while more bytes follow.
fn write_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(0x80 | u8::try_from(number & 0x7F).unwrap_or_default());
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or_default());
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(first & 0x7F);
        number |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instance(number: u32) -> InstanceNumber {
        InstanceNumber::from_be_bytes(number.to_be_bytes()).unwrap()
    }

    proptest! {
        #[test]
        fn cursor_survives_encoding(given in prop::collection::btree_map(1_u32..0xFF_FFFF, any::<u64>(), 0..20)) {
            let cursor = LogCursor(given.into_iter().map(|(number, at)| (instance(number), at)).collect());
            prop_assert_eq!(LogCursor::decode(&cursor.encode()), Ok(cursor));
        }

        #[test]
        fn random_bytes_are_refused_or_decode_to_one_cursor(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            if let Ok(cursor) = LogCursor::decode(&text) {
                prop_assert_eq!(LogCursor::decode(&cursor.encode()), Ok(cursor));
            }
        }
    }

    #[test]
    fn malformed_cursor_is_refused() {
        let two_in_wrong_order = URL_SAFE_NO_PAD.encode([VERSION, 2, 1, 1, 1]);
        let cut_short = URL_SAFE_NO_PAD.encode([VERSION, 1, 0x80]);
        let too_long = URL_SAFE_NO_PAD.encode([&[VERSION, 1][..], &[0xFF; 10]].concat());
        let no_instance = URL_SAFE_NO_PAD.encode([VERSION, 0, 1]);
        let endless = "A".repeat(MAX_TEXT + 4);
        for bad in
            ["", "42", "no!", "AQ==", &two_in_wrong_order, &cut_short, &too_long, &no_instance, &endless]
        {
            assert_eq!(LogCursor::decode(bad).unwrap_err().field, "after", "{bad}");
        }
        assert_eq!(LogCursor::decode(&LogCursor::default().encode()), Ok(LogCursor::default()));
        assert!(LogCursor::single(instance(3), 1_000_000).encode().len() < 10);
    }
}
