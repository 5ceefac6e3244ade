//! SHA-256 digests in the two forms that WhatsApp uses.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The SHA-256 of a file. Displayed in lowercase hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sha256Digest(pub [u8; 32]);

/// The text is no digest. The file is then accepted without this check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidDigest;

impl FromStr for Sha256Digest {
    type Err = InvalidDigest;

    /// Parses hexadecimal, the form of the Graph API, and base64, the form of webhooks.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let bytes = match text.len() {
            64 => hexadecimal(text.as_bytes()),
            _ => STANDARD.decode(text).ok(),
        };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(InvalidDigest)
    }
}

fn hexadecimal(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_chunks::<2>().0.iter();
    pairs.map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_base64_digests_are_parsed() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let digest: Sha256Digest = hex.parse().unwrap();
        assert_eq!(base64.parse(), Ok(digest));
        assert_eq!(digest.to_string(), hex);
        for wrong in ["", "e3b0", "SHA256_HASH", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<Sha256Digest>(), Err(InvalidDigest), "{wrong}");
        }
    }
}
