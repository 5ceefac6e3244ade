//! Ingestion of Meta's webhooks: verification, assignment to instances, and one commit.

use bytes::Bytes;
use subtle::ConstantTimeEq;

use crate::queue;
use relevo_cloud_api::Update;
use relevo_domain::Secret;

use super::commit::DeliveryPart;
use super::quarantine::NewQuarantineEntry;
use super::verify::{SignatureCheck, SignedBody, VerifiedDelivery};
use super::{DeliveryCounts, Error, Handle, WebhookAccount};

/// Maximum number of reasons that are stored with a quarantined body.
const MAX_REASONS: usize = 10;

/// Whether a verification request of Meta for the webhook URL has the verify token of the node or of an account.
pub fn verify_subscription(
    accounts: &[WebhookAccount],
    node_token: Option<&Secret>,
    mode: &str,
    token: &str,
) -> bool {
    let tokens = accounts.iter().filter_map(|account| account.verify_token.as_ref()).chain(node_token);
    let matches = tokens.filter(|secret| {
        !secret.is_empty() && bool::from(secret.expose().as_bytes().ct_eq(token.as_bytes()))
    });
    mode == "subscribe" && matches.count() > 0
}

impl Handle {
    /// Begins the signature check of a delivery to these accounts; `None` stands for an instance that does not exist, for
    /// which no signature is valid. `signature`: its `X-Hub-Signature-256`.
    ///
    /// The sender gets the same answer at the same time in both cases, so that the names of instances cannot be probed.
    ///
    /// # Errors
    ///
    /// [`Error::Signature`]: the delivery is refused whatever its body is.
    pub fn begin_check(
        &self,
        accounts: Option<&[WebhookAccount]>,
        signature: Option<&str>,
    ) -> Result<SignatureCheck, Error> {
        let check = match accounts {
            Some(accounts) => SignatureCheck::new(accounts, signature),
            None => SignatureCheck::without_account(&self.random, signature),
        };
        check.inspect_err(|error| self.record_metrics(&Err(error.clone())))
    }

    /// Ends the signature check of a delivery. `body`: all bytes that were given to the check.
    ///
    /// # Errors
    ///
    /// [`Error::Signature`]: no account accepts the signature.
    pub fn finish_check(&self, check: SignatureCheck, body: Bytes) -> Result<SignedBody, Error> {
        check.finish(body).inspect_err(|error| self.record_metrics(&Err(error.clone())))
    }

    /// Ingests a delivery. `Ok` means that everything in it is durable and Meta need not repeat it, including parts that
    /// could not be parsed, which are quarantined.
    ///
    /// # Errors
    ///
    /// An account that the delivery names did not sign it, or the commit failed. Nothing of the delivery is stored then, except statuses of sent
    /// messages, which are idempotent.
    pub async fn receive(
        &self,
        accounts: &[WebhookAccount],
        delivery: SignedBody,
    ) -> Result<DeliveryCounts, Error> {
        let result = self.ingest_webhook(accounts, delivery).await;
        self.record_metrics(&result);
        result
    }

    async fn ingest_webhook(
        &self,
        accounts: &[WebhookAccount],
        delivery: SignedBody,
    ) -> Result<DeliveryCounts, Error> {
        if self.store.is_full() {
            // Meta repeats the delivery for days. The remaining space is reserved for work in progress.
            return Err(queue::Error::DiskFull.into());
        }
        let verified = self.verifier.verify(accounts, &delivery).await?;
        let body = delivery.body;
        let VerifiedDelivery { trusted, updates, frames } = verified;
        let (parts, mut reasons) = match updates {
            Ok(updates) => assign_instances(&trusted, updates),
            Err(invalid) => (Vec::new(), vec![invalid.to_string()]),
        };
        let mut received = DeliveryCounts { unprocessable: reasons.len(), ..DeliveryCounts::default() };
        let parts = self.record_statuses(parts, self.relay.is_enabled(), &mut received).await?;
        let quarantine = (!reasons.is_empty()).then(|| {
            tracing::warn!(
                bytes = body.len(),
                parts = reasons.len(),
                "webhook has parts that cannot be processed; body quarantined"
            );
            reasons.truncate(MAX_REASONS);
            NewQuarantineEntry {
                body: body.clone(),
                reason: reasons.join("; "),
                signed: trusted.iter().any(|account| account.app_secret.is_some()),
            }
        });
        self.commit(parts, quarantine, frames, &mut received).await?;
        Ok(received)
    }

    /// Counts a delivery that was refused for its size before it was read.
    pub fn count_too_large(&self) {
        self.metrics.record_inbound("too_large", 1);
    }
}

/// The parts with their instances, and the reasons why other parts cannot be processed.
fn assign_instances(trusted: &[&WebhookAccount], updates: Vec<Update>) -> (Vec<DeliveryPart>, Vec<String>) {
    let (mut parts, mut reasons) = (Vec::with_capacity(updates.len()), Vec::new());
    for update in updates {
        match assign_instance(trusted, update) {
            Ok(part) => parts.push(part),
            Err(reason) => reasons.push(reason),
        }
    }
    (parts, reasons)
}

/// Assigns an update to an instance. A change of a whole business account names no number: it is assigned to the first
/// instance whose secret signed the delivery, or to the first without a secret if none signed it.
fn assign_instance(trusted: &[&WebhookAccount], update: Update) -> Result<DeliveryPart, String> {
    let account = match update.phone_number_id() {
        Some(phone) => trusted
            .iter()
            .find(|account| account.phone_number_id == phone)
            .ok_or_else(|| format!("no instance here has the phone_number_id {phone:.40}")),
        None => trusted
            .iter()
            .min_by_key(|account| (account.app_secret.is_none(), account.instance))
            .ok_or_else(|| "no instance can receive a change of a whole business account".to_owned()),
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
