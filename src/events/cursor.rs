use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use relevo_domain::{InstanceNumber, ValidationError};

/// How a written place begins, so that another form can follow one day.
const VERSION: u8 = 1;

/// The longest text that is looked at: more than a place in 5,000 logs takes.
const MAX_TEXT: usize = 64 << 10;

/// Where a reader stands in the logs of several instances. A log that it does not mention was not begun.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogCursor(BTreeMap<InstanceNumber, u64>);

impl LogCursor {
    /// Behind one event of one log.
    pub fn single(instance: InstanceNumber, sequence: u64) -> Self {
        Self(BTreeMap::from([(instance, sequence)]))
    }

    /// The last sequence that was read of a log; `None` when it was not begun.
    pub fn get(&self, instance: InstanceNumber) -> Option<u64> {
        self.0.get(&instance).copied()
    }

    pub fn set(&mut self, instance: InstanceNumber, sequence: u64) {
        self.0.insert(instance, sequence);
    }

    pub fn iter(&self) -> impl Iterator<Item = (InstanceNumber, u64)> + '_ {
        self.0.iter().map(|(instance, sequence)| (*instance, *sequence))
    }

    /// Forgets the logs of instances that are gone.
    pub fn retain(&mut self, exists: impl Fn(InstanceNumber) -> bool) {
        self.0.retain(|instance, _| exists(*instance));
    }

    /// As a short text for callers, who need not understand it.
    pub fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        for (instance, sequence) in &self.0 {
            write_varint(&mut bytes, u64::from(instance.get()));
            write_varint(&mut bytes, *sequence);
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// Anything else; the field `after` is to blame.
    pub fn decode(text: &str) -> Result<Self, ValidationError> {
        let read = || {
            let bytes = (text.len() <= MAX_TEXT).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten()?;
            let mut rest = bytes.strip_prefix(&[VERSION])?;
            let mut places = BTreeMap::new();
            while !rest.is_empty() {
                let number = u32::try_from(read_varint(&mut rest)?).ok()?;
                let instance = InstanceNumber::from_be_bytes(number.to_be_bytes())?;
                let in_order = places.last_key_value().is_none_or(|(last, _)| *last < instance);
                let sequence = read_varint(&mut rest)?;
                in_order.then(|| places.insert(instance, sequence))?;
            }
            Some(Self(places))
        };
        read().ok_or_else(|| {
            ValidationError::new("after", "must be the `next` or `cursor` of an answer, unchanged")
        })
    }
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
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
        fn places_come_back(given in prop::collection::btree_map(1_u32..0xFF_FFFF, any::<u64>(), 0..20)) {
            let places = LogCursor(given.into_iter().map(|(number, at)| (instance(number), at)).collect());
            prop_assert_eq!(LogCursor::decode(&places.encode()), Ok(places));
        }

        #[test]
        fn rubbish_is_refused_or_means_what_it_says(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            if let Ok(places) = LogCursor::decode(&text) {
                prop_assert_eq!(LogCursor::decode(&places.encode()), Ok(places));
            }
        }
    }

    #[test]
    fn malformed_cursors_are_refused() {
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
