//! One instance's way through connections: each is a client of its own on the instance's keys, and between two of them
//! is a pause that grows. The client never reconnects by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use whatsapp_rust::anyhow::{self, anyhow};
use whatsapp_rust::bot::{Bot, BotHandle};
use whatsapp_rust::store::error::StoreError;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::types::events::{ConnectFailureReason, Event, EventHandler};
use whatsapp_rust::wacore::store::DevicePropsOverride;
use whatsapp_rust::wacore_binary::NodeRef;
use whatsapp_rust::{Client, TokioRuntime};

use super::client_state::{Ack, ClientState};
use super::first_contacts::FirstContacts;
use super::inbound;
use super::ingest::{DurabilityHook, MessageIngest, load_lid_mapping};
use super::message_cache;
use super::store::{self, SledBackend};
use super::transport::WhatsAppConnector;
use relevo_domain::{InstanceNumber, Timestamp};
use relevo_provider::{ConnectionEvent, LinkEnd, LinkEvent, LinkedAccount, LoginPermit, ProviderResources};
use relevo_store::Space;

/// Events that may wait for the instance's actor. What does not fit is counted and lost: presence and the like matter
/// less than the connection, and messages do not come this way.
const EVENT_CAPACITY: usize = 4096;

/// A paired device that is not connected after so long, and gets nothing either, tries anew.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// A device that logs in keeps others from it for so long at most.
const LOGIN_PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that lasted so long was a good one: the next pause is short again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// The pause after the first failure lies between a tenth of this and this; each further one doubles it.
const INITIAL_BACKOFF: Duration = Duration::from_secs(5);

/// A client that ends may write down what it has for so long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session is made of.
pub(super) struct ConnectionLoop {
    pub number: InstanceNumber,
    pub shared: ProviderResources,
    pub connector: WhatsAppConnector,
    pub client_state: Arc<ClientState>,
    pub contacts: FirstContacts,
    pub inbox: mpsc::Sender<ConnectionEvent>,
    pub stop: CancellationToken,
    /// Whether the phone's history is asked for after pairing.
    pub sync_history: bool,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum ConnectionEnd {
    /// For good, as far as this client is concerned.
    Final(LinkEvent),
    /// The server wants the client back at once, as after pairing.
    ReconnectNow,
    Lost(String),
    /// The instance wants no client any more.
    Stopped,
}

impl ConnectionLoop {
    pub async fn run(self) {
        // Two clients on the same keys would ruin them: the one before has to be gone.
        let _seat = self.shared.login_gate.lock_keys(self.number).await;
        let mut failures = 0;
        while !self.stop.is_cancelled() && !self.inbox.is_closed() {
            self.emit(LinkEvent::Connecting).await;
            let began = Instant::now();
            let end = match self.run_connection().await {
                Ok(end) => end,
                Err(cause) => ConnectionEnd::Lost(format!("{cause:#}")),
            };
            self.client_state.close();
            failures = if began.elapsed() >= STABLE_AFTER { 0 } else { failures };
            match end {
                ConnectionEnd::ReconnectNow => {}
                ConnectionEnd::Lost(why) => {
                    let retry_in = backoff(failures, self.shared.linked.reconnect_max_delay, rand::random());
                    failures += 1;
                    self.emit(LinkEvent::Disconnected { reason: why, retry_in }).await;
                    let pause = tokio::time::sleep(retry_in);
                    tokio::select! { () = pause => {}, () = self.wait_stopped() => return }
                }
                ConnectionEnd::Final(news) => {
                    if matches!(news, LinkEvent::Ended(LinkEnd::LoggedOut | LinkEnd::PairingFailed(_))) {
                        self.delete_keys().await;
                    }
                    return self.emit(news).await;
                }
                ConnectionEnd::Stopped => return,
            }
        }
    }

    /// Resolves when the instance wants no client any more: its provider is dropped, or nobody hears what it tells.
    async fn wait_stopped(&self) {
        tokio::select! { () = self.stop.cancelled() => {}, () = self.inbox.closed() => {} }
    }

    async fn emit(&self, news: LinkEvent) {
        let _ = self.inbox.send(ConnectionEvent::Link(news)).await;
    }

    /// The next pairing may be with another account, whose chats are others.
    async fn delete_keys(&self) {
        let store = &self.shared.store;
        let forgotten = match store::delete_device(store, self.number).await {
            Ok(()) => message_cache::delete_all(store, self.number, Space::LinkedMessageCache).await,
            failed => failed,
        };
        if let Err(cause) = forgotten {
            tracing::error!(%cause, "the keys of a device that was logged out could not be deleted");
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

    /// One connection from its client's first breath to its last.
    async fn run_connection(&self) -> anyhow::Result<ConnectionEnd> {
        let turn = tokio::select! {
            turn = self.shared.login_gate.acquire() => Some((turn, Instant::now() + LOGIN_PERMIT_TIMEOUT)),
            () = self.wait_stopped() => return Ok(ConnectionEnd::Stopped),
        };
        let (events, mut happened) = mpsc::channel(EVENT_CAPACITY);
        let mut client = self.build_client(events).await?;
        // The ear hears of messages before they are opened.
        let _raw = client.client().acquire_raw_node_forwarding();
        let deadline = client.client().pn().map(|_| Instant::now() + LOGIN_TIMEOUT);
        self.client_state.set_client(client.client());
        let mut run = ActiveConnection {
            connection_loop: self,
            login_permit: turn,
            deadline,
            just_paired: false,
            connected: false,
            offline_sync_completed: false,
            end: None,
        };
        while run.end.is_none() {
            tokio::select! {
                biased;
                () = self.wait_stopped() => run.end = Some(ConnectionEnd::Stopped),
                event = happened.recv() => match event {
                    Some(event) => run.handle_event(&event).await,
                    None => break,
                },
                () = &mut client => break,
                why = self.client_state.wait_unusable() => run.end = Some(ConnectionEnd::Lost(why.to_owned())),
                () = run.wait_permit_expiry() => run.login_permit = None,
                () = run.wait_login_deadline() => {
                    run.end = Some(ConnectionEnd::Lost(format!("WhatsApp did not let the device in within {LOGIN_TIMEOUT:?}")));
                }
            }
        }
        // Nothing can be sent from here on, and what was said last is heard.
        self.client_state.close();
        let device = client.client().persistence_manager();
        let farewell = async {
            client.shutdown().await;
            save_device(&device).await
        };
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => tracing::error!(%cause, "what a client knew of its device could not be saved"),
            Err(_) => tracing::warn!("a client did not end in time and was aborted"),
        }
        while let Ok(event) = happened.try_recv() {
            run.handle_event(&event).await;
        }
        Ok(run.into_end())
    }

    async fn build_client(&self, events: mpsc::Sender<Arc<Event>>) -> anyhow::Result<BotHandle> {
        let options = &self.shared.linked;
        let arrivals = Arc::clone(&self.client_state.pending_decrypts);
        let backend = SledBackend::new(self.shared.store.clone(), self.number, arrivals);
        let ear = ClientEventHandler {
            client_state: Arc::clone(&self.client_state),
            events,
            dropped: AtomicU64::new(0),
        };
        let hook = DurabilityHook { ingest: self.ingest(), client_state: Arc::clone(&self.client_state) };
        let builder = Bot::builder()
            .with_backend(backend)
            .with_transport_factory(self.connector.clone())
            .with_http_client(self.connector.clone())
            .with_runtime(TokioRuntime)
            .with_device_props(DevicePropsOverride::new().with_os(options.device_name.clone()))
            .with_event_handler(ear)
            .with_inbound_durability_hook(hook);
        let builder = match options.version {
            Some(version) => builder.with_version(version),
            None => builder,
        };
        let builder = if self.sync_history { builder } else { builder.skip_history_sync() };
        let bot =
            builder.build().await.map_err(|cause| anyhow!("the client could not be opened: {cause}"))?;
        bot.client().enable_auto_reconnect.store(false, Ordering::Relaxed);
        Ok(bot.spawn())
    }
}

/// Writes down what a client that has ended knew of its device. Its own last save does so only if no other was begun:
/// one that was cut short together with the client counts as done (whatsapp-rust 0.7.0, `PersistenceManager::flush`),
/// and a device that was just paired would come back as nobody's.
async fn save_device(device: &PersistenceManager) -> Result<(), StoreError> {
    device.modify_device(|_| ()).await;
    device.flush().await
}

/// The pause before another attempt: it doubles with each failure up to `longest`, and lies anywhere in its longer part,
/// so that many instances do not come back at once.
fn backoff(failures: u32, longest: Duration, chance: u32) -> Duration {
    let ceiling = INITIAL_BACKOFF.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(longest);
    let floor = if failures == 0 { ceiling / 10 } else { ceiling / 2 };
    floor + (ceiling - floor).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

/// What is known of a connection so far.
struct ActiveConnection<'a> {
    connection_loop: &'a ConnectionLoop,
    /// The turn to log in, and when it is over at the latest.
    login_permit: Option<(LoginPermit, Instant)>,
    /// When a paired device has to be connected.
    deadline: Option<Instant>,
    /// A phone took the code just now.
    just_paired: bool,
    connected: bool,
    /// What had waited for this connection is taken in.
    offline_sync_completed: bool,
    end: Option<ConnectionEnd>,
}

impl ActiveConnection<'_> {
    async fn wait_permit_expiry(&self) {
        match &self.login_permit {
            Some((_, over)) => tokio::time::sleep_until(*over).await,
            None => std::future::pending().await,
        }
    }

    async fn wait_login_deadline(&self) {
        match self.deadline {
            Some(deadline) if !self.connected => tokio::time::sleep_until(deadline).await,
            _ => std::future::pending().await,
        }
    }

    /// Messages are sent once the device is in and has what had waited for it: what answers them is not older than they
    /// are, and ratchets that opened what waited can be written to the disk at any time.
    async fn emit_connected_when_ready(&self) {
        let Some(client) = self
            .connection_loop
            .client_state
            .client()
            .filter(|_| self.connected && self.offline_sync_completed)
        else {
            return;
        };
        self.connection_loop.client_state.set_connected();
        self.connection_loop.emit(LinkEvent::Connected(account(&client))).await;
    }

    async fn handle_event(&mut self, event: &Event) {
        let session = self.connection_loop;
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
                let news = LinkEvent::QrCode { qr: code.code.clone(), valid_for: code.timeout };
                session.emit(news).await;
            }
            Event::PairSuccess(pair) => {
                self.just_paired = true;
                self.deadline = Some(Instant::now() + LOGIN_TIMEOUT);
                let account = LinkedAccount {
                    jid: pair.id.to_string(),
                    lid: Some(pair.lid.to_string()),
                    name: Some(pair.business_name.clone()).filter(|name| !name.is_empty()),
                };
                session.emit(LinkEvent::Linked(account)).await;
            }
            Event::Messages(batch) => {
                // Whoever has much to catch up with is on the way in.
                self.deadline = self.deadline.map(|_| Instant::now() + LOGIN_TIMEOUT);
                // What the hook had is kept. The rest WhatsApp does not keep for us, so nobody waits for the answer.
                if !batch.hook_committed {
                    let _ = session
                        .ingest()
                        .deliver(session.client_state.client().as_deref(), &batch.messages)
                        .await;
                }
            }
            _ => match end_from_event(event, self.is_paired(), session.shared.clock.now()) {
                // The first cause is the one that counts.
                Some(end) => drop(self.end.get_or_insert(end)),
                None => {
                    let now = session.shared.clock.now();
                    let names = load_lid_mapping(
                        session.client_state.client().as_deref(),
                        inbound::people_in_event(event),
                    )
                    .await;
                    for happening in inbound::connection_events(event, now, &names, |stanza| {
                        session.client_state.message_id(stanza)
                    }) {
                        let _ = session.inbox.send(happening).await;
                    }
                }
            },
        }
    }

    /// Whether the device belonged to an account before this connection.
    fn is_paired(&self) -> bool {
        self.deadline.is_some() && !self.just_paired
    }

    /// How the connection ended. Without a word it ends after pairing, when the server wants the client back (515), when
    /// the client finds it dead, and when there never was one.
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

/// What an event means for the connection, if it ends it. `paired`: the device belonged to an account before.
fn end_from_event(event: &Event, paired: bool, now: Timestamp) -> Option<ConnectionEnd> {
    let refused = |refused| Some(ConnectionEnd::Final(LinkEvent::Ended(refused)));
    match event {
        Event::PairingQrCodesExhausted(_) => Some(ConnectionEnd::Final(LinkEvent::QrCodesExhausted)),
        Event::PairError(error) => refused(LinkEnd::PairingFailed(pairing_failure_reason(&error.error))),
        Event::LoggedOut(_) if !paired => refused(LinkEnd::PairingFailed(pairing_failure_reason(
            "WhatsApp took the device off the account again",
        ))),
        Event::LoggedOut(out) => match out.reason {
            ConnectFailureReason::AccountLocked => {
                let text = out.logout_message.as_ref().and_then(|message| message.subtext.clone());
                let reason = text.unwrap_or_else(|| "WhatsApp locked the account".to_owned());
                refused(LinkEnd::Banned { until: None, reason })
            }
            _ => refused(LinkEnd::LoggedOut),
        },
        Event::StreamReplaced(_) => refused(LinkEnd::Replaced),
        Event::TemporaryBan(ban) => {
            let until = ban.expire.to_std().ok().map(|lasts| now + lasts);
            refused(LinkEnd::Banned { until, reason: ban.code.to_string() })
        }
        Event::ClientOutdated(_) => refused(LinkEnd::ClientOutdated),
        Event::ConnectFailure(failure) => {
            let said = failure.message.clone().unwrap_or_else(|| format!("{:?}", failure.reason));
            match failure.reason {
                ConnectFailureReason::TempBanned => refused(LinkEnd::Banned { until: None, reason: said }),
                ConnectFailureReason::ClientOutdated => refused(LinkEnd::ClientOutdated),
                _ => Some(ConnectionEnd::Lost(format!("WhatsApp refused the connection: {said}"))),
            }
        }
        Event::Disconnected(lost) => Some(ConnectionEnd::Lost(lost.reason.to_string())),
        // About single stanzas; where the stream itself is meant, it ends.
        Event::StreamError(error) => {
            tracing::warn!(code = %error.code, "WhatsApp reports an error on the stream");
            None
        }
        _ => None,
    }
}

/// Why a pairing failed, with what is known about it. Accounts that are hosted by Meta or a provider sign with a key of
/// their own, which whatsapp-rust 0.7.0 takes for a forgery.
fn pairing_failure_reason(said: &str) -> String {
    if said.contains("signature-mismatch") {
        let hint = "accounts that are hosted for a business cannot be linked by this version; use the Cloud API for \
                    them, or pair another account";
        return format!("the account's signature was not understood ({said}): {hint}");
    }
    said.to_owned()
}

/// Hears what the client says, and never makes it wait.
struct ClientEventHandler {
    client_state: Arc<ClientState>,
    events: mpsc::Sender<Arc<Event>>,
    dropped: AtomicU64,
}

impl ClientEventHandler {
    /// A stanza comes in, before the client does anything about it.
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
                let word = ack.error.clone().map_or(Ack::Accepted, Ack::Rejected);
                self.client_state.resolve_ack(&ack.id, word);
            }
            Event::RawNode(node) => self.on_stanza(node.get()),
            Event::ServerAck(_) | Event::Notification(_) => {}
            _ => {
                if self.events.try_send(event).is_err() {
                    let lost = self.dropped.fetch_add(1, Ordering::Relaxed);
                    if lost.is_power_of_two() || lost == 0 {
                        tracing::warn!(
                            lost = lost + 1,
                            "events of a linked device came faster than they are noted"
                        );
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
