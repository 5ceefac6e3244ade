//! Signatures of Meta's webhooks. They are checked over the raw bytes, while these arrive and before they are parsed.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use relevo_clock::Random;
use relevo_cloud_api::{BodyMac, ClaimedSignature, Update, parse_webhook};
use relevo_domain::{Secret, ValidationError};
use relevo_store as store;

use super::frames::WebhookFrames;
use super::{Error, WebhookAccount};

/// Bodies of at least this size, in bytes, are parsed on a blocking thread.
const LARGE_BODY: usize = 64 << 10;

/// Maximum number of large bodies that are parsed at once, so that they cannot occupy all processors.
const MAX_LARGE_BODIES: usize = 1;

/// Other tasks run after this many bytes were hashed, so that forged bodies cannot occupy a thread.
const HASHED_AT_ONCE: usize = 64 << 10;

/// The signature check of a delivery whose body is arriving. It costs the memory of one digest for each distinct secret.
pub struct SignatureCheck {
    claimed: Option<ClaimedSignature>,
    /// The distinct secrets with what they would sign. Most nodes have one Meta app, and so one secret, for all numbers.
    macs: Vec<(Secret, BodyMac)>,
    /// Whether an account accepts unsigned deliveries.
    allows_unsigned: bool,
    /// Bytes since other tasks could run.
    hashed: usize,
}

/// A body whose signature holds, or of which no account requires one.
pub struct SignedBody {
    pub(super) body: Bytes,
    /// The secret that signed it.
    signer: Option<Secret>,
}

impl SignatureCheck {
    /// The check of a delivery to these accounts. `signature`: its `X-Hub-Signature-256`.
    ///
    /// # Errors
    ///
    /// [`Error::Signature`]: it has no signature, or one that no body has, although every account requires one.
    pub(super) fn new(accounts: &[WebhookAccount], signature: Option<&str>) -> Result<Self, Error> {
        let allows_unsigned =
            accounts.is_empty() || accounts.iter().any(|account| account.app_secret.is_none());
        let secrets = accounts.iter().filter_map(|account| account.app_secret.as_ref());
        Self::with_secrets(secrets, allows_unsigned, signature)
    }

    /// The check of a delivery to an instance that does not exist: it takes as long as one for an instance that does, and
    /// fails.
    pub(super) fn without_account(random: &Random, signature: Option<&str>) -> Result<Self, Error> {
        let secret = Secret::new(format!("{:032x}", random.value::<u128>()));
        Self::with_secrets([&secret].into_iter(), false, signature)
    }

    fn with_secrets<'a>(
        secrets: impl Iterator<Item = &'a Secret>,
        allows_unsigned: bool,
        signature: Option<&str>,
    ) -> Result<Self, Error> {
        let claimed = signature.and_then(ClaimedSignature::parse);
        if claimed.is_none() && !allows_unsigned {
            return Err(Error::Signature);
        }
        let mut macs: Vec<(Secret, BodyMac)> = Vec::new();
        for secret in secrets.filter(|_| claimed.is_some()) {
            if !macs.iter().any(|(known, _)| known == secret)
                && let Some(mac) = BodyMac::new(secret)
            {
                macs.push((secret.clone(), mac));
            }
        }
        Ok(Self { claimed, macs, allows_unsigned, hashed: 0 })
    }

    /// Adds the next bytes of the body, as they were received.
    pub async fn update(&mut self, bytes: &[u8]) {
        for (_, mac) in &mut self.macs {
            mac.update(bytes);
            self.hashed += bytes.len();
            if self.hashed >= HASHED_AT_ONCE {
                self.hashed = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether the signature holds. `body`: the bytes of all updates.
    ///
    /// # Errors
    ///
    /// [`Error::Signature`]: no secret signed it, and every account requires that.
    pub(super) fn finish(self, body: Bytes) -> Result<SignedBody, Error> {
        let Self { claimed, macs, allows_unsigned, hashed: _ } = self;
        let signer =
            claimed.and_then(|claimed| macs.into_iter().find(|(_, mac)| mac.clone().matches(&claimed)));
        if signer.is_none() && !allows_unsigned {
            return Err(Error::Signature);
        }
        Ok(SignedBody { body, signer: signer.map(|(secret, _)| secret) })
    }
}

/// Parses signed bodies. Cheap to clone.
#[derive(Clone)]
pub(super) struct Verifier {
    large_bodies: Arc<Semaphore>,
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
        Self { large_bodies: Arc::new(Semaphore::new(MAX_LARGE_BODIES)), relay_enabled }
    }

    /// Parses a signed body and checks for which accounts its signature counts.
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
        signed: &SignedBody,
    ) -> Result<VerifiedDelivery<'a>, Error> {
        let SignedBody { body, signer } = signed;
        let (updates, frames) = self.parse(body).await?;
        let is_trusted =
            |account: &&WebhookAccount| account.app_secret.is_none() || account.app_secret == *signer;
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

    async fn parse(&self, body: &Bytes) -> Result<ParsedBody, Error> {
        let relay_enabled = self.relay_enabled;
        if body.len() < LARGE_BODY {
            return Ok(parse(body, relay_enabled));
        }
        // The semaphore is never closed.
        let _permit = self.large_bodies.acquire().await;
        let body = body.clone();
        let parsing = tokio::task::spawn_blocking(move || parse(&body, relay_enabled));
        parsing.await.map_err(|_| Error::Store(store::Error::Panicked))
    }
}

type ParsedBody = (Result<Vec<Update>, ValidationError>, Option<WebhookFrames>);

fn parse(body: &Bytes, relay_enabled: bool) -> ParsedBody {
    let webhook = if relay_enabled { serde_json::from_slice(body).ok() } else { None };
    (parse_webhook(body), webhook.map(WebhookFrames::from_webhook))
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
        let mut check = SignatureCheck::new(accounts, signature)?;
        for chunk in body.chunks(1000) {
            check.update(chunk).await;
        }
        let signed = check.finish(body.clone())?;
        let read = Verifier::new(false).verify(accounts, &signed).await?;
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
        let check = SignatureCheck::new(&accounts, Some(&sign("one", &first))).unwrap();
        assert_eq!(check.macs.len(), 1);
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

    #[tokio::test]
    async fn forged_body_is_rejected_before_it_is_parsed() {
        let random = Random::seeded(1);
        let accounts = [account([0, 0, 0, 1], "1", Some("one"))];
        let first = body("1", 0);
        for unsigned in [None, Some("sha256=00")] {
            assert!(
                matches!(SignatureCheck::new(&accounts, unsigned), Err(Error::Signature)),
                "{unsigned:?}"
            );
            assert!(
                matches!(SignatureCheck::without_account(&random, unsigned), Err(Error::Signature)),
                "{unsigned:?}"
            );
        }
        let forged = sign("two", &first);
        let checks = [
            SignatureCheck::new(&accounts, Some(&forged)),
            SignatureCheck::without_account(&random, Some(&forged)),
        ];
        for check in checks {
            let mut check = check.unwrap();
            check.update(&first).await;
            assert!(matches!(check.finish(first.clone()), Err(Error::Signature)));
        }
    }
}
