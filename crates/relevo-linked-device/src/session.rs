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

use super::desk::{Ack, Desk};
use super::first_contacts::FirstContacts;
use super::inbound;
use super::index;
use super::intake::{Hook, Intake, names_of};
use super::store::{self, SledBackend};
use super::transport::Road;
use relevo_domain::{InstanceNumber, Timestamp};
use relevo_provider::{Happening, LinkNews, LinkedAccount, Refused, Shared, Turn};
use relevo_store::Space;

/// Events that may wait for the instance's actor. What does not fit is counted and lost: presence and the like matter
/// less than the connection, and messages do not come this way.
const BACKLOG: usize = 4096;

/// A paired device that is not connected after so long, and gets nothing either, tries anew.
const LOGIN: Duration = Duration::from_secs(60);

/// A device that logs in keeps others from it for so long at most.
const TURN: Duration = Duration::from_secs(5);

/// A connection that lasted so long was a good one: the next pause is short again.
const STABLE: Duration = Duration::from_secs(60);

/// The pause after the first failure lies between a tenth of this and this; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// A client that ends may write down what it has for so long.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a session is made of.
pub(super) struct Session {
    pub number: InstanceNumber,
    pub shared: Shared,
    pub road: Road,
    pub desk: Arc<Desk>,
    pub contacts: FirstContacts,
    pub inbox: mpsc::Sender<Happening>,
    pub stop: CancellationToken,
    /// Whether the phone's history is asked for after pairing.
    pub history: bool,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// For good, as far as this client is concerned.
    Over(LinkNews),
    /// The server wants the client back at once, as after pairing.
    AtOnce,
    Lost(String),
    /// The instance wants no client any more.
    Stopped,
}

impl Session {
    pub async fn run(self) {
        // Two clients on the same keys would ruin them: the one before has to be gone.
        let _seat = self.shared.seats.take(self.number).await;
        let mut failures = 0;
        while !self.stop.is_cancelled() && !self.inbox.is_closed() {
            self.tell(LinkNews::Connecting).await;
            let began = Instant::now();
            let end = match self.connect().await {
                Ok(end) => end,
                Err(cause) => End::Lost(format!("{cause:#}")),
            };
            self.desk.close();
            failures = if began.elapsed() >= STABLE { 0 } else { failures };
            match end {
                End::AtOnce => {}
                End::Lost(why) => {
                    let retry_in = pause(failures, self.shared.linked.reconnect_max_delay, rand::random());
                    failures += 1;
                    self.tell(LinkNews::Disconnected { why, retry_in }).await;
                    let pause = tokio::time::sleep(retry_in);
                    tokio::select! { () = pause => {}, () = self.unwanted() => return }
                }
                End::Over(news) => {
                    if matches!(news, LinkNews::Refused(Refused::LoggedOut | Refused::NotPaired(_))) {
                        self.forget_keys().await;
                    }
                    return self.tell(news).await;
                }
                End::Stopped => return,
            }
        }
    }

    /// Resolves when the instance wants no client any more: its provider is dropped, or nobody hears what it tells.
    async fn unwanted(&self) {
        tokio::select! { () = self.stop.cancelled() => {}, () = self.inbox.closed() => {} }
    }

    async fn tell(&self, news: LinkNews) {
        let _ = self.inbox.send(Happening::Link(news)).await;
    }

    /// The next pairing may be with another account, whose chats are others.
    async fn forget_keys(&self) {
        let store = &self.shared.store;
        let forgotten = match store::forget(store, self.number).await {
            Ok(()) => index::forget(store, self.number, Space::LinkedIndex).await,
            failed => failed,
        };
        if let Err(cause) = forgotten {
            tracing::error!(%cause, "the keys of a device that was logged out could not be deleted");
        }
    }

    fn intake(&self) -> Intake {
        Intake {
            number: self.number,
            shared: self.shared.clone(),
            contacts: self.contacts.clone(),
            inbox: self.inbox.clone(),
        }
    }

    /// One connection from its client's first breath to its last.
    async fn connect(&self) -> anyhow::Result<End> {
        let turn = tokio::select! {
            turn = self.shared.seats.turn() => Some((turn, Instant::now() + TURN)),
            () = self.unwanted() => return Ok(End::Stopped),
        };
        let (events, mut happened) = mpsc::channel(BACKLOG);
        let mut client = self.client(events).await?;
        // The ear hears of messages before they are opened.
        let _raw = client.client().acquire_raw_node_forwarding();
        let deadline = client.client().pn().map(|_| Instant::now() + LOGIN);
        self.desk.open(client.client());
        let mut run = Run {
            session: self,
            turn,
            deadline,
            pairing: false,
            connected: false,
            caught_up: false,
            end: None,
        };
        while run.end.is_none() {
            tokio::select! {
                biased;
                () = self.unwanted() => run.end = Some(End::Stopped),
                event = happened.recv() => match event {
                    Some(event) => run.take(&event).await,
                    None => break,
                },
                () = &mut client => break,
                why = self.desk.given_up() => run.end = Some(End::Lost(why.to_owned())),
                () = run.turn_is_over() => run.turn = None,
                () = run.is_overdue() => {
                    run.end = Some(End::Lost(format!("WhatsApp did not let the device in within {LOGIN:?}")));
                }
            }
        }
        // Nothing can be sent from here on, and what was said last is heard.
        self.desk.close();
        let device = client.client().persistence_manager();
        let farewell = async {
            client.shutdown().await;
            save(&device).await
        };
        match tokio::time::timeout(FAREWELL, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => tracing::error!(%cause, "what a client knew of its device could not be saved"),
            Err(_) => tracing::warn!("a client did not end in time and was aborted"),
        }
        while let Ok(event) = happened.try_recv() {
            run.take(&event).await;
        }
        Ok(run.ended())
    }

    async fn client(&self, events: mpsc::Sender<Arc<Event>>) -> anyhow::Result<BotHandle> {
        let options = &self.shared.linked;
        let arrivals = Arc::clone(&self.desk.arrivals);
        let backend = SledBackend::new(self.shared.store.clone(), self.number, arrivals);
        let ear = Ear { desk: Arc::clone(&self.desk), events, lost: AtomicU64::new(0) };
        let hook = Hook { intake: self.intake(), desk: Arc::clone(&self.desk) };
        let builder = Bot::builder()
            .with_backend(backend)
            .with_transport_factory(self.road.clone())
            .with_http_client(self.road.clone())
            .with_runtime(TokioRuntime)
            .with_device_props(DevicePropsOverride::new().with_os(options.device_name.clone()))
            .with_event_handler(ear)
            .with_inbound_durability_hook(hook);
        let builder = match options.version {
            Some(version) => builder.with_version(version),
            None => builder,
        };
        let builder = if self.history { builder } else { builder.skip_history_sync() };
        let bot =
            builder.build().await.map_err(|cause| anyhow!("the client could not be opened: {cause}"))?;
        bot.client().enable_auto_reconnect.store(false, Ordering::Relaxed);
        Ok(bot.spawn())
    }
}

/// Writes down what a client that has ended knew of its device. Its own last save does so only if no other was begun:
/// one that was cut short together with the client counts as done (whatsapp-rust 0.7.0, `PersistenceManager::flush`),
/// and a device that was just paired would come back as nobody's.
async fn save(device: &PersistenceManager) -> Result<(), StoreError> {
    device.modify_device(|_| ()).await;
    device.flush().await
}

/// The pause before another attempt: it doubles with each failure up to `longest`, and lies anywhere in its longer part,
/// so that many instances do not come back at once.
fn pause(failures: u32, longest: Duration, chance: u32) -> Duration {
    let ceiling = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(longest);
    let floor = if failures == 0 { ceiling / 10 } else { ceiling / 2 };
    floor + (ceiling - floor).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

/// What is known of a connection so far.
struct Run<'a> {
    session: &'a Session,
    /// The turn to log in, and when it is over at the latest.
    turn: Option<(Turn, Instant)>,
    /// When a paired device has to be connected.
    deadline: Option<Instant>,
    /// A phone took the code just now.
    pairing: bool,
    connected: bool,
    /// What had waited for this connection is taken in.
    caught_up: bool,
    end: Option<End>,
}

impl Run<'_> {
    async fn turn_is_over(&self) {
        match &self.turn {
            Some((_, over)) => tokio::time::sleep_until(*over).await,
            None => std::future::pending().await,
        }
    }

    async fn is_overdue(&self) {
        match self.deadline {
            Some(deadline) if !self.connected => tokio::time::sleep_until(deadline).await,
            _ => std::future::pending().await,
        }
    }

    /// Messages are sent once the device is in and has what had waited for it: what answers them is not older than they
    /// are, and ratchets that opened what waited can be written to the disk at any time.
    async fn open_for_messages(&self) {
        let Some(client) = self.session.desk.client().filter(|_| self.connected && self.caught_up) else {
            return;
        };
        self.session.desk.connected();
        self.session.tell(LinkNews::Connected(account(&client))).await;
    }

    async fn take(&mut self, event: &Event) {
        let session = self.session;
        match event {
            Event::Connected(_) => {
                self.connected = true;
                self.turn = None;
                self.open_for_messages().await;
            }
            Event::OfflineSyncCompleted(_) => {
                self.caught_up = true;
                self.open_for_messages().await;
            }
            Event::PairingQrCode(code) => {
                self.turn = None;
                let news = LinkNews::Code { qr: code.code.clone(), lasts: code.timeout };
                session.tell(news).await;
            }
            Event::PairSuccess(pair) => {
                self.pairing = true;
                self.deadline = Some(Instant::now() + LOGIN);
                let account = LinkedAccount {
                    jid: pair.id.to_string(),
                    lid: Some(pair.lid.to_string()),
                    name: Some(pair.business_name.clone()).filter(|name| !name.is_empty()),
                };
                session.tell(LinkNews::Linked(account)).await;
            }
            Event::Messages(batch) => {
                // Whoever has much to catch up with is on the way in.
                self.deadline = self.deadline.map(|_| Instant::now() + LOGIN);
                // What the hook had is kept. The rest WhatsApp does not keep for us, so nobody waits for the answer.
                if !batch.hook_committed {
                    let _ = session.intake().pass_on(session.desk.client().as_deref(), &batch.messages).await;
                }
            }
            _ => match ending(event, self.is_paired(), session.shared.clock.now()) {
                // The first cause is the one that counts.
                Some(end) => drop(self.end.get_or_insert(end)),
                None => {
                    let now = session.shared.clock.now();
                    let names = names_of(session.desk.client().as_deref(), inbound::people(event)).await;
                    for happening in
                        inbound::happenings(event, now, &names, |stanza| session.desk.message(stanza))
                    {
                        let _ = session.inbox.send(happening).await;
                    }
                }
            },
        }
    }

    /// Whether the device belonged to an account before this connection.
    fn is_paired(&self) -> bool {
        self.deadline.is_some() && !self.pairing
    }

    /// How the connection ended. Without a word it ends after pairing, when the server wants the client back (515), when
    /// the client finds it dead, and when there never was one.
    fn ended(self) -> End {
        self.end.unwrap_or_else(|| match (self.pairing, self.connected) {
            (true, _) => End::AtOnce,
            (false, true) => {
                End::Lost("WhatsApp stopped answering, or asked for a new connection".to_owned())
            }
            (false, false) => End::Lost("WhatsApp cannot be reached".to_owned()),
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
fn ending(event: &Event, paired: bool, now: Timestamp) -> Option<End> {
    let refused = |refused| Some(End::Over(LinkNews::Refused(refused)));
    match event {
        Event::PairingQrCodesExhausted(_) => Some(End::Over(LinkNews::CodesExhausted)),
        Event::PairError(error) => refused(Refused::NotPaired(unpaired(&error.error))),
        Event::LoggedOut(_) if !paired => {
            refused(Refused::NotPaired(unpaired("WhatsApp took the device off the account again")))
        }
        Event::LoggedOut(out) => match out.reason {
            ConnectFailureReason::AccountLocked => {
                let text = out.logout_message.as_ref().and_then(|message| message.subtext.clone());
                let reason = text.unwrap_or_else(|| "WhatsApp locked the account".to_owned());
                refused(Refused::Banned { until: None, reason })
            }
            _ => refused(Refused::LoggedOut),
        },
        Event::StreamReplaced(_) => refused(Refused::Replaced),
        Event::TemporaryBan(ban) => {
            let until = ban.expire.to_std().ok().map(|lasts| now + lasts);
            refused(Refused::Banned { until, reason: ban.code.to_string() })
        }
        Event::ClientOutdated(_) => refused(Refused::Outdated),
        Event::ConnectFailure(failure) => {
            let said = failure.message.clone().unwrap_or_else(|| format!("{:?}", failure.reason));
            match failure.reason {
                ConnectFailureReason::TempBanned => refused(Refused::Banned { until: None, reason: said }),
                ConnectFailureReason::ClientOutdated => refused(Refused::Outdated),
                _ => Some(End::Lost(format!("WhatsApp refused the connection: {said}"))),
            }
        }
        Event::Disconnected(lost) => Some(End::Lost(lost.reason.to_string())),
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
fn unpaired(said: &str) -> String {
    if said.contains("signature-mismatch") {
        let hint = "accounts that are hosted for a business cannot be linked by this version; use the Cloud API for \
                    them, or pair another account";
        return format!("the account's signature was not understood ({said}): {hint}");
    }
    said.to_owned()
}

/// Hears what the client says, and never makes it wait.
struct Ear {
    desk: Arc<Desk>,
    events: mpsc::Sender<Arc<Event>>,
    lost: AtomicU64,
}

impl Ear {
    /// A stanza comes in, before the client does anything about it.
    fn heard(&self, stanza: &NodeRef<'_>) {
        match stanza.tag.as_ref() {
            "message" => {
                if let Some(id) = stanza.get_attr("id") {
                    self.desk.arrivals.arrived(&id.as_str());
                }
            }
            "receipt" if stanza.get_attr("type").is_some_and(|kind| kind.as_str() == "retry") => {
                self.desk.asked_again();
            }
            _ => {}
        }
    }
}

impl EventHandler for Ear {
    fn handle_event(&self, event: Arc<Event>) {
        match &*event {
            Event::ServerAck(ack) if ack.class.as_deref().is_none_or(|class| class == "message") => {
                let word = ack.error.clone().map_or(Ack::Taken, Ack::Refused);
                self.desk.acknowledged(&ack.id, word);
            }
            Event::RawNode(node) => self.heard(node.get()),
            Event::ServerAck(_) | Event::Notification(_) => {}
            _ => {
                if self.events.try_send(event).is_err() {
                    let lost = self.lost.fetch_add(1, Ordering::Relaxed);
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
