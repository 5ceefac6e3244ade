//! Meta's webhooks.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{InstanceNumber, Secret};
use crate::events::{self, Event};
use crate::provider::cloud_api::{Raw, StatusUpdate, Update, parse_webhook, verify_signature};
use crate::queue::ReceiptReport;
use crate::store::{self, Key, Space, Tx};

use super::{Account, Error, Handle, Received, seen};

/// Bodies that nobody understood are kept for inspection, the newest so many.
const KEPT_BODIES: usize = 200;

/// Whether Meta's verification of the webhook's address carries a word that we know.
pub fn verify(accounts: &[Account], node_token: Option<&Secret>, mode: &str, token: &str) -> bool {
    let known = accounts.iter().filter_map(|account| account.verify_token.as_ref()).chain(node_token);
    let matches = known.filter(|secret| {
        !secret.is_empty() && bool::from(secret.expose().as_bytes().ct_eq(token.as_bytes()))
    });
    mode == "subscribe" && matches.count() > 0
}

impl Handle {
    /// Takes a delivery in. When this answers `Ok`, everything in it is durable and Meta may forget it.
    pub async fn receive(
        &self,
        accounts: &[Account],
        body: Bytes,
        signature: Option<&str>,
    ) -> Result<Received, Error> {
        let updates = parse_webhook(&body);
        let trusted = trusted_accounts(accounts, &updates, &body, signature)
            .inspect_err(|_| self.metrics.inbound("forged", 1))?;
        let updates = match updates {
            Ok(updates) => updates,
            // Signed and yet not a webhook as we know them: Meta would only repeat it.
            Err(_) if signature.is_some() && !trusted.is_empty() => {
                self.keep(&body).await?;
                self.metrics.inbound("odd", 1);
                return Ok(Received { odd: 1, ..Received::default() });
            }
            Err(invalid) => return Err(invalid.into()),
        };
        let mut received = Received::default();
        let (mut reports, mut raws) = (Vec::new(), Vec::new());
        for update in updates {
            match sort(&trusted, update) {
                Some(Sorted::Report(report)) => reports.push(report),
                Some(Sorted::Raw(instance, raw)) => raws.push((instance, raw)),
                None => received.odd += 1,
            }
        }
        received.statuses = reports.len();
        if !reports.is_empty() {
            self.queue.record(reports).await?;
        }
        if !raws.is_empty() {
            let all = raws.len();
            received.events = self.append(raws).await?;
            received.duplicates = all - received.events;
        }
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.metrics.inbound("event", count(received.events));
        self.metrics.inbound("duplicate", count(received.duplicates));
        self.metrics.inbound("odd", count(received.odd));
        if received.odd > 0 {
            self.keep(&body).await?;
        }
        Ok(received)
    }

    /// Appends what was not delivered before to the logs of its instances; tells how much that was.
    async fn append(&self, raws: Vec<(InstanceNumber, Raw)>) -> Result<usize, Error> {
        let now = self.clock.now();
        let append = move |tx: &mut Tx| {
            let mut fresh = 0;
            for (instance, raw) in raws {
                let digest = digest_of(&raw);
                if seen::first_time(tx, instance, &digest, now)? {
                    let data = serde_json::json!({ "field": raw.field, "value": raw.value });
                    events::append(tx, instance, &Event { kind: "raw".to_owned(), at: now, data })?;
                    fresh += 1;
                }
            }
            Ok(fresh)
        };
        Ok(self.store.write(append).await?)
    }

    /// Keeps a body that could not be understood, forgetting the oldest of those kept.
    async fn keep(&self, body: &Bytes) -> Result<(), Error> {
        tracing::warn!(
            bytes = body.len(),
            "a webhook held parts that made no sense or concern no instance; it is kept"
        );
        let (now, body) = (self.clock.now(), body.clone());
        let keep = move |tx: &mut Tx| {
            let all = Key::new(Space::Raw);
            let kept: Vec<Key> = {
                let entries = tx.range(&all, &all.clone().after_prefix());
                entries.map(|entry| entry.map(|(key, _)| Key::from(key))).collect::<Result<_, _>>()?
            };
            let excess = (kept.len() + 1).saturating_sub(KEPT_BODIES);
            for key in kept.into_iter().take(excess) {
                store::delete_large(tx, key)?;
            }
            store::put_large(tx, Key::new(Space::Raw).u64(now.millis()).u64(rand::random()), &body)
        };
        Ok(self.store.write(keep).await?)
    }
}

/// The accounts that this delivery may speak for: those whose secret signed it, and those that have none.
///
/// A valid signature of one account says nothing about another, so each account is only believed under its own.
fn trusted_accounts<'a>(
    accounts: &'a [Account],
    updates: &Result<Vec<Update>, crate::domain::Invalid>,
    body: &[u8],
    signature: Option<&str>,
) -> Result<Vec<&'a Account>, Error> {
    let signed = |secret: &Secret| signature.is_some_and(|header| verify_signature(secret, body, header));
    let trusted: Vec<_> =
        accounts.iter().filter(|account| account.app_secret.as_ref().is_none_or(signed)).collect();
    let untrusted = |phone: &str| {
        accounts.iter().any(|account| account.phone_number_id == phone)
            && !trusted.iter().any(|account| account.phone_number_id == phone)
    };
    let forged = match updates {
        Ok(updates) => updates.iter().filter_map(phone_of).any(untrusted),
        Err(_) => false,
    };
    let nobody = !accounts.is_empty() && trusted.is_empty();
    if forged || nobody { Err(Error::Signature) } else { Ok(trusted) }
}

fn phone_of(update: &Update) -> Option<&str> {
    match update {
        Update::Status(status) => Some(&status.phone_number_id),
        Update::Raw(raw) => raw.phone_number_id.as_deref(),
        Update::Malformed(_) => None,
    }
}

enum Sorted {
    Report(ReceiptReport),
    Raw(InstanceNumber, Raw),
}

/// Which instance an update is for. News of the business account as a whole goes to the first of its instances.
fn sort(trusted: &[&Account], update: Update) -> Option<Sorted> {
    let by_phone = |phone: &str| trusted.iter().find(|account| account.phone_number_id == phone);
    match update {
        Update::Status(status) => {
            let account = by_phone(&status.phone_number_id)?;
            Some(Sorted::Report(report(account.instance, *status)))
        }
        Update::Raw(raw) => {
            let account = match &raw.phone_number_id {
                Some(phone) => by_phone(phone),
                None => trusted.iter().min_by_key(|account| account.instance),
            };
            Some(Sorted::Raw(account?.instance, raw))
        }
        Update::Malformed(reason) => {
            tracing::warn!(reason, "a part of a webhook makes no sense");
            None
        }
    }
}

fn report(instance: InstanceNumber, status: StatusUpdate) -> ReceiptReport {
    ReceiptReport {
        instance,
        id: status.our_id,
        provider_id: status.provider_id,
        receipt: status.receipt,
        at: status.at,
        failure: status.failure,
    }
}

fn digest_of(raw: &Raw) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(raw.field.as_bytes())
        .chain_update([0])
        .chain_update(raw.account.as_deref().unwrap_or_default())
        .chain_update([0])
        .chain_update(raw.at.map_or(0, |at| at.millis()).to_be_bytes())
        .chain_update(raw.value.to_string())
        .finalize()
        .into();
    digest.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: [u8; 4], phone: &str, secret: Option<&str>) -> Account {
        Account {
            instance: InstanceNumber::from_be_bytes(number).unwrap(),
            phone_number_id: phone.to_owned(),
            app_secret: secret.map(Secret::new),
            verify_token: Some(Secret::new("hola")),
        }
    }

    fn sign(secret: &str, body: &[u8]) -> String {
        use hmac::{Hmac, Mac};
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(body);
        let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256={hex}")
    }

    fn body(phone: &str) -> Vec<u8> {
        let value = serde_json::json!({ "metadata": { "phone_number_id": phone }, "messages": [{ "id": "wamid.1" }] });
        let entry = serde_json::json!([{ "id": "W", "changes": [{ "field": "messages", "value": value }] }]);
        serde_json::json!({ "object": "whatsapp_business_account", "entry": entry }).to_string().into_bytes()
    }

    fn trusted(accounts: &[Account], body: &[u8], signature: Option<&str>) -> Result<usize, Error> {
        trusted_accounts(accounts, &parse_webhook(body), body, signature).map(|trusted| trusted.len())
    }

    #[test]
    fn only_a_known_word_verifies() {
        let accounts = [account([0, 0, 0, 1], "1", None)];
        assert!(verify(&accounts, None, "subscribe", "hola"));
        assert!(verify(&[], Some(&Secret::new("node")), "subscribe", "node"));
        assert!(!verify(&accounts, None, "subscribe", "adios"));
        assert!(!verify(&accounts, None, "unsubscribe", "hola"));
        assert!(!verify(&[], None, "subscribe", ""));
        assert!(!verify(&[], Some(&Secret::new("")), "subscribe", ""));
    }

    #[test]
    fn an_account_is_believed_under_its_own_secret_alone() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one")), account([0, 0, 0, 2], "2", Some("two"))];
        let first = body("1");
        assert_eq!(trusted(&accounts, &first, Some(&sign("one", &first))).unwrap(), 1);
        for forged in [None, Some(sign("two", &first)), Some("sha256=00".to_owned()), Some(String::new())] {
            let outcome = trusted(&accounts, &first, forged.as_deref());
            assert!(matches!(outcome, Err(Error::Signature)), "{forged:?}");
        }
    }

    #[test]
    fn an_account_without_a_secret_takes_what_comes() {
        let accounts = [account([0, 0, 0, 1], "1", Some("one")), account([0, 0, 0, 2], "2", None)];
        assert_eq!(trusted(&accounts, &body("2"), None).unwrap(), 1);
        assert!(matches!(trusted(&accounts, &body("1"), None), Err(Error::Signature)));
    }
}
