//! Virtual phones: the first device of an account, which scans codes, receives, answers, reads and unlinks. It
//! has no socket, but what it sends and gets are the same stanzas, sealed by the same protocol.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rand::rngs::StdRng;
use relevo_linked_device::client::wacore::libsignal::protocol::KeyPair;
use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::whatsapp::Message;

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::keys::DeviceKeyBundle;
use crate::link_code::EnteredCode;
use crate::pairing;
use crate::phone_events::{PhoneEvent, PhoneEventLog, PhoneMessage};
use crate::routing;
use crate::server_state::ServerState;
use crate::signal::{self, SignalState};

/// Sent messages that a phone keeps in case a device could not read them.
const MAX_SENT_MESSAGES: usize = 1000;

/// Why a phone could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server has stopped")]
    Stopped,
    #[error("{0} is no address of an account or group")]
    UnknownRecipient(Jid),
    #[error(transparent)]
    Pairing(#[from] pairing::Error),
    #[error("the message cannot be sealed: {0}")]
    Encryption(#[from] signal::Error),
    #[error("the media cannot be sealed: {0}")]
    Media(String),
    #[error("the account has no linked device {0}")]
    NoDevice(u16),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A message as it was sent, for a device that asks for it again.
pub(super) struct PhoneSentMessage {
    pub id: String,
    pub chat: Jid,
    pub message: Box<Message>,
}

/// What changes as a phone works.
pub(super) struct State {
    pub signal: SignalState,
    /// The devices that know the phone's sender key, by group.
    pub sender_key_recipients: HashMap<String, HashSet<DeviceId>>,
    pub sent: VecDeque<PhoneSentMessage>,
    /// How often a message was asked for again, by its id.
    pub retry_counts: HashMap<String, u8>,
    /// A device's code that was typed in and not yet answered.
    pub entered_code: Option<EnteredCode>,
}

impl State {
    pub fn record_sent(&mut self, sent: PhoneSentMessage) {
        if self.sent.len() == MAX_SENT_MESSAGES {
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
    }
}

/// A virtual phone. See [`WebHandle::phone`].
///
/// [`WebHandle::phone`]: crate::WebHandle::phone
pub struct Phone {
    account: AccountId,
    phone_number: Box<str>,
    lid: Box<str>,
    server: Weak<ServerState>,
    key: KeyPair,
    bundle: DeviceKeyBundle,
    pub(super) state: Mutex<State>,
    pub(super) event_log: PhoneEventLog,
}

impl std::fmt::Debug for Phone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Phone").field("phone_number", &self.phone_number).finish_non_exhaustive()
    }
}

impl Phone {
    /// # Panics
    /// Never: curves that are made of random numbers can be signed with.
    pub(super) fn new(server: Weak<ServerState>, account: AccountId, phone_number: &str, lid: &str) -> Self {
        #[expect(clippy::expect_used, reason = "keys that were just made are keys")]
        let (ratchets, key, bundle) = SignalState::generate().expect("fresh keys");
        let state = State {
            signal: ratchets,
            sender_key_recipients: HashMap::new(),
            sent: VecDeque::new(),
            retry_counts: HashMap::new(),
            entered_code: None,
        };
        Self {
            account,
            phone_number: phone_number.into(),
            lid: lid.into(),
            server,
            key,
            bundle,
            state: Mutex::new(state),
            event_log: PhoneEventLog::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn server(&self) -> Result<Arc<ServerState>> {
        self.server.upgrade().ok_or(Error::Stopped)
    }

    pub(super) fn account(&self) -> AccountId {
        self.account
    }

    /// The phone as a device.
    pub(super) fn device(&self) -> DeviceId {
        DeviceId { account: self.account, number: 0 }
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// What others need to open a session with the phone.
    pub(super) fn bundle(&self) -> DeviceKeyBundle {
        self.bundle.clone()
    }

    pub(super) fn own_jid(&self, naming: AddressingMode) -> Jid {
        match naming {
            AddressingMode::PhoneNumber => Jid::pn(&*self.phone_number),
            AddressingMode::Lid => Jid::lid(&*self.lid),
        }
    }

    pub(super) fn sign(&self, parts: &[&[u8]]) -> Result<Vec<u8>, pairing::Error> {
        let mut random: StdRng = rand::make_rng();
        let signature = self.key.private_key.calculate_signature(&parts.concat(), &mut random);
        signature
            .map(|signature| signature.to_vec())
            .map_err(|error| pairing::Error::Crypto(error.to_string()))
    }

    /// Sends a stanza of the phone's own.
    pub(super) fn send_stanza(&self, shared: &Arc<ServerState>, stanza: Node) {
        let mail = routing::route_stanza(shared, self.device(), stanza);
        shared.deliver_to_phones(mail);
    }

    /// Digits only.
    pub fn phone_number(&self) -> &str {
        &self.phone_number
    }

    /// The account's address under its phone number.
    pub fn jid(&self) -> Jid {
        self.own_jid(AddressingMode::PhoneNumber)
    }

    /// The account's address under its LID.
    pub fn lid(&self) -> Jid {
        self.own_jid(AddressingMode::Lid)
    }

    /// Scans the QR code that a device shows, and so links it. Returns the device's number; the device comes back
    /// by itself to log in.
    ///
    /// # Errors
    /// When no device shows this code, or the account can have no more devices.
    pub fn scan(&self, code: &str) -> Result<u16> {
        let shared = self.server()?;
        let device = pairing::scan_qr_code(&shared, self, code)?;
        Ok(device.number)
    }

    /// Unlinks a device, which hears of it at once when it is connected.
    ///
    /// # Errors
    /// When the account has no such device.
    pub fn unlink(&self, device: u16) -> Result<()> {
        if pairing::unlink_device(&self.server()?, self.account, device) {
            Ok(())
        } else {
            Err(Error::NoDevice(device))
        }
    }

    /// The numbers of the linked devices.
    pub fn devices(&self) -> Vec<u16> {
        let Ok(shared) = self.server() else { return Vec::new() };
        let hub = shared.registry();
        hub.directory.account(self.account).devices.keys().copied().collect()
    }

    /// All that the phone remembers having seen, oldest first.
    pub fn events(&self) -> Vec<Arc<PhoneEvent>> {
        self.event_log.all()
    }

    /// Follows what the phone sees, from its first day on.
    pub fn watch(self: &Arc<Self>) -> PhoneEventStream {
        PhoneEventStream { phone: Arc::clone(self), position: 0 }
    }

    /// Follows what the phone sees from now on.
    pub fn watch_from_now(self: &Arc<Self>) -> PhoneEventStream {
        PhoneEventStream { phone: Arc::clone(self), position: self.event_log.len() }
    }
}

/// Follows what a phone sees. Nothing is missed, and nothing is shown twice.
#[derive(Debug)]
pub struct PhoneEventStream {
    phone: Arc<Phone>,
    position: u64,
}

impl PhoneEventStream {
    /// What the phone sees next. Can be cancelled.
    pub async fn next(&mut self) -> Arc<PhoneEvent> {
        self.phone.event_log.next(&mut self.position).await
    }

    /// The next message, whatever else is seen before it.
    pub async fn message(&mut self) -> PhoneMessage {
        loop {
            if let PhoneEvent::Message(received) = &*self.next().await {
                return received.clone();
            }
        }
    }

    /// The next receipt of this kind for a message: `delivered`, `read` or `played`.
    pub async fn receipt(&mut self, id: &str, kind: &str) -> Arc<PhoneEvent> {
        loop {
            let seen = self.next().await;
            if let PhoneEvent::Receipt { ids, kind: seen_kind, .. } = &*seen
                && seen_kind == kind
                && ids.iter().any(|seen_id| seen_id == id)
            {
                return seen;
            }
        }
    }
}
