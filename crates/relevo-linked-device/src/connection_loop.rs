//! The connection loop of one instance. Each connection is a new client on the instance's keys; a growing backoff
//! separates two of them. The client never reconnects by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use whatsapp_rust::Client;
use whatsapp_rust::anyhow::{self, anyhow};
use whatsapp_rust::bot::{Bot, BotHandle};
use whatsapp_rust::store::error::StoreError;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::types::events::{ConnectFailureReason, Event, EventHandler};
use whatsapp_rust::wacore::store::DevicePropsOverride;
use whatsapp_rust::wacore_binary::NodeRef;

use super::client_runtime::ClientRuntime;
use super::client_state::{Ack, ClientState};
use super::first_contacts::FirstContacts;
use super::inbound;
use super::ingest::{DurabilityHook, MessageIngest, load_lid_mapping};
use super::message_cache;
use super::store::{self, SledBackend};
use super::transport::WhatsAppConnector;
use relevo_domain::{Backoff, InstanceNumber, Timestamp};
use relevo_provider::{ConnectionEvent, LinkEnd, LinkEvent, LinkedAccount, LoginPermit, ProviderResources};
use relevo_store::Space;

/// Capacity of the channel of client events. Further events are counted and dropped: presence and the like matter less
/// than the connection, and messages do not pass through this channel.
const EVENT_CAPACITY: usize = 4096;

/// A paired device reconnects when it is not logged in and receives nothing within this time.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time that a device holds its login permit.
const LOGIN_PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that lasted this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Maximum delay after the first failure; the minimum is a tenth of it. Each further failure doubles it.
const INITIAL_BACKOFF: Duration = Duration::from_secs(5);

/// Maximum time for the shutdown of a client, in which it saves its state.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection loop of one instance, from `connect` until the provider is dropped or its inbox is closed.
pub(super) struct ConnectionLoop {
    pub number: InstanceNumber,
    pub shared: ProviderResources,
    pub connector: WhatsAppConnector,
    pub client_state: Arc<ClientState>,
    pub contacts: FirstContacts,
    pub inbox: mpsc::Sender<ConnectionEvent>,
    pub stop: CancellationToken,
    /// Whether to request the phone's history after pairing.
    pub sync_history: bool,
}

/// The way in which a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum ConnectionEnd {
    /// The link ended; the loop does not reconnect.
    Final(LinkEvent),
    /// The server expects the client to reconnect at once, as after pairing.
    ReconnectNow,
    /// The connection failed for this reason; the loop reconnects after a backoff.
    Lost(String),
    /// The provider was dropped or its inbox closed.
    Stopped,
}

impl ConnectionLoop {
    /// Connects until the link ends or the loop is stopped.
    pub async fn run(self) {
        // Two clients on the same keys would corrupt them, so this waits for the end of the previous one.
        let _key_lock = self.shared.login_gate.lock_keys(self.number).await;
        let mut failures = 0;
        while !self.stop.is_cancelled() && !self.inbox.is_closed() {
            self.emit(LinkEvent::Connecting).await;
            let started_at = Instant::now();
            let end = match self.run_connection().await {
                Ok(end) => end,
                Err(cause) => ConnectionEnd::Lost(format!("{cause:#}")),
            };
            self.client_state.close();
            failures = if started_at.elapsed() >= STABLE_AFTER { 0 } else { failures };
            match end {
                ConnectionEnd::ReconnectNow => {}
                ConnectionEnd::Lost(reason) => {
                    failures += 1;
                    let max_delay = self.shared.linked.reconnect_max_delay;
                    let retry_in = backoff(failures, max_delay).delay(failures, self.shared.random.value());
                    self.emit(LinkEvent::Disconnected { reason, retry_in }).await;
                    let delay = tokio::time::sleep(retry_in);
                    tokio::select! { () = delay => {}, () = self.wait_stopped() => return }
                }
                ConnectionEnd::Final(event) => {
                    if matches!(event, LinkEvent::Ended(LinkEnd::LoggedOut | LinkEnd::PairingFailed(_))) {
                        self.delete_keys().await;
                    }
                    return self.emit(event).await;
                }
                ConnectionEnd::Stopped => return,
            }
        }
    }

    /// Resolves when the provider is dropped or its inbox is closed.
    async fn wait_stopped(&self) {
        tokio::select! { () = self.stop.cancelled() => {}, () = self.inbox.closed() => {} }
    }

    async fn emit(&self, event: LinkEvent) {
        let _ = self.inbox.send(ConnectionEvent::Link(event)).await;
    }

    /// Deletes the keys, and the message cache too: the next pairing may be with another account, which has other chats.
    async fn delete_keys(&self) {
        let store = &self.shared.store;
        let deleted = match store::delete_device(store, self.number).await {
            Ok(()) => message_cache::delete_all(store, self.number, Space::LinkedMessageCache).await,
            failed => failed,
        };
        if let Err(cause) = deleted {
            tracing::error!(%cause, "keys of logged-out device not deleted; unlink the instance again");
        }
    }

    fn ingest(&self) -> MessageIngest {
        MessageIngest {
            number: self.number,
            shared: self.shared.clone(),
            contacts: self.contacts.clone(),
            inbox: self.inbox.clone(),
        }
    }

    /// Runs one connection, from the start of its client to the end of its shutdown.
    async fn run_connection(&self) -> anyhow::Result<ConnectionEnd> {
        let login_permit = tokio::select! {
            permit = self.shared.login_gate.acquire() => Some((permit, Instant::now() + LOGIN_PERMIT_TIMEOUT)),
            () = self.wait_stopped() => return Ok(ConnectionEnd::Stopped),
        };
        let (events, mut received) = mpsc::channel(EVENT_CAPACITY);
        let ended = CancellationToken::new();
        let _ended = ended.clone().drop_guard();
        let mut client = self.build_client(events, ended).await?;
        // The event handler sees stanzas before they are decrypted.
        let _raw = client.client().acquire_raw_node_forwarding();
        let deadline = client.client().pn().map(|_| Instant::now() + LOGIN_TIMEOUT);
        self.client_state.set_client(client.client());
        let mut connection = ActiveConnection {
            connection_loop: self,
            login_permit,
            deadline,
            just_paired: false,
            connected: false,
            offline_sync_completed: false,
            end: None,
        };
        while connection.end.is_none() {
            tokio::select! {
                biased;
                () = self.wait_stopped() => connection.end = Some(ConnectionEnd::Stopped),
                event = received.recv() => match event {
                    Some(event) => connection.handle_event(&event).await,
                    None => break,
                },
                () = &mut client => break,
                reason = self.client_state.wait_unusable() => {
                    connection.end = Some(ConnectionEnd::Lost(reason.to_owned()));
                }
                () = connection.wait_permit_expiry() => connection.login_permit = None,
                () = connection.wait_login_deadline() => {
                    let reason = format!("WhatsApp did not complete the login within {LOGIN_TIMEOUT:?}");
                    connection.end = Some(ConnectionEnd::Lost(reason));
                }
            }
        }
        // No message can be sent from here on; the remaining events are still handled.
        self.client_state.close();
        shut_down(client).await;
        while let Ok(event) = received.try_recv() {
            connection.handle_event(&event).await;
        }
        Ok(connection.into_end())
    }

    async fn build_client(
        &self,
        events: mpsc::Sender<Arc<Event>>,
        ended: CancellationToken,
    ) -> anyhow::Result<BotHandle> {
        let options = &self.shared.linked;
        let pending_decrypts = Arc::clone(&self.client_state.pending_decrypts);
        let (store, holder) = (self.shared.store.clone(), self.shared.random.value());
        let backend = SledBackend::new(store, self.number, holder, pending_decrypts);
        let event_handler = ClientEventHandler {
            client_state: Arc::clone(&self.client_state),
            events,
            dropped: AtomicU64::new(0),
        };
        let hook = DurabilityHook { ingest: self.ingest(), client_state: Arc::clone(&self.client_state) };
        let builder = Bot::builder()
            .with_backend(backend)
            .with_transport_factory(self.connector.clone())
            .with_http_client(self.connector.clone())
            .with_runtime(ClientRuntime { ended })
            .with_device_props(DevicePropsOverride::new().with_os(options.device_name.clone()))
            .with_event_handler(event_handler)
            .with_inbound_durability_hook(hook);
        let builder = match options.version {
            Some(version) => builder.with_version(version),
            None => builder,
        };
        let builder = if self.sync_history { builder } else { builder.skip_history_sync() };
        let bot =
            builder.build().await.map_err(|cause| anyhow!("the client could not be created: {cause}"))?;
        bot.client().enable_auto_reconnect.store(false, Ordering::Relaxed);
        Ok(bot.spawn())
    }
}

/// Ends a client and saves its device record, within [`SHUTDOWN_TIMEOUT`].
async fn shut_down(client: BotHandle) {
    let device = client.client().persistence_manager();
    let shutdown = async {
        client.shutdown().await;
        save_device(&device).await
    };
    match tokio::time::timeout(SHUTDOWN_TIMEOUT, shutdown).await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => tracing::error!(%cause, "device record not saved; it may have to be paired again"),
        Err(_) => tracing::warn!("client shutdown timed out; client aborted"),
    }
}

/// Saves the device record of a client that has ended. The client's own last save does so only if no earlier save was
/// begun: a save that was aborted together with the client counts as done (whatsapp-rust 0.7.0,
/// `PersistenceManager::flush`), and a device that was just paired would be unpaired after a restart.
async fn save_device(device: &PersistenceManager) -> Result<(), StoreError> {
    device.modify_device(|_| ()).await;
    device.flush().await
}

/// The delays between attempts. The jitter keeps many instances from reconnecting at the same time; after the first
/// failure it is larger, because a restart of WhatsApp disconnects all instances at once.
fn backoff(failures: u32, max_delay: Duration) -> Backoff {
    let jitter = if failures <= 1 { 0.9 } else { 0.5 };
    Backoff::new(INITIAL_BACKOFF, 2, max_delay).with_jitter(jitter)
}

/// The state of one connection.
struct ActiveConnection<'a> {
    connection_loop: &'a ConnectionLoop,
    /// The permit to log in, and the time at which it is released at the latest.
    login_permit: Option<(LoginPermit, Instant)>,
    /// The login deadline of a paired device.
    deadline: Option<Instant>,
    /// Whether the device was paired on this connection.
    just_paired: bool,
    connected: bool,
    /// Whether the messages that had waited for this connection were ingested.
    offline_sync_completed: bool,
    end: Option<ConnectionEnd>,
}

impl ActiveConnection<'_> {
    async fn wait_permit_expiry(&self) {
        match &self.login_permit {
            Some((_, expires_at)) => tokio::time::sleep_until(*expires_at).await,
            None => std::future::pending().await,
        }
    }

    async fn wait_login_deadline(&self) {
        match self.deadline {
            Some(deadline) if !self.connected => tokio::time::sleep_until(deadline).await,
            _ => std::future::pending().await,
        }
    }

    /// Reports the connection as connected when the device is logged in and has ingested the messages that had waited
    /// for it. Sending begins only then, so that a sent message is newer than all messages that it may answer, and the
    /// ratchets of waiting messages need not be held back.
    async fn emit_connected_when_ready(&self) {
        if !self.connected || !self.offline_sync_completed {
            return;
        }
        let Some(client) = self.connection_loop.client_state.client() else { return };
        self.connection_loop.client_state.set_connected();
        self.connection_loop.emit(LinkEvent::Connected(account(&client))).await;
    }

    async fn handle_event(&mut self, event: &Event) {
        let connection_loop = self.connection_loop;
        match event {
            Event::Connected(_) => {
                self.connected = true;
                self.login_permit = None;
                self.emit_connected_when_ready().await;
            }
            Event::OfflineSyncCompleted(_) => {
                self.offline_sync_completed = true;
                self.emit_connected_when_ready().await;
            }
            Event::PairingQrCode(code) => {
                self.login_permit = None;
                let event = LinkEvent::QrCode { qr: code.code.clone(), valid_for: code.timeout };
                connection_loop.emit(event).await;
            }
            Event::PairSuccess(pair) => {
                self.just_paired = true;
                self.deadline = Some(Instant::now() + LOGIN_TIMEOUT);
                let account = LinkedAccount {
                    jid: pair.id.to_string(),
                    lid: Some(pair.lid.to_string()),
                    name: Some(pair.business_name.clone()).filter(|name| !name.is_empty()),
                };
                connection_loop.emit(LinkEvent::Linked(account)).await;
            }
            Event::Messages(batch) => {
                // A device that still receives its backlog is logging in.
                self.deadline = self.deadline.map(|_| Instant::now() + LOGIN_TIMEOUT);
                // The hook has already ingested its messages. WhatsApp does not keep the others, so their commit is not
                // awaited.
                if !batch.hook_committed {
                    let client = connection_loop.client_state.client();
                    let _ = connection_loop.ingest().deliver(client.as_deref(), &batch.messages).await;
                }
            }
            _ => match end_from_event(event, self.is_paired(), connection_loop.shared.clock.now()) {
                // The first cause counts.
                Some(end) => drop(self.end.get_or_insert(end)),
                None => self.forward_event(event).await,
            },
        }
    }

    /// Translates any other event of the client and sends it to the instance.
    async fn forward_event(&self, event: &Event) {
        let ConnectionLoop { client_state, shared, inbox, .. } = self.connection_loop;
        let now = shared.clock.now();
        let people = inbound::people_in_event(event);
        let names = load_lid_mapping(client_state.client().as_deref(), people).await;
        let message_id = |stanza: &str| client_state.message_id(stanza);
        for event in inbound::connection_events(event, now, &names, message_id) {
            let _ = inbox.send(event).await;
        }
    }

    /// Whether the device belonged to an account before this connection.
    fn is_paired(&self) -> bool {
        self.deadline.is_some() && !self.just_paired
    }

    /// The end of the connection. No event announces it after pairing, when the server requests a reconnect (515), when
    /// the client finds the connection dead, and when the connection attempt failed.
    fn into_end(self) -> ConnectionEnd {
        self.end.unwrap_or_else(|| match (self.just_paired, self.connected) {
            (true, _) => ConnectionEnd::ReconnectNow,
            (false, true) => {
                ConnectionEnd::Lost("WhatsApp stopped answering, or asked for a new connection".to_owned())
            }
            (false, false) => ConnectionEnd::Lost("WhatsApp cannot be reached".to_owned()),
        })
    }
}

fn account(client: &Client) -> LinkedAccount {
    LinkedAccount {
        jid: client.pn().map(|jid| jid.to_string()).unwrap_or_default(),
        lid: client.lid().map(|jid| jid.to_string()),
        name: Some(client.push_name()).filter(|name| !name.is_empty()),
    }
}

/// The end of the connection that an event means, if it ends the connection. `paired`: the device belonged to an account
/// before this connection.
fn end_from_event(event: &Event, paired: bool, now: Timestamp) -> Option<ConnectionEnd> {
    let ended = |end| Some(ConnectionEnd::Final(LinkEvent::Ended(end)));
    match event {
        Event::PairingQrCodesExhausted(_) => Some(ConnectionEnd::Final(LinkEvent::QrCodesExhausted)),
        Event::PairError(error) => ended(LinkEnd::PairingFailed(pairing_failure_reason(&error.error))),
        Event::LoggedOut(_) if !paired => ended(LinkEnd::PairingFailed(pairing_failure_reason(
            "WhatsApp removed the device from the account again",
        ))),
        Event::LoggedOut(out) => match out.reason {
            ConnectFailureReason::AccountLocked => {
                let text = out.logout_message.as_ref().and_then(|message| message.subtext.clone());
                let reason = text.unwrap_or_else(|| "WhatsApp locked the account".to_owned());
                ended(LinkEnd::Banned { until: None, reason })
            }
            _ => ended(LinkEnd::LoggedOut),
        },
        Event::StreamReplaced(_) => ended(LinkEnd::Replaced),
        Event::TemporaryBan(ban) => {
            let until = ban.expire.to_std().ok().map(|duration| now + duration);
            ended(LinkEnd::Banned { until, reason: ban.code.to_string() })
        }
        Event::ClientOutdated(_) => ended(LinkEnd::ClientOutdated),
        Event::ConnectFailure(failure) => {
            let reason = failure.message.clone().unwrap_or_else(|| format!("{:?}", failure.reason));
            match failure.reason {
                ConnectFailureReason::TempBanned => ended(LinkEnd::Banned { until: None, reason }),
                ConnectFailureReason::ClientOutdated => ended(LinkEnd::ClientOutdated),
                _ => Some(ConnectionEnd::Lost(format!("WhatsApp refused the connection: {reason}"))),
            }
        }
        Event::Disconnected(lost) => Some(ConnectionEnd::Lost(lost.reason.to_string())),
        // These errors concern single stanzas; an error of the stream itself also ends it.
        Event::StreamError(error) => {
            tracing::warn!(code = %error.code, "stream error received; connection kept");
            None
        }
        _ => None,
    }
}

/// The reason of a failed pairing, with a hint where the cause is known. Accounts that Meta or a provider hosts sign with
/// a separate key, which whatsapp-rust 0.7.0 rejects as a forgery.
fn pairing_failure_reason(error: &str) -> String {
    if error.contains("signature-mismatch") {
        let hint = "accounts that are hosted for a business cannot be linked by this version; use the Cloud API for \
                    them, or pair another account";
        return format!("the account's signature is not supported ({error}): {hint}");
    }
    error.to_owned()
}

/// Receives the client's events and never blocks the client.
struct ClientEventHandler {
    client_state: Arc<ClientState>,
    events: mpsc::Sender<Arc<Event>>,
    dropped: AtomicU64,
}

impl ClientEventHandler {
    /// Handles a received stanza before the client does.
    fn on_stanza(&self, stanza: &NodeRef<'_>) {
        match stanza.tag.as_ref() {
            "message" => {
                if let Some(id) = stanza.get_attr("id") {
                    self.client_state.pending_decrypts.begin(&id.as_str());
                }
            }
            "receipt" if stanza.get_attr("type").is_some_and(|kind| kind.as_str() == "retry") => {
                self.client_state.record_retry_request();
            }
            _ => {}
        }
    }
}

impl EventHandler for ClientEventHandler {
    fn handle_event(&self, event: Arc<Event>) {
        match &*event {
            Event::ServerAck(ack) if ack.class.as_deref().is_none_or(|class| class == "message") => {
                let outcome = ack.error.clone().map_or(Ack::Accepted, Ack::Rejected);
                self.client_state.resolve_ack(&ack.id, outcome);
            }
            Event::RawNode(node) => self.on_stanza(node.get()),
            Event::ServerAck(_) | Event::Notification(_) => {}
            _ => {
                if self.events.try_send(event).is_err() {
                    let dropped = self.dropped.fetch_add(1, Ordering::Relaxed);
                    if dropped.is_power_of_two() || dropped == 0 {
                        tracing::warn!(dropped = dropped + 1, "event channel full; event dropped");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
