//! Verification of the signatures of Meta's webhooks, while their bodies arrive.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use relevo_domain::Secret;

/// What a webhook claims as its signature: its `X-Hub-Signature-256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedSignature([u8; 32]);

impl ClaimedSignature {
    /// Parses `sha256=` and 32 bytes in hexadecimal. `None`: no body has this signature.
    pub fn parse(header: &str) -> Option<Self> {
        let claimed = header.trim().strip_prefix("sha256=").and_then(from_hex)?;
        Some(Self(claimed.try_into().ok()?))
    }
}

/// The HMAC-SHA256 of a raw body under an app secret.
#[derive(Clone)]
pub struct BodyMac(Hmac<Sha256>);

impl BodyMac {
    /// The HMAC under this secret, of no bytes yet. `None`: no body is signed with it.
    pub fn new(app_secret: &Secret) -> Option<Self> {
        Hmac::new_from_slice(app_secret.expose().as_bytes()).ok().map(Self)
    }

    /// Adds the next bytes of the raw body, as they were received.
    pub fn update(&mut self, raw_bytes: &[u8]) {
        self.0.update(raw_bytes);
    }

    /// Whether the secret signed the body. The comparison takes constant time.
    pub fn matches(self, claimed: &ClaimedSignature) -> bool {
        self.0.verify_slice(&claimed.0).is_ok()
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HMAC-SHA256 of RFC 4231, test case 2.
    const GOOD: &str = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    const BODY: &[u8] = b"what do ya want for nothing?";

    fn is_signed(secret: &str, chunks: &[&[u8]], header: &str) -> bool {
        let mut mac = BodyMac::new(&Secret::new(secret)).unwrap();
        chunks.iter().for_each(|chunk| mac.update(chunk));
        mac.matches(&ClaimedSignature::parse(header).unwrap())
    }

    #[test]
    fn only_the_signature_of_the_raw_body_is_accepted() {
        assert!(is_signed("Jefe", &[BODY], GOOD));
        assert!(is_signed("Jefe", &[b"what do ya ", b"", b"want for nothing?"], GOOD));
        assert!(is_signed("Jefe", &[BODY], &GOOD.to_uppercase().replace("SHA256", "sha256")));
        assert!(!is_signed("jefe", &[BODY], GOOD));
        assert!(!is_signed("Jefe", &[b"what do ya want for nothing"], GOOD));
    }

    #[test]
    fn malformed_header_is_rejected() {
        for header in ["", "sha256=", "sha256=zz", "sha1=00", &GOOD[..GOOD.len() - 1], &format!("{GOOD}00")] {
            assert_eq!(ClaimedSignature::parse(header), None, "{header}");
        }
    }
}
