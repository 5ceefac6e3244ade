//! What a client with a lasting connection tells, taken in one after another in a task of the actor: messages and facts
//! go through the one door in, news of the link goes to the actor.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::inbound::{self, ReceivingDevice};
use relevo_provider::{ConnectionEvent, LinkEvent, LinkedProvider};

use super::actor::{Arguments, Msg};

/// What may wait here; when it is full the connection is read no further.
const BACKLOG: usize = 64;

/// Begins the client's connection and hears it until the task is aborted, which ends the connection.
pub(super) fn spawn_listener(
    provider: &dyn LinkedProvider,
    arguments: &Arguments,
    actor: ActorRef<Msg>,
) -> JoinHandle<()> {
    let (inbox, happenings) = mpsc::channel(BACKLOG);
    provider.connect(inbox);
    let name = arguments.config.id.clone();
    let span = tracing::info_span!("hearing", instance = %name);
    let device = ReceivingDevice { instance: arguments.number, name, phone: None };
    let ear = ConnectionListener { device, inbound: arguments.inbound.clone(), actor: actor.clone() };
    let task = async move {
        if AssertUnwindSafe(ear.run(happenings)).catch_unwind().await.is_err() {
            tracing::error!("what a linked device heard met a defect; its client is replaced");
        }
        let _ = actor.cast(Msg::ConnectionClosed);
    };
    tokio::spawn(task.instrument(span))
}

struct ConnectionListener {
    device: ReceivingDevice,
    inbound: inbound::Handle,
    actor: ActorRef<Msg>,
}

impl ConnectionListener {
    async fn run(mut self, mut happenings: mpsc::Receiver<ConnectionEvent>) {
        while let Some(happening) = happenings.recv().await {
            match happening {
                ConnectionEvent::Link(news) => {
                    if let LinkEvent::Linked(account) | LinkEvent::Connected(account) = &news {
                        self.device.phone = account.phone().map(str::to_owned);
                    }
                    let _ = self.actor.cast(Msg::LinkChanged(news));
                }
                ConnectionEvent::Messages { messages, durable: kept } => {
                    let taken = self.inbound.receive_messages(&self.device, messages).await;
                    if let Err(error) = &taken {
                        tracing::warn!(%error, "messages could not be kept; WhatsApp gives them again");
                    }
                    let _ = kept.send(taken.is_ok());
                }
                ConnectionEvent::Statuses(statuses) => {
                    if let Err(error) = self.inbound.receive_statuses(&self.device, statuses).await {
                        tracing::warn!(%error, "facts about sent messages could not be written down");
                    }
                }
                ConnectionEvent::Other { kind, at, data } => {
                    self.inbound.record_event(&self.device, kind, at, data).await;
                }
            }
        }
    }
}
