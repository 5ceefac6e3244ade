//! Meta's webhooks.

use bytes::Bytes;
use subtle::ConstantTimeEq;

use crate::queue;
use relevo_cloud_api::Update;
use relevo_domain::Secret;

use super::commit::Part;
use super::doorman::Read;
use super::kept::Keeping;
use super::{Account, Error, Handle, Received};

/// So many of the reasons why parts make no sense are kept with a body.
const REASONS: usize = 10;

/// Whether Meta's verification of the webhook's address carries a word that we know.
pub fn verify(accounts: &[Account], node_token: Option<&Secret>, mode: &str, token: &str) -> bool {
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
        accounts: &[Account],
        body: Bytes,
        signature: Option<&str>,
    ) -> Result<Received, Error> {
        let taken = self.take(accounts, body, signature).await;
        self.count(&taken);
        taken
    }

    async fn take(
        &self,
        accounts: &[Account],
        body: Bytes,
        signature: Option<&str>,
    ) -> Result<Received, Error> {
        if self.store.is_full() {
            // Meta keeps it for us, for days; what is in hand needs the space that is left.
            return Err(queue::Error::DiskFull.into());
        }
        let read = self.doorman.read(accounts, &body, signature).await?;
        let Read { trusted, updates, frames } = read;
        let (parts, mut odd) = match updates {
            Ok(updates) => sort_all(&trusted, updates),
            Err(invalid) => (Vec::new(), vec![invalid.to_string()]),
        };
        let mut received = Received { odd: odd.len(), ..Received::default() };
        let parts = self.record(parts, self.relay.is_on(), &mut received).await?;
        let keeping = (!odd.is_empty()).then(|| {
            tracing::warn!(
                bytes = body.len(),
                parts = odd.len(),
                "a webhook held parts that make no sense; it is kept"
            );
            odd.truncate(REASONS);
            Keeping {
                body: body.clone(),
                reason: odd.join("; "),
                signed: trusted.iter().any(|account| account.app_secret.is_some()),
            }
        });
        self.commit(parts, keeping, frames, &mut received).await?;
        Ok(received)
    }

    /// Counts a delivery that was refused for its size, before anybody read it.
    pub fn refused_for_size(&self) {
        self.metrics.inbound("too_large", 1);
    }

    /// Counts a delivery to an instance that there is not. Its sender is told what a forger is told.
    pub fn refused_for_address(&self) -> Error {
        self.metrics.inbound("forged", 1);
        Error::Signature
    }
}

/// The parts with their instances, and why others are odd.
fn sort_all(trusted: &[&Account], updates: Vec<Update>) -> (Vec<Part>, Vec<String>) {
    let (mut parts, mut odd) = (Vec::with_capacity(updates.len()), Vec::new());
    for update in updates {
        match sort(trusted, update) {
            Ok(part) => parts.push(part),
            Err(reason) => odd.push(reason),
        }
    }
    (parts, odd)
}

/// Which instance an update is for. News of a business account as a whole names no number: it goes to the first
/// instance whose secret signed it, and where none did, to the first that has none.
fn sort(trusted: &[&Account], update: Update) -> Result<Part, String> {
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
        Update::Message(received) => account.map(|(instance, name)| Part::Message {
            instance,
            name,
            message: Box::new(received.message),
            signed,
        }),
        Update::Status(received) => account.map(|(instance, _)| Part::Status {
            instance,
            status: Box::new(received.status),
            recorded: None,
        }),
        Update::Change(change) => account.map(|(instance, _)| Part::Change { instance, change, signed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::InstanceNumber;

    fn account(number: [u8; 4], phone: &str, secret: Option<&str>) -> Account {
        Account {
            instance: InstanceNumber::from_be_bytes(number).unwrap(),
            name: "shop".parse().unwrap(),
            phone_number_id: phone.to_owned(),
            app_secret: secret.map(Secret::new),
            verify_token: Some(Secret::new("hola")),
        }
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
}
