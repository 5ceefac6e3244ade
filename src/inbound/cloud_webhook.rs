//! Meta's webhooks.

use bytes::Bytes;
use subtle::ConstantTimeEq;

use crate::queue;
use relevo_cloud_api::Update;
use relevo_domain::Secret;

use super::commit::DeliveryPart;
use super::quarantine::NewQuarantineEntry;
use super::verify::VerifiedDelivery;
use super::{DeliveryCounts, Error, Handle, WebhookAccount};

/// So many of the reasons why parts make no sense are kept with a body.
const MAX_REASONS: usize = 10;

/// Whether Meta's verification of the webhook's address carries a word that we know.
pub fn verify_subscription(
    accounts: &[WebhookAccount],
    node_token: Option<&Secret>,
    mode: &str,
    token: &str,
) -> bool {
    let known = accounts.iter().filter_map(|account| account.verify_token.as_ref()).chain(node_token);
    let matches = known.filter(|secret| {
        !secret.is_empty() && bool::from(secret.expose().as_bytes().ct_eq(token.as_bytes()))
    });
    mode == "subscribe" && matches.count() > 0
}

impl Handle {
    /// Takes a delivery in. When this answers `Ok`, everything in it is durable and Meta may forget it: also what
    /// nobody understood, which Meta would only repeat.
    ///
    /// # Errors
    ///
    /// The signature is wrong, or what came could not be made durable: then nothing of it is believed or kept, but for
    /// facts about our own messages, which change nothing when they come again.
    pub async fn receive(
        &self,
        accounts: &[WebhookAccount],
        body: Bytes,
        signature: Option<&str>,
    ) -> Result<DeliveryCounts, Error> {
        let taken = self.ingest_webhook(accounts, body, signature).await;
        self.record_metrics(&taken);
        taken
    }

    async fn ingest_webhook(
        &self,
        accounts: &[WebhookAccount],
        body: Bytes,
        signature: Option<&str>,
    ) -> Result<DeliveryCounts, Error> {
        if self.store.is_full() {
            // Meta keeps it for us, for days; what is in hand needs the space that is left.
            return Err(queue::Error::DiskFull.into());
        }
        let read = self.verifier.verify(accounts, &body, signature).await?;
        let VerifiedDelivery { trusted, updates, frames } = read;
        let (parts, mut odd) = match updates {
            Ok(updates) => assign_instances(&trusted, updates),
            Err(invalid) => (Vec::new(), vec![invalid.to_string()]),
        };
        let mut received = DeliveryCounts { unprocessable: odd.len(), ..DeliveryCounts::default() };
        let parts = self.record_statuses(parts, self.relay.is_enabled(), &mut received).await?;
        let keeping = (!odd.is_empty()).then(|| {
            tracing::warn!(
                bytes = body.len(),
                parts = odd.len(),
                "a webhook held parts that make no sense; it is kept"
            );
            odd.truncate(MAX_REASONS);
            NewQuarantineEntry {
                body: body.clone(),
                reason: odd.join("; "),
                signed: trusted.iter().any(|account| account.app_secret.is_some()),
            }
        });
        self.commit(parts, keeping, frames, &mut received).await?;
        Ok(received)
    }

    /// Counts a delivery that was refused for its size, before anybody read it.
    pub fn count_too_large(&self) {
        self.metrics.record_inbound("too_large", 1);
    }

    /// Counts a delivery to an instance that there is not. Its sender is told what a forger is told.
    pub fn reject_unknown_instance(&self) -> Error {
        self.metrics.record_inbound("forged", 1);
        Error::Signature
    }
}

/// The parts with their instances, and why others are odd.
fn assign_instances(trusted: &[&WebhookAccount], updates: Vec<Update>) -> (Vec<DeliveryPart>, Vec<String>) {
    let (mut parts, mut odd) = (Vec::with_capacity(updates.len()), Vec::new());
    for update in updates {
        match assign_instance(trusted, update) {
            Ok(part) => parts.push(part),
            Err(reason) => odd.push(reason),
        }
    }
    (parts, odd)
}

/// Which instance an update is for. News of a business account as a whole names no number: it goes to the first
/// instance whose secret signed it, and where none did, to the first that has none.
fn assign_instance(trusted: &[&WebhookAccount], update: Update) -> Result<DeliveryPart, String> {
    let account = match update.phone_number_id() {
        Some(phone) => trusted
            .iter()
            .find(|account| account.phone_number_id == phone)
            .ok_or_else(|| format!("no instance here has the phone_number_id {phone:.40}")),
        None => trusted
            .iter()
            .min_by_key(|account| (account.app_secret.is_none(), account.instance))
            .ok_or_else(|| "there is no instance that it could be for".to_owned()),
    };
    let signed = account.as_ref().is_ok_and(|account| account.app_secret.is_some());
    let account = account.map(|account| (account.instance, account.name.clone()));
    match update {
        Update::Malformed(reason) => Err(reason),
        Update::Message(received) => account.map(|(instance, name)| DeliveryPart::Message {
            instance,
            name,
            message: Box::new(received.message),
            signed,
        }),
        Update::Status(received) => account.map(|(instance, _)| DeliveryPart::Status {
            instance,
            status: Box::new(received.status),
            recorded: None,
        }),
        Update::Change(change) => {
            account.map(|(instance, _)| DeliveryPart::Change { instance, change, signed })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::InstanceNumber;

    fn account(number: [u8; 4], phone: &str, secret: Option<&str>) -> WebhookAccount {
        WebhookAccount {
            instance: InstanceNumber::from_be_bytes(number).unwrap(),
            name: "shop".parse().unwrap(),
            phone_number_id: phone.to_owned(),
            app_secret: secret.map(Secret::new),
            verify_token: Some(Secret::new("hola")),
        }
    }

    #[test]
    fn subscription_needs_a_known_verify_token() {
        let accounts = [account([0, 0, 0, 1], "1", None)];
        assert!(verify_subscription(&accounts, None, "subscribe", "hola"));
        assert!(verify_subscription(&[], Some(&Secret::new("node")), "subscribe", "node"));
        assert!(!verify_subscription(&accounts, None, "subscribe", "adios"));
        assert!(!verify_subscription(&accounts, None, "unsubscribe", "hola"));
        assert!(!verify_subscription(&[], None, "subscribe", ""));
        assert!(!verify_subscription(&[], Some(&Secret::new("")), "subscribe", ""));
    }
}
