//! The provider for linked devices (WhatsApp Web, multi-device), on top of the crate `whatsapp-rust`.
//!
//! All attempts of a message have one stanza id. A message counts as sent when WhatsApp has acknowledged that stanza,
//! not when it was written; a stanza that was written and not acknowledged is reported as ambiguous. Received messages
//! are acknowledged to WhatsApp when the instance reports that they are durable. Two clients never use the keys of one
//! instance at the same time, and every change of keys is on the disk before anything depends on it. This crate decides
//! when to connect and reports it as events; the client library never reconnects by itself.

mod client_runtime;
mod client_state;
mod connection_loop;
mod first_contacts;
mod inbound;
mod ingest;
mod jid;
mod lid_mapping;
mod limits;
mod media;
mod message_cache;
mod outbound;
mod pending_decrypts;
mod store;
mod transport;
mod unwrap_message;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use whatsapp_rust::pair_code::PairCodeOptions;
use whatsapp_rust::wacore::iq::keepalive::KeepaliveSpec;
use whatsapp_rust::{Client, SendError};

use relevo_domain::{
    Failure, FailureKind, FailureScope, InstanceNumber, LinkedDeviceSettings, MessageId, OutboundMessage,
    PhoneNumber, ProviderKind, ProviderMessageId,
};
use relevo_provider::{
    CheckError, ConnectionEvent, Error, LinkedProvider, MarkReadRequest, MediaStream, PairCode, Provider,
    ProviderResources, RemoteMedia,
};
use relevo_store::Space;

/// The client library. `relevo-sandbox-web` implements the server's side of its protocol with the same types.
pub use whatsapp_rust as client;

use client_state::{Ack, ClientState};
use connection_loop::ConnectionLoop;
use first_contacts::FirstContacts;
use outbound::{Composer, Uploads};
use transport::WhatsAppConnector;

/// Lifetime of a pairing code (WhatsApp Web, "Link with phone number").
const PAIR_CODE_VALIDITY: Duration = Duration::from_secs(180);

/// Delay before a send is retried that failed because the device is not connected.
const NOT_CONNECTED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Timeout of a ping, after which the connection counts as dead; WhatsApp Web uses the same value.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// WhatsApp rejects messages to strangers with this code when the account has written to too many of them.
const REACHOUT_LIMIT_CODE: &str = "463";

/// Maximum time for telling WhatsApp that this device leaves the account.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(10);

/// The client of one account on WhatsApp Web.
pub struct LinkedDevice {
    number: InstanceNumber,
    shared: ProviderResources,
    connector: WhatsAppConnector,
    client_state: Arc<ClientState>,
    contacts: FirstContacts,
    uploads: Uploads,
    sync_history: bool,
    /// Stops the connection loop when the provider is dropped.
    connection_guard: Mutex<Option<DropGuard>>,
}

impl LinkedDevice {
    /// Checks the settings. Makes no request.
    ///
    /// # Errors
    ///
    /// A setting is invalid.
    pub fn new(
        number: InstanceNumber,
        settings: &LinkedDeviceSettings,
        shared: ProviderResources,
    ) -> Result<Self, Error> {
        let client_state = Arc::<ClientState>::default();
        let connector = WhatsAppConnector::new(
            &shared.linked.server,
            &shared.direct_client,
            settings.proxy.as_ref(),
            Arc::clone(&client_state),
        )?;
        let limit = settings.first_contacts_per_day.unwrap_or(shared.linked.first_contacts_per_day);
        let contacts = FirstContacts::new(shared.store.clone(), shared.clock, number, limit);
        Ok(Self {
            number,
            shared,
            connector,
            client_state,
            contacts,
            uploads: Uploads::default(),
            sync_history: settings.sync_history,
            connection_guard: Mutex::new(None),
        })
    }

    fn online_client(&self) -> Result<Arc<Client>, Failure> {
        self.client_state.online_client().ok_or_else(not_connected)
    }

    async fn attempt(&self, id: MessageId, message: &OutboundMessage) -> Result<ProviderMessageId, Failure> {
        let client = self.online_client()?;
        self.contacts.check_limit(&message.to).await?;
        let stanza = client_state::stanza_id(id);
        let provider_id =
            stanza.parse().map_err(|_| Failure::permanent("the stanza id is no valid provider id"))?;
        let composer =
            Composer { client: &client, shared: &self.shared, uploads: &self.uploads, instance: self.number };
        let outgoing = composer.compose(&stanza, message).await?;
        outbound::show_typing(&client, message).await;
        let ack = self.client_state.expect_ack(&stanza, id);
        if let Err(error) = outgoing.send(&client).await {
            self.client_state.cancel_ack(&stanza);
            return Err(failure_from_send_error(&error));
        }
        let timeout = self.shared.linked.ack_timeout;
        match tokio::time::timeout(timeout, ack).await {
            Ok(Ok(Ack::Accepted)) => Ok(provider_id),
            Ok(Ok(Ack::Rejected(code))) => Err(self.failure_from_code(&code).await),
            Ok(Err(_)) => {
                // The message did not cause this, so the failure does not count against it.
                let text = "the connection ended before WhatsApp acknowledged the message";
                Err(Failure::new(FailureKind::Ambiguous, FailureScope::Number, text))
            }
            Err(_) => {
                self.client_state.record_ack_timeout(&stanza);
                Err(Failure::ambiguous(format!(
                    "WhatsApp did not acknowledge the message within {timeout:?}"
                )))
            }
        }
    }

    /// The failure that a rejected stanza means. WhatsApp does not document its codes; these were observed by clients.
    async fn failure_from_code(&self, code: &str) -> Failure {
        let rejection = format!("WhatsApp rejected the message with code {code}");
        let failure = match code {
            REACHOUT_LIMIT_CODE => {
                self.contacts.hold_strangers().await;
                let kind = FailureKind::Deferred { retry_after: first_contacts::STRANGER_HOLD };
                let text = format!("{rejection}: this account writes to too many people who do not know it");
                Failure::new(kind, FailureScope::Recipient, text)
            }
            "429" => Failure::new(
                FailureKind::Throttled { retry_after: Duration::from_secs(60) },
                FailureScope::Number,
                rejection,
            ),
            _ if code.starts_with('5') => Failure::transient(rejection),
            _ => Failure::permanent(rejection),
        };
        match code.parse() {
            Ok(code) => failure.with_code(code),
            Err(_) => failure,
        }
    }

    async fn ping(&self) -> Result<(), Failure> {
        let client = self.online_client()?;
        let ping = client.execute(KeepaliveSpec::with_timeout(PING_TIMEOUT)).await;
        ping.map_err(|cause| Failure::transient(format!("WhatsApp does not answer: {cause}")))
    }

    async fn mark_message_read(&self, read: &MarkReadRequest, typing: bool) -> Result<(), Failure> {
        let client = self.online_client()?;
        let (chat, sender) = outbound::mark_read_target(&self.shared.store, self.number, read)?;
        let marked = client.mark_as_read(&chat, sender.as_ref(), &[read.message.as_str()]).await;
        marked.map_err(|cause| {
            Failure::transient(format!("the message could not be marked as read: {cause:#}"))
        })?;
        if typing {
            outbound::send_typing(&client, &chat).await;
        }
        Ok(())
    }

    async fn request_pair_code(&self, phone: &PhoneNumber) -> Result<PairCode, Failure> {
        let client = self.client_state.client().ok_or_else(not_connected)?;
        let options =
            PairCodeOptions { phone_number: phone.digits().to_owned(), ..PairCodeOptions::default() };
        let code = client.pair_with_code(options).await.map_err(|error| match error.backoff() {
            Some(retry_after) => {
                Failure::new(FailureKind::Throttled { retry_after }, FailureScope::Number, error.to_string())
            }
            None => Failure::transient(error.to_string()),
        })?;
        Ok(PairCode { code, valid_for: PAIR_CODE_VALIDITY })
    }

    async fn logout(&self) -> Result<(), Failure> {
        if let Some(client) = self.client_state.online_client() {
            // The phone removes the device from its list. The keys are deleted even if this fails.
            let _ = tokio::time::timeout(LOGOUT_TIMEOUT, client.logout()).await;
        }
        drop(self.connection_guard.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _key_lock = self.shared.login_gate.lock_keys(self.number).await;
        let failed =
            |cause| Failure::transient(format!("the keys of the device could not be deleted: {cause}"));
        store::delete_device(&self.shared.store, self.number).await.map_err(failed)?;
        for space in [Space::LinkedMessageCache, Space::LinkedContact] {
            message_cache::delete_all(&self.shared.store, self.number, space).await.map_err(failed)?;
        }
        Ok(())
    }
}

fn not_connected() -> Failure {
    let kind = FailureKind::Throttled { retry_after: NOT_CONNECTED_RETRY_AFTER };
    Failure::new(kind, FailureScope::Number, "the device is not connected to WhatsApp now")
}

/// The failure of a message that the client reports as not written. Some errors leave the outcome unknown.
fn failure_from_send_error(error: &SendError) -> Failure {
    let text = error.to_string();
    match error {
        SendError::InvalidRequest(_) => Failure::permanent(text),
        SendError::NotLoggedIn => not_connected(),
        SendError::Client(_) => Failure::ambiguous(text),
        // The query for keys or devices failed, which precedes the message.
        _ => Failure::transient(text),
    }
}

impl Provider for LinkedDevice {
    fn kind(&self) -> ProviderKind {
        ProviderKind::LinkedDevice
    }

    fn linked(&self) -> Option<&dyn LinkedProvider> {
        Some(self)
    }

    fn check(&self, message: &OutboundMessage) -> Result<(), CheckError> {
        limits::check(message)
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

    fn mark_read<'a>(
        &'a self,
        read: &'a MarkReadRequest,
        typing: bool,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.mark_message_read(read, typing))
    }

    fn media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<RemoteMedia, Failure>> {
        Box::pin(async move { media::describe(id) })
    }

    fn open_media<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(RemoteMedia, MediaStream), Failure>> {
        Box::pin(media::open(&self.connector, self.client_state.online_client(), id))
    }
}

impl LinkedProvider for LinkedDevice {
    fn connect(&self, inbox: mpsc::Sender<ConnectionEvent>) {
        let stop = CancellationToken::new();
        let connection_loop = ConnectionLoop {
            number: self.number,
            shared: self.shared.clone(),
            connector: self.connector.clone(),
            client_state: Arc::clone(&self.client_state),
            contacts: self.contacts.clone(),
            inbox,
            stop: stop.clone(),
            sync_history: self.sync_history,
        };
        let mut guard = self.connection_guard.lock().unwrap_or_else(PoisonError::into_inner);
        *guard = Some(stop.drop_guard());
        drop(guard);
        let span = tracing::info_span!("linked_device", instance = self.number.get());
        tokio::spawn(tracing::Instrument::instrument(connection_loop.run(), span));
    }

    fn pair_by_code<'a>(&'a self, phone: &'a PhoneNumber) -> BoxFuture<'a, Result<PairCode, Failure>> {
        Box::pin(self.request_pair_code(phone))
    }

    fn unlink(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.logout())
    }
}
