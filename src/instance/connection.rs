//! Reads the events of a client that keeps a connection, one after another, in a task of the actor. Messages, receipts
//! and other events go to `inbound`; link events go to the actor.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::inbound::{self, ReceivingDevice};
use relevo_provider::{ConnectionEvent, LinkEvent, LinkedProvider};

use super::actor::{Arguments, Msg};

/// Capacity of the event channel. When it is full, the client stops reading its connection.
const BACKLOG: usize = 64;

/// Starts the client's connection and reads its events. Aborting the task closes the connection.
pub(super) fn spawn_listener(
    provider: &dyn LinkedProvider,
    arguments: &Arguments,
    actor: ActorRef<Msg>,
) -> JoinHandle<()> {
    let (inbox, events) = mpsc::channel(BACKLOG);
    provider.connect(inbox);
    let name = arguments.config.id.clone();
    let span = tracing::info_span!("connection", instance = %name);
    let device = ReceivingDevice { instance: arguments.number, name, phone: None };
    let listener = ConnectionListener { device, inbound: arguments.inbound.clone(), actor: actor.clone() };
    let task = async move {
        if AssertUnwindSafe(listener.run(events)).catch_unwind().await.is_err() {
            tracing::error!("connection task panicked; replacing client");
        }
        let _ = actor.cast(Msg::ConnectionClosed);
    };
    tokio::spawn(task.instrument(span))
}

/// Forwards the events of one connection.
struct ConnectionListener {
    device: ReceivingDevice,
    inbound: inbound::Handle,
    actor: ActorRef<Msg>,
}

impl ConnectionListener {
    async fn run(mut self, mut events: mpsc::Receiver<ConnectionEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                ConnectionEvent::Link(link_event) => {
                    if let LinkEvent::Linked(account) | LinkEvent::Connected(account) = &link_event {
                        self.device.phone = account.phone().map(str::to_owned);
                    }
                    let _ = self.actor.cast(Msg::LinkChanged(link_event));
                }
                ConnectionEvent::Messages { messages, durable } => {
                    let received = self.inbound.receive_messages(&self.device, messages).await;
                    if let Err(error) = &received {
                        tracing::warn!(%error, "received messages not stored; WhatsApp delivers them again");
                    }
                    let _ = durable.send(received.is_ok());
                }
                ConnectionEvent::Statuses(statuses) => {
                    if let Err(error) = self.inbound.receive_statuses(&self.device, statuses).await {
                        tracing::warn!(%error, "receipts of sent messages not stored; their status stays behind");
                    }
                }
                ConnectionEvent::Other { kind, at, data } => {
                    self.inbound.record_event(&self.device, kind, at, data).await;
                }
            }
        }
    }
}
