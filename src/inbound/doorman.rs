//! Who is believed, and what was said: signatures are checked on the bytes as they came, before anybody tries to
//! understand them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use relevo_cloud_api::{Update, parse_webhook, verify_signature};
use relevo_domain::{Invalid, Secret};
use relevo_store as store;

use super::frames::Frames;
use super::{Account, Error};

/// Bodies from this size on are read beside the threads that serve requests, in bytes.
const HEAVY: usize = 64 << 10;

/// Of such bodies, so many are read at once: whoever sends large forgeries takes a processor, and never all of them.
const HEAVY_AT_ONCE: usize = 1;

/// Reads deliveries and says for whom they may speak. Cheap to clone.
#[derive(Clone)]
pub(super) struct Doorman {
    heavy: Arc<Semaphore>,
    /// Whether deliveries are to be told to a relay.
    relays: bool,
}

/// A delivery that was read.
pub(super) struct Read<'a> {
    /// The accounts that it may speak for: those whose secret signed it, and those that have none.
    pub trusted: Vec<&'a Account>,
    pub updates: Result<Vec<Update>, Invalid>,
    /// What the relay may be told; `None` when nothing is relayed.
    pub frames: Option<Frames>,
}

impl Doorman {
    pub fn new(relays: bool) -> Self {
        Self { heavy: Arc::new(Semaphore::new(HEAVY_AT_ONCE)), relays }
    }

    /// Reads a delivery.
    ///
    /// A valid signature of one account says nothing about another, so each account is only believed under its own
    /// secret. What is no webhook names no account: it must be signed by some secret that is known, unless none is.
    ///
    /// # Errors
    ///
    /// Nobody that it speaks for has signed it.
    pub async fn read<'a>(
        &self,
        accounts: &'a [Account],
        body: &Bytes,
        signature: Option<&str>,
    ) -> Result<Read<'a>, Error> {
        let check = Check { relays: self.relays, ..Check::of(accounts, body.clone(), signature) };
        if check.is_hopeless() {
            return Err(Error::Signature);
        }
        let checked = if body.len() < HEAVY {
            check.run()
        } else {
            // The semaphore is never closed.
            let _place = self.heavy.acquire().await;
            let checking = tokio::task::spawn_blocking(move || check.run());
            checking.await.map_err(|_| Error::Store(store::Error::Panicked))?
        };
        let Checked { signer, updates, frames } = checked.ok_or(Error::Signature)?;
        let is_trusted = |account: &&Account| account.app_secret.is_none() || account.app_secret == signer;
        let trusted: Vec<_> = accounts.iter().filter(is_trusted).collect();
        let untrusted = |phone: &str| {
            accounts.iter().any(|account| account.phone_number_id == phone)
                && !trusted.iter().any(|account| account.phone_number_id == phone)
        };
        let forged = match &updates {
            Ok(updates) => updates.iter().filter_map(Update::phone_number_id).any(untrusted),
            Err(_) => signer.is_none() && accounts.iter().any(|account| account.app_secret.is_some()),
        };
        if forged { Err(Error::Signature) } else { Ok(Read { trusted, updates, frames }) }
    }
}

/// What it takes to find out who signed a body.
struct Check {
    /// Every secret once: most nodes have one Meta app for all of their numbers.
    secrets: Vec<Secret>,
    /// Whether somebody may be spoken for without a signature.
    open: bool,
    relays: bool,
    body: Bytes,
    signature: Option<String>,
}

struct Checked {
    signer: Option<Secret>,
    updates: Result<Vec<Update>, Invalid>,
    frames: Option<Frames>,
}

impl Check {
    fn of(accounts: &[Account], body: Bytes, signature: Option<&str>) -> Self {
        let mut secrets: Vec<Secret> = Vec::new();
        for secret in accounts.iter().filter_map(|account| account.app_secret.as_ref()) {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        let open = secrets.is_empty() || accounts.iter().any(|account| account.app_secret.is_none());
        Self { secrets, open, relays: false, body, signature: signature.map(str::to_owned) }
    }

    /// Nothing was signed, and nobody is spoken for without that.
    fn is_hopeless(&self) -> bool {
        self.signature.is_none() && !self.open
    }

    /// `None` for what is forged for certain; that is not even understood.
    fn run(self) -> Option<Checked> {
        let Self { secrets, open, relays, body, signature } = self;
        let signer = signature
            .and_then(|header| secrets.into_iter().find(|secret| verify_signature(secret, &body, &header)));
        (open || signer.is_some()).then(|| Checked {
            signer,
            updates: parse_webhook(&body),
            frames: relays.then(|| serde_json::from_slice(&body).ok()).flatten().map(Frames::of),
        })
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::Sha256;

    use super::*;
    use relevo_domain::InstanceNumber;

    fn account(number: [u8; 4], phone: &str, secret: Option<&str>) -> Account {
        Account {
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

    async fn trusted(accounts: &[Account], body: &Bytes, signature: Option<&str>) -> Result<Vec<u32>, Error> {
        let read = Doorman::new(false).read(accounts, body, signature).await?;
        Ok(read.trusted.iter().map(|account| account.instance.get()).collect())
    }

    #[tokio::test]
    async fn an_account_is_believed_under_its_own_secret_alone() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one")), account([0, 0, 0, 2], "2", Some("two"))];
        for size in [0, HEAVY] {
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
        assert_eq!(Check::of(&accounts, first.clone(), None).secrets.len(), 1);
        assert_eq!(trusted(&accounts, &first, Some(&sign("one", &first))).await.unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn an_account_without_a_secret_takes_what_comes() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one")), account([0, 0, 0, 2], "2", None)];
        assert_eq!(trusted(&accounts, &body("2", 0), None).await.unwrap(), [2]);
        assert!(matches!(trusted(&accounts, &body("1", 0), None).await, Err(Error::Signature)));
        assert_eq!(trusted(&accounts[1..], &Bytes::from_static(b"{"), None).await.unwrap(), [2]);
        assert!(matches!(trusted(&accounts, &Bytes::from_static(b"{"), None).await, Err(Error::Signature)));
    }

    #[test]
    fn what_is_forged_is_not_understood() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one"))];
        let first = body("1", 0);
        assert!(Check::of(&accounts, first.clone(), None).is_hopeless());
        assert!(Check::of(&accounts, first, Some("sha256=00")).run().is_none());
    }
}
