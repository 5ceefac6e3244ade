//! Linked devices: WhatsApp Web, multi-device, by the crate `whatsapp-rust`.
//!
//! What it promises: a message has one stanza id for all its attempts, and counts as sent when WhatsApp acknowledged
//! that stanza, not when it was written; what was written and not acknowledged is reported as ambiguous. What is
//! received is acknowledged to WhatsApp when the instance says that it is durable. No two clients ever use the keys of
//! one instance at once, and every change of keys is on the disk before anything depends on it. When to connect, and
//! when not, is decided here and told; the client underneath never reconnects by itself.

mod address;
mod arrivals;
mod check;
mod desk;
mod first_contacts;
mod inbound;
mod index;
mod intake;
mod media;
mod names;
mod outbound;
mod session;
mod store;
mod transport;
mod wrapping;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use whatsapp_rust::pair_code::PairCodeOptions;
use whatsapp_rust::wacore::iq::keepalive::KeepaliveSpec;
use whatsapp_rust::{Client, SendError};

use relevo_domain::{
    Failure, FailureKind, InstanceNumber, LinkedDeviceSettings, MessageId, OutboundMessage, PhoneNumber,
    ProviderKind, ProviderMessageId, Scope,
};
use relevo_provider::{
    Error, Happening, MediaStream, PairCode, Provider, ReadMark, Refusal, RemoteMedia, Shared,
};
use relevo_store::Space;

/// The client library. `relevo-sandbox-web` implements the server's side of its protocol with the same types.
pub use whatsapp_rust as client;

use desk::{Ack, Desk};
use first_contacts::FirstContacts;
use outbound::{Composer, Uploads};
use session::Session;
use transport::Road;

/// A code that is typed in is good for so long (WhatsApp Web, "Link with phone number").
const CODE_LASTS: Duration = Duration::from_secs(180);

/// Whoever is told that there is no connection comes back after so long.
const NOT_CONNECTED_PAUSE: Duration = Duration::from_secs(1);

/// WhatsApp answers a ping within this, or the connection counts as dead; WhatsApp Web waits as long.
const PING: Duration = Duration::from_secs(20);

/// Messages to strangers are refused with this code when the account has written to too many of them.
const REACHED_OUT_TOO_MUCH: &str = "463";

/// How long the account's other devices may be told that this one leaves.
const LEAVE: Duration = Duration::from_secs(10);

/// One account on WhatsApp Web.
pub struct LinkedDevice {
    number: InstanceNumber,
    shared: Shared,
    road: Road,
    desk: Arc<Desk>,
    contacts: FirstContacts,
    uploads: Uploads,
    history: bool,
    /// Ends the session when the provider is dropped.
    session: Mutex<Option<DropGuard>>,
}

impl LinkedDevice {
    /// Checks the settings; nothing is asked of the network.
    pub fn new(
        number: InstanceNumber,
        settings: &LinkedDeviceSettings,
        history: bool,
        shared: Shared,
    ) -> Result<Self, Error> {
        let desk = Arc::<Desk>::default();
        let road =
            Road::new(&shared.linked.server, &shared.direct, settings.proxy.as_ref(), Arc::clone(&desk))?;
        let limit = settings.first_contacts_per_day.unwrap_or(shared.linked.first_contacts_per_day);
        let contacts = FirstContacts::new(shared.store.clone(), shared.clock, number, limit);
        let session = Mutex::new(None);
        let uploads = Uploads::default();
        Ok(Self { number, shared, road, desk, contacts, uploads, history, session })
    }

    fn online(&self) -> Result<Arc<Client>, Failure> {
        self.desk.online().ok_or_else(not_connected)
    }

    async fn attempt(&self, id: MessageId, message: &OutboundMessage) -> Result<ProviderMessageId, Failure> {
        let client = self.online()?;
        self.contacts.admit(&message.to).await?;
        let stanza = desk::stanza_id(id);
        let provider_id = stanza.parse().map_err(|_| Failure::permanent("no stanza id could be made"))?;
        let composer =
            Composer { client: &client, shared: &self.shared, uploads: &self.uploads, instance: self.number };
        let outgoing = composer.compose(&stanza, message).await?;
        outbound::show_typing(&client, message).await;
        let word = self.desk.expect(&stanza, id);
        if let Err(error) = outgoing.send(&client).await {
            self.desk.withdraw(&stanza);
            return Err(of_send(&error));
        }
        match tokio::time::timeout(self.shared.linked.ack_timeout, word).await {
            Ok(Ok(Ack::Taken)) => Ok(provider_id),
            Ok(Ok(Ack::Refused(code))) => Err(self.refused(&code).await),
            Ok(Err(_)) => {
                // Says nothing about the message: it does not count against it.
                let text = "the connection ended before WhatsApp acknowledged the message";
                Err(Failure::new(FailureKind::Ambiguous, Scope::Number, text))
            }
            Err(_) => {
                self.desk.silent(&stanza);
                let patience = self.shared.linked.ack_timeout;
                Err(Failure::ambiguous(format!(
                    "WhatsApp did not acknowledge the message within {patience:?}"
                )))
            }
        }
    }

    /// What a refused stanza means. WhatsApp documents none of its codes; these are what clients have seen.
    async fn refused(&self, code: &str) -> Failure {
        let said = format!("WhatsApp refused the message with code {code}");
        let failure = match code {
            REACHED_OUT_TOO_MUCH => {
                self.contacts.complained().await;
                let kind = FailureKind::Deferred { retry_after: first_contacts::HOLD };
                let text = format!("{said}: this account writes to too many people who do not know it");
                Failure::new(kind, Scope::Recipient, text)
            }
            "429" => Failure::new(
                FailureKind::Throttled { retry_after: Duration::from_secs(60) },
                Scope::Number,
                said,
            ),
            _ if code.starts_with('5') => Failure::transient(said),
            _ => Failure::permanent(said),
        };
        match code.parse() {
            Ok(code) => failure.with_code(code),
            Err(_) => failure,
        }
    }

    async fn ping(&self) -> Result<(), Failure> {
        let client = self.online()?;
        let ping = client.execute(KeepaliveSpec::with_timeout(PING)).await;
        ping.map_err(|cause| Failure::transient(format!("WhatsApp does not answer: {cause}")))
    }

    async fn mark(&self, read: &ReadMark, typing: bool) -> Result<(), Failure> {
        let client = self.online()?;
        let (chat, sender) = outbound::place_of(&self.shared.store, self.number, read)?;
        let marked = client.mark_as_read(&chat, sender.as_ref(), &[read.message.as_str()]).await;
        marked.map_err(|cause| {
            Failure::transient(format!("the message could not be marked as read: {cause:#}"))
        })?;
        if typing {
            outbound::typing(&client, &chat).await;
        }
        Ok(())
    }

    async fn ask_for_code(&self, phone: &PhoneNumber) -> Result<PairCode, Failure> {
        let client = self.desk.client().ok_or_else(not_connected)?;
        let options =
            PairCodeOptions { phone_number: phone.digits().to_owned(), ..PairCodeOptions::default() };
        let code = client.pair_with_code(options).await.map_err(|error| match error.backoff() {
            Some(retry_after) => {
                Failure::new(FailureKind::Throttled { retry_after }, Scope::Number, error.to_string())
            }
            None => Failure::transient(error.to_string()),
        })?;
        Ok(PairCode { code, lasts: CODE_LASTS })
    }

    async fn leave(&self) -> Result<(), Failure> {
        if let Some(client) = self.desk.online() {
            // Tells the phone; what follows holds either way.
            let _ = tokio::time::timeout(LEAVE, client.logout()).await;
        }
        drop(self.session.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _seat = self.shared.seats.take(self.number).await;
        let failed =
            |cause| Failure::transient(format!("the keys of the device could not be deleted: {cause}"));
        store::forget(&self.shared.store, self.number).await.map_err(failed)?;
        for space in [Space::LinkedIndex, Space::LinkedContact] {
            index::forget(&self.shared.store, self.number, space).await.map_err(failed)?;
        }
        Ok(())
    }
}

fn not_connected() -> Failure {
    let kind = FailureKind::Throttled { retry_after: NOT_CONNECTED_PAUSE };
    Failure::new(kind, Scope::Number, "the device is not connected to WhatsApp now")
}

/// A message that the client did not write. Whether it was on its way cannot always be told.
fn of_send(error: &SendError) -> Failure {
    let said = error.to_string();
    match error {
        SendError::InvalidRequest(_) => Failure::permanent(said),
        SendError::NotLoggedIn => not_connected(),
        SendError::Client(_) => Failure::ambiguous(said),
        // Asking for keys or devices failed: that comes before the message.
        _ => Failure::transient(said),
    }
}

impl Provider for LinkedDevice {
    fn kind(&self) -> ProviderKind {
        ProviderKind::LinkedDevice
    }

    fn check(&self, message: &OutboundMessage) -> Result<(), Refusal> {
        check::check(message)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.ping())
    }

    fn send<'a>(
        &'a self,
        id: MessageId,
        message: &'a OutboundMessage,
    ) -> BoxFuture<'a, Result<ProviderMessageId, Failure>> {
        Box::pin(self.attempt(id, message))
    }

    fn mark_read<'a>(&'a self, read: &'a ReadMark, typing: bool) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.mark(read, typing))
    }

    fn media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>> {
        Box::pin(async move { media::describe(id) })
    }

    fn open_media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(RemoteMedia, MediaStream), Failure>> {
        Box::pin(media::open(&self.road, self.desk.online(), id))
    }

    fn live(&self, inbox: mpsc::Sender<Happening>) {
        let stop = CancellationToken::new();
        let session = Session {
            number: self.number,
            shared: self.shared.clone(),
            road: self.road.clone(),
            desk: Arc::clone(&self.desk),
            contacts: self.contacts.clone(),
            inbox,
            stop: stop.clone(),
            history: self.history,
        };
        let mut place = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(stop.drop_guard());
        drop(place);
        let span = tracing::info_span!("linked_device", instance = self.number.get());
        tokio::spawn(tracing::Instrument::instrument(session.run(), span));
    }

    fn pair_by_code<'a>(&'a self, phone: &'a PhoneNumber) -> BoxFuture<'a, Result<PairCode, Failure>> {
        Box::pin(self.ask_for_code(phone))
    }

    fn unlink(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.leave())
    }
}
