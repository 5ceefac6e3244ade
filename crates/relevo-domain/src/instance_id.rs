//! The two identities of an instance: the name that its owner chose, and the number within the data folder.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ValidationError;

/// The name of an instance, chosen by its owner: 1 to 64 letters, digits, `-`, `_` or `.`, not beginning with a
/// dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = ValidationError;
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if text.is_empty() {
            return Err(ValidationError::new("instance_id", "instance_id es requerido"));
        }
        if text.len() > 64 || !plain || text.starts_with('.') {
            return Err(ValidationError::new("instance_id", "use 1 to 64 letters, digits, '-', '_' or '.'"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for InstanceId {
    type Error = ValidationError;
    fn try_from(text: String) -> Result<Self, ValidationError> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of an instance within this data folder: 24 bits, assigned once and never reused, so that a new instance
/// with the name of a deleted one never gets that one's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceNumber(u32);

impl InstanceNumber {
    /// The number of a data folder's first instance.
    pub const FIRST: InstanceNumber = InstanceNumber(1);

    /// The number itself, from 1 to 16,777,215.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The next number; `None` after 16,777,215 instances.
    pub fn next(self) -> Option<InstanceNumber> {
        (self.0 < 0xFF_FFFF).then_some(InstanceNumber(self.0 + 1))
    }

    pub(super) fn from_low_bits(bits: u32) -> Self {
        Self(bits & 0xFF_FFFF)
    }

    /// The number as keys of the store contain it; `None` for a value that is never assigned.
    pub fn from_be_bytes(bytes: [u8; 4]) -> Option<InstanceNumber> {
        let number = u32::from_be_bytes(bytes);
        (1..=0xFF_FFFF).contains(&number).then_some(InstanceNumber(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_accepts_only_plain_names() {
        for good in ["shop", "a", "Shop-1_b.c"] {
            assert!(good.parse::<InstanceId>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", ".hidden", "ñ", &"x".repeat(65)] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }
}
