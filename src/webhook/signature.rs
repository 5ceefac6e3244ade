//! The two signatures of a delivery, made with the key of the endpoint.

use std::fmt;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use relevo_domain::{Secret, ValidationError};

/// Prefix of secrets in base64 (Standard Webhooks 1.0.0, "Signature scheme").
const BASE64_PREFIX: &str = "whsec_";

/// Maximum length of a secret, in bytes of its text.
const MAX_SECRET: usize = 512;

/// Base64 with or without padding; both forms of secrets are in use.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Signs with the key of one endpoint.
#[derive(Clone)]
pub(super) struct Signer(Hmac<Sha256>);

impl Signer {
    /// A signer whose key is the bytes of the secret, or the decoded base64 after the prefix `whsec_`.
    ///
    /// # Errors
    ///
    /// The secret is too long, or is no base64 after the prefix.
    pub fn new(secret: &Secret) -> Result<Self, ValidationError> {
        let text = secret.expose();
        if text.len() > MAX_SECRET {
            return Err(ValidationError::new(
                "secret",
                format!("use a secret of at most {MAX_SECRET} bytes"),
            ));
        }
        let invalid =
            || ValidationError::new("secret", "what follows whsec_ must be base64 of at least one byte");
        let key = match text.strip_prefix(BASE64_PREFIX) {
            None => text.as_bytes().to_vec(),
            Some(encoded) => {
                LENIENT.decode(encoded).ok().filter(|key| !key.is_empty()).ok_or_else(invalid)?
            }
        };
        // HMAC accepts keys of any length (RFC 2104).
        Hmac::new_from_slice(&key).map(Self).map_err(|_| invalid())
    }

    /// The value of `X-Webhook-Signature`: the HMAC-SHA256 of the body in lowercase hexadecimal, as the gateway before
    /// relevo signed.
    pub fn sign_body(&self, body: &[u8]) -> String {
        let digest = self.digest(&[body]);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The value of `webhook-signature`: the HMAC-SHA256 of `id.timestamp.body` in base64 (Standard Webhooks). `id` must
    /// not contain a dot.
    pub fn sign_message(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let digest = self.digest(&[id.as_bytes(), b".", timestamp.to_string().as_bytes(), b".", body]);
        format!("v1,{}", STANDARD.encode(digest))
    }

    fn digest(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"instance_id":"your_instance_id","event":"message_ack","timestamp":1678886400,"data":{"correlation_id":"b7e7a8c8-f3b1-4f6e-a5b5-ae6f2f2f8a4e","message_id":"1A2B3C4D5E6F7G8H","status":"sent"}}"#;
    const ID: &str = "evt_0123456789abcdef0123456789abcdef_7_42";

    fn signer(secret: &str) -> Signer {
        Signer::new(&Secret::new(secret)).unwrap()
    }

    /// The expected signatures of each row are from PyPI's `standardwebhooks` 1.1.0 (`Webhook(key).sign`) and from Python's
    /// `hmac` with the same key.
    #[test]
    fn signatures_match_the_reference_library() {
        for (secret, standard, plain) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "v1,tWTGsx+kM83OA0LCdcURdaYlb1HchENQWlP/JDKGo+k=",
                "cfad9d3bba82aeb73456c48be5ea38f2a36ee0e4f76c476997a1b4e9d981d5a0",
            ),
            (
                "una clave cualquiera",
                "v1,4IGPcFRINCfMtLlMAYvVneyZqRVV1Lt1zQGHx952ALQ=",
                "35b2dfa6802fdf4a1eae323573ad0c2ae4e62acdfeb92078766d0df440f417b7",
            ),
            (
                "contraseña",
                "v1,IZU4g/SfaDVvakxcWprT+SsdQ07ypYhkatf0IGCGsmg=",
                "c71fb8047edfdf68f65cbec4bccdccda230fefda86ae44c6ef671ed5c882f163",
            ),
        ] {
            let signer = signer(secret);
            assert_eq!(signer.sign_message(ID, 1_678_886_405, BODY.as_bytes()), standard);
            assert_eq!(signer.sign_body(BODY.as_bytes()), plain);
        }
        let body = r#"{"text":"¡Hola, señor! 🎉"}"#;
        assert_eq!(
            signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").sign_message(
                "evt_x_1_1",
                1_700_000_000,
                body.as_bytes()
            ),
            "v1,EgOmiwrvPZORZjsSRjXFxyfgfRPoWrPoe5npm4ranqk="
        );
    }

    #[test]
    fn base64_may_lack_its_padding() {
        assert_eq!(signer("whsec_AQ==").sign_body(b"x"), signer("whsec_AQ").sign_body(b"x"));
    }

    #[test]
    fn invalid_base64_secrets_are_refused() {
        for bad in ["whsec_", "whsec_====", "whsec_not base64!", "whsec_é"] {
            assert!(Signer::new(&Secret::new(bad)).is_err(), "{bad}");
        }
        assert!(Signer::new(&Secret::new("x".repeat(MAX_SECRET + 1))).is_err());
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert_eq!(format!("{:?}", signer("abc")), "Signer(…)");
    }
}
