//! Received messages on their way into the node: what they tell on the side is noted, then they are handed to the
//! instance, and WhatsApp keeps them until it says that they are durable.

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

/// The other names of people, when there is a client to ask.
pub(super) async fn load_lid_mapping(client: Option<&Client>, people: Vec<Jid>) -> LidMapping {
    match client {
        Some(client) => LidMapping::load(client, people).await,
        None => LidMapping::default(),
    }
}

/// The way of received messages into the node.
pub(super) struct MessageIngest {
    pub number: InstanceNumber,
    pub shared: ProviderResources,
    pub contacts: FirstContacts,
    pub inbox: mpsc::Sender<ConnectionEvent>,
}

impl MessageIngest {
    /// Hands messages to the instance. What comes back tells whether they are kept; there is nothing to wait for when
    /// none of them says anything to anybody.
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
        let gone = || anyhow!("nobody keeps messages now");
        for update in batch
            .iter()
            .filter_map(|received| inbound::status_update(&received.info, &received.message, &names))
        {
            self.inbox.send(update).await.map_err(|_| gone())?;
        }
        // A poll that cannot be read is as good as none: the vote is told without its answers.
        let poll = |id: &str| message_cache::find_poll(&self.shared.store, self.number, id).ok().flatten();
        let understood =
            |received: &Received| inbound::parse_message(&received.info, &received.message, &names, poll);
        let messages: Vec<_> = batch.iter().filter_map(understood).collect();
        if messages.is_empty() {
            return Ok(None);
        }
        let (kept, answer) = oneshot::channel();
        self.inbox.send(ConnectionEvent::Messages { messages, durable: kept }).await.map_err(|_| gone())?;
        Ok(Some(answer))
    }
}

/// Makes WhatsApp keep a message until it is ours.
pub(super) struct DurabilityHook {
    pub ingest: MessageIngest,
    pub client_state: Arc<ClientState>,
}

#[async_trait]
impl InboundDurabilityHook for DurabilityHook {
    async fn on_messages(&self, client: Arc<Client>, batch: &[Received]) -> anyhow::Result<()> {
        let kept = match self.ingest.deliver(Some(&client), batch).await {
            Ok(Some(answer)) => answer.await.unwrap_or(false),
            Ok(None) => true,
            Err(_) => false,
        };
        if kept {
            return Ok(());
        }
        // WhatsApp sends again what was not acknowledged, but not on this connection.
        self.client_state.mark_unusable("messages that arrived could not be kept; WhatsApp sends them again");
        Err(anyhow!("the messages could not be kept"))
    }
}

#[cfg(test)]
mod tests;
