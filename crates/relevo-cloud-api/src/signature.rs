//! Verification of the signatures of Meta's webhooks.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use relevo_domain::Secret;

/// Whether Meta signed this webhook. `header` is its `X-Hub-Signature-256`: `sha256=` and the HMAC-SHA256 of the raw
/// body under the app secret, in hexadecimal. `raw_body` must be the received bytes, before any parsing. The comparison
/// takes constant time.
pub fn verify_signature(app_secret: &Secret, raw_body: &[u8], header: &str) -> bool {
    let claimed = header.trim().strip_prefix("sha256=").and_then(from_hex);
    // A signature of the wrong length is rejected without hashing the body.
    let Some(claimed) = claimed.filter(|claimed| claimed.len() == 32) else { return false };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(app_secret.expose().as_bytes()) else { return false };
    mac.update(raw_body);
    mac.verify_slice(&claimed).is_ok()
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

    #[test]
    fn only_the_signature_of_the_raw_body_is_accepted() {
        let secret = Secret::new("Jefe");
        assert!(verify_signature(&secret, BODY, GOOD));
        assert!(verify_signature(&secret, BODY, &GOOD.to_uppercase().replace("SHA256", "sha256")));
        assert!(!verify_signature(&Secret::new("jefe"), BODY, GOOD));
        assert!(!verify_signature(&secret, b"what do ya want for nothing", GOOD));
    }

    #[test]
    fn malformed_header_is_rejected() {
        let secret = Secret::new("Jefe");
        for header in ["", "sha256=", "sha256=zz", "sha1=00", &GOOD[..GOOD.len() - 1], &format!("{GOOD}00")] {
            assert!(!verify_signature(&secret, BODY, header), "{header}");
        }
    }
}
