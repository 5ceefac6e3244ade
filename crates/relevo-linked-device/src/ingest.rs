//! Ingest of received messages: caches what later messages refer to, records the senders as contacts, and hands the
//! messages to the instance. WhatsApp keeps each message until the instance reports that it is durable.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use whatsapp_rust::anyhow::{self, anyhow};
use whatsapp_rust::async_trait;
use whatsapp_rust::types::durability_hook::{InboundDurabilityHook, InboundMessage as Received};
use whatsapp_rust::{Client, Jid};

use super::client_state::ClientState;
use super::first_contacts::FirstContacts;
use super::inbound;
use super::lid_mapping::LidMapping;
use super::message_cache;
use relevo_domain::InstanceNumber;
use relevo_provider::{ConnectionEvent, ProviderResources};

/// The alternate JIDs of people; empty without a client.
pub(super) async fn load_lid_mapping(client: Option<&Client>, people: Vec<Jid>) -> LidMapping {
    match client {
        Some(client) => LidMapping::load(client, people).await,
        None => LidMapping::default(),
    }
}

/// Hands received messages of one instance to its actor.
pub(super) struct MessageIngest {
    pub number: InstanceNumber,
    pub shared: ProviderResources,
    pub contacts: FirstContacts,
    pub inbox: mpsc::Sender<ConnectionEvent>,
}

impl MessageIngest {
    /// Hands messages to the instance. The receiver resolves with whether they are durable. `None` when no message has
    /// content for the instance.
    ///
    /// # Errors
    ///
    /// The instance no longer receives messages.
    pub async fn deliver(
        &self,
        client: Option<&Client>,
        batch: &[Received],
    ) -> anyhow::Result<Option<oneshot::Receiver<bool>>> {
        let people = batch.iter().flat_map(|received| inbound::people_in_message(&received.info));
        let names = load_lid_mapping(client, people.cloned().collect()).await;
        let senders = batch.iter().flat_map(|received| inbound::contact_addresses(&received.info, &names));
        self.contacts.record_contacts(senders.collect()).await;
        let entries: Vec<_> = batch
            .iter()
            .filter_map(|received| message_cache::MessageCacheEntry::from_received(received, &names))
            .collect();
        message_cache::insert_all(&self.shared.store, self.number, entries).await;
        let closed = || anyhow!("the instance has stopped and receives no messages");
        for received in batch {
            if let Some(update) = inbound::status_update(&received.info, &received.message, &names) {
                self.inbox.send(update).await.map_err(|_| closed())?;
            }
        }
        // An unreadable poll counts as unknown: its votes are reported without their options.
        let poll = |id: &str| message_cache::find_poll(&self.shared.store, self.number, id).ok().flatten();
        let parse =
            |received: &Received| inbound::parse_message(&received.info, &received.message, &names, poll);
        let messages: Vec<_> = batch.iter().filter_map(parse).collect();
        if messages.is_empty() {
            return Ok(None);
        }
        let (durable, committed) = oneshot::channel();
        self.inbox.send(ConnectionEvent::Messages { messages, durable }).await.map_err(|_| closed())?;
        Ok(Some(committed))
    }
}

/// The client's hook that delays the acknowledgement of a message to WhatsApp until the message is durable.
pub(super) struct DurabilityHook {
    pub ingest: MessageIngest,
    pub client_state: Arc<ClientState>,
}

#[async_trait]
impl InboundDurabilityHook for DurabilityHook {
    async fn on_messages(&self, client: Arc<Client>, batch: &[Received]) -> anyhow::Result<()> {
        let durable = match self.ingest.deliver(Some(&client), batch).await {
            Ok(Some(committed)) => committed.await.unwrap_or(false),
            Ok(None) => true,
            Err(_) => false,
        };
        if durable {
            return Ok(());
        }
        // WhatsApp delivers unacknowledged messages again on the next connection only.
        self.client_state
            .mark_unusable("received messages could not be stored; WhatsApp delivers them again");
        Err(anyhow!("the messages could not be stored"))
    }
}

#[cfg(test)]
mod tests;
