//! Received messages on their way into the node: what they tell on the side is noted, then they are handed to the
//! instance, and WhatsApp keeps them until it says that they are durable.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use whatsapp_rust::anyhow::{self, anyhow};
use whatsapp_rust::async_trait;
use whatsapp_rust::types::durability_hook::{InboundDurabilityHook, InboundMessage as Received};
use whatsapp_rust::{Client, Jid};

use super::desk::Desk;
use super::first_contacts::FirstContacts;
use super::inbound;
use super::index;
use super::names::Names;
use relevo_domain::InstanceNumber;
use relevo_provider::{Happening, Shared};

/// The other names of people, when there is a client to ask.
pub(super) async fn names_of(client: Option<&Client>, people: Vec<Jid>) -> Names {
    match client {
        Some(client) => Names::known_to(client, people).await,
        None => Names::default(),
    }
}

/// The way of received messages into the node.
pub(super) struct Intake {
    pub number: InstanceNumber,
    pub shared: Shared,
    pub contacts: FirstContacts,
    pub inbox: mpsc::Sender<Happening>,
}

impl Intake {
    /// Hands messages to the instance. What comes back tells whether they are kept; there is nothing to wait for when
    /// none of them says anything to anybody.
    pub async fn pass_on(
        &self,
        client: Option<&Client>,
        batch: &[Received],
    ) -> anyhow::Result<Option<oneshot::Receiver<bool>>> {
        let people = batch.iter().flat_map(|received| inbound::people_of(&received.info));
        let names = names_of(client, people.cloned().collect()).await;
        let senders = batch.iter().flat_map(|received| inbound::addresses(&received.info, &names));
        self.contacts.met(senders.collect()).await;
        let entries: Vec<_> =
            batch.iter().filter_map(|received| index::Entry::of(received, &names)).collect();
        index::note_all(&self.shared.store, self.number, entries).await;
        let gone = || anyhow!("nobody keeps messages now");
        for update in batch
            .iter()
            .filter_map(|received| inbound::status_update(&received.info, &received.message, &names))
        {
            self.inbox.send(update).await.map_err(|_| gone())?;
        }
        // A poll that cannot be read is as good as none: the vote is told without its answers.
        let poll = |id: &str| index::poll(&self.shared.store, self.number, id).ok().flatten();
        let understood =
            |received: &Received| inbound::message(&received.info, &received.message, &names, poll);
        let messages: Vec<_> = batch.iter().filter_map(understood).collect();
        if messages.is_empty() {
            return Ok(None);
        }
        let (kept, answer) = oneshot::channel();
        self.inbox.send(Happening::Messages { messages, kept }).await.map_err(|_| gone())?;
        Ok(Some(answer))
    }
}

/// Makes WhatsApp keep a message until it is ours.
pub(super) struct Hook {
    pub intake: Intake,
    pub desk: Arc<Desk>,
}

#[async_trait]
impl InboundDurabilityHook for Hook {
    async fn on_messages(&self, client: Arc<Client>, batch: &[Received]) -> anyhow::Result<()> {
        let kept = match self.intake.pass_on(Some(&client), batch).await {
            Ok(Some(answer)) => answer.await.unwrap_or(false),
            Ok(None) => true,
            Err(_) => false,
        };
        if kept {
            return Ok(());
        }
        // WhatsApp sends again what was not acknowledged, but not on this connection.
        self.desk.give_up("messages that arrived could not be kept; WhatsApp sends them again");
        Err(anyhow!("the messages could not be kept"))
    }
}

#[cfg(test)]
mod tests;
