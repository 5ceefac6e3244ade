//! Signatures of Meta's webhooks. They are checked over the raw bytes before the body is parsed.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use relevo_cloud_api::{Update, parse_webhook, verify_signature};
use relevo_domain::{Secret, ValidationError};
use relevo_store as store;

use super::frames::WebhookFrames;
use super::{Error, WebhookAccount};

/// Bodies of at least this size, in bytes, are verified and parsed on a blocking thread.
const LARGE_BODY: usize = 64 << 10;

/// Maximum number of large bodies that are verified at once, so that large forged bodies cannot occupy all processors.
const MAX_LARGE_CHECKS: usize = 1;

/// Verifies and parses deliveries. Cheap to clone.
#[derive(Clone)]
pub(super) struct Verifier {
    large_checks: Arc<Semaphore>,
    /// Whether frames for the relay are built.
    relay_enabled: bool,
}

/// A verified and parsed delivery.
pub(super) struct VerifiedDelivery<'a> {
    /// The accounts that accept the delivery: those whose secret signed it, and those without a secret.
    pub trusted: Vec<&'a WebhookAccount>,
    /// The parsed parts, or why the body is no webhook.
    pub updates: Result<Vec<Update>, ValidationError>,
    /// Frames for the relay; `None` if it is disabled.
    pub frames: Option<WebhookFrames>,
}

impl Verifier {
    /// A verifier that also builds frames if `relay_enabled` is set.
    pub fn new(relay_enabled: bool) -> Self {
        Self { large_checks: Arc::new(Semaphore::new(MAX_LARGE_CHECKS)), relay_enabled }
    }

    /// Verifies and parses a delivery.
    ///
    /// A valid signature of one account proves nothing about another, so each account accepts deliveries under its own
    /// secret only. A body that is no webhook names no account: it must be signed with any known secret, unless no
    /// account has one.
    ///
    /// # Errors
    ///
    /// The secret of an account that the delivery names has not signed it.
    pub async fn verify<'a>(
        &self,
        accounts: &'a [WebhookAccount],
        body: &Bytes,
        signature: Option<&str>,
    ) -> Result<VerifiedDelivery<'a>, Error> {
        let check = SignatureCheck {
            relay_enabled: self.relay_enabled,
            ..SignatureCheck::new(accounts, body.clone(), signature)
        };
        if check.lacks_required_signature() {
            return Err(Error::Signature);
        }
        let checked = if body.len() < LARGE_BODY {
            check.run()
        } else {
            // The semaphore is never closed.
            let _permit = self.large_checks.acquire().await;
            let checking = tokio::task::spawn_blocking(move || check.run());
            checking.await.map_err(|_| Error::Store(store::Error::Panicked))?
        };
        let SignatureResult { signer, updates, frames } = checked.ok_or(Error::Signature)?;
        let is_trusted =
            |account: &&WebhookAccount| account.app_secret.is_none() || account.app_secret == signer;
        let trusted: Vec<_> = accounts.iter().filter(is_trusted).collect();
        let untrusted = |phone: &str| {
            accounts.iter().any(|account| account.phone_number_id == phone)
                && !trusted.iter().any(|account| account.phone_number_id == phone)
        };
        let forged = match &updates {
            Ok(updates) => updates.iter().filter_map(Update::phone_number_id).any(untrusted),
            Err(_) => signer.is_none() && accounts.iter().any(|account| account.app_secret.is_some()),
        };
        if forged { Err(Error::Signature) } else { Ok(VerifiedDelivery { trusted, updates, frames }) }
    }
}

/// The inputs of a signature check.
struct SignatureCheck {
    /// The distinct secrets. Most nodes have one Meta app, and so one secret, for all numbers.
    secrets: Vec<Secret>,
    /// Whether an account accepts unsigned deliveries.
    allows_unsigned: bool,
    relay_enabled: bool,
    body: Bytes,
    signature: Option<String>,
}

struct SignatureResult {
    signer: Option<Secret>,
    updates: Result<Vec<Update>, ValidationError>,
    frames: Option<WebhookFrames>,
}

impl SignatureCheck {
    fn new(accounts: &[WebhookAccount], body: Bytes, signature: Option<&str>) -> Self {
        let mut secrets: Vec<Secret> = Vec::new();
        for secret in accounts.iter().filter_map(|account| account.app_secret.as_ref()) {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        let allows_unsigned =
            secrets.is_empty() || accounts.iter().any(|account| account.app_secret.is_none());
        Self { secrets, allows_unsigned, relay_enabled: false, body, signature: signature.map(str::to_owned) }
    }

    /// Whether the delivery has no signature although every account requires one.
    fn lacks_required_signature(&self) -> bool {
        self.signature.is_none() && !self.allows_unsigned
    }

    /// Checks the signature and parses the body. `None` if it is forged; the body is not parsed then.
    fn run(self) -> Option<SignatureResult> {
        let Self { secrets, allows_unsigned, relay_enabled, body, signature } = self;
        let signer = signature
            .and_then(|header| secrets.into_iter().find(|secret| verify_signature(secret, &body, &header)));
        if signer.is_none() && !allows_unsigned {
            return None;
        }
        let webhook = if relay_enabled { serde_json::from_slice(&body).ok() } else { None };
        let frames = webhook.map(WebhookFrames::from_webhook);
        Some(SignatureResult { signer, updates: parse_webhook(&body), frames })
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::Sha256;

    use super::*;
    use relevo_domain::InstanceNumber;

    fn account(number: [u8; 4], phone: &str, secret: Option<&str>) -> WebhookAccount {
        WebhookAccount {
            instance: InstanceNumber::from_be_bytes(number).unwrap(),
            name: "shop".parse().unwrap(),
            phone_number_id: phone.to_owned(),
            app_secret: secret.map(Secret::new),
            verify_token: None,
        }
    }

    fn sign(secret: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(body);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256={hex}")
    }

    fn body(phone: &str, padding: usize) -> Bytes {
        let text = "x".repeat(padding);
        let message = serde_json::json!({ "id": "wamid.1", "from": "1", "timestamp": "1", "type": "text", "text": { "body": text } });
        let value = serde_json::json!({ "metadata": { "phone_number_id": phone }, "messages": [message] });
        let entry = serde_json::json!([{ "id": "W", "changes": [{ "field": "messages", "value": value }] }]);
        serde_json::json!({ "object": "whatsapp_business_account", "entry": entry }).to_string().into()
    }

    async fn trusted(
        accounts: &[WebhookAccount],
        body: &Bytes,
        signature: Option<&str>,
    ) -> Result<Vec<u32>, Error> {
        let read = Verifier::new(false).verify(accounts, body, signature).await?;
        Ok(read.trusted.iter().map(|account| account.instance.get()).collect())
    }

    #[tokio::test]
    async fn account_accepts_only_its_own_secret() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one")), account([0, 0, 0, 2], "2", Some("two"))];
        for size in [0, LARGE_BODY] {
            let first = body("1", size);
            assert_eq!(trusted(&accounts, &first, Some(&sign("one", &first))).await.unwrap(), [1]);
            for forged in [None, Some(sign("two", &first)), Some("sha256=00".to_owned()), Some(String::new())]
            {
                let outcome = trusted(&accounts, &first, forged.as_deref()).await;
                assert!(matches!(outcome, Err(Error::Signature)), "{forged:?}");
            }
        }
    }

    #[tokio::test]
    async fn numbers_of_one_app_share_its_secret() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one")), account([0, 0, 0, 2], "2", Some("one"))];
        let first = body("1", 0);
        assert_eq!(SignatureCheck::new(&accounts, first.clone(), None).secrets.len(), 1);
        assert_eq!(trusted(&accounts, &first, Some(&sign("one", &first))).await.unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn account_without_a_secret_accepts_unsigned_webhooks() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one")), account([0, 0, 0, 2], "2", None)];
        assert_eq!(trusted(&accounts, &body("2", 0), None).await.unwrap(), [2]);
        assert!(matches!(trusted(&accounts, &body("1", 0), None).await, Err(Error::Signature)));
        assert_eq!(trusted(&accounts[1..], &Bytes::from_static(b"{"), None).await.unwrap(), [2]);
        assert!(matches!(trusted(&accounts, &Bytes::from_static(b"{"), None).await, Err(Error::Signature)));
    }

    #[test]
    fn forged_body_is_not_parsed() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one"))];
        let first = body("1", 0);
        assert!(SignatureCheck::new(&accounts, first.clone(), None).lacks_required_signature());
        assert!(SignatureCheck::new(&accounts, first, Some("sha256=00")).run().is_none());
    }
}
