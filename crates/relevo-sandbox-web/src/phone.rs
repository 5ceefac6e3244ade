//! Virtual phones: the first device of an account, which scans codes, receives, replies, reads and unlinks. A phone
//! has no socket, but it sends and receives the same stanzas with the same encryption.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use relevo_linked_device::client::wacore::libsignal::protocol::KeyPair;
use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::waproto::whatsapp::Message;

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::keys::DeviceKeyBundle;
use crate::link_code::EnteredCode;
use crate::pairing;
use crate::phone_events::{PhoneEvent, PhoneEventLog, PhoneMessage};
use crate::router;
use crate::server_state::ServerState;
use crate::signal::{self, SignalState};
use relevo_clock::Random;

/// Maximum number of sent messages that a phone stores for retries.
const MAX_SENT_MESSAGES: usize = 1000;

/// Reason why a phone could not complete a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server has stopped.
    #[error("the server has stopped")]
    Stopped,
    /// There is no such account or group, or the phone is not a member of the group.
    #[error("{0} is not the address of an account or group")]
    UnknownRecipient(Jid),
    /// A device could not be linked.
    #[error(transparent)]
    Pairing(#[from] pairing::Error),
    /// The message cannot be encrypted.
    #[error("the message cannot be encrypted: {0}")]
    Encryption(#[from] signal::Error),
    /// The media cannot be encrypted, stored or decrypted.
    #[error("the media cannot be processed: {0}")]
    Media(String),
    /// The account has no such linked device.
    #[error("the account has no linked device {0}")]
    NoDevice(u16),
}

/// Result of the functions of [`Phone`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A sent message, for a device that requests it again.
pub(super) struct PhoneSentMessage {
    pub id: String,
    pub chat: Jid,
    pub message: Box<Message>,
}

/// The mutable state of a phone.
pub(super) struct State {
    pub signal: SignalState,
    /// The devices that have the phone's sender key, by group.
    pub sender_key_recipients: HashMap<String, HashSet<DeviceId>>,
    pub sent: VecDeque<PhoneSentMessage>,
    /// Number of retry requests by message id.
    pub retry_counts: HashMap<String, u8>,
    /// An entered code that the device has not answered yet.
    pub entered_code: Option<EnteredCode>,
}

impl State {
    /// Stores a sent message and evicts the oldest one.
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
    random: Random,
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
    /// A phone with new keys.
    ///
    /// # Panics
    /// Never: new keys can sign.
    pub(super) fn new(
        server: Weak<ServerState>,
        random: Random,
        account: AccountId,
        phone_number: &str,
        lid: &str,
    ) -> Self {
        #[expect(clippy::expect_used, reason = "new keys are valid")]
        let (signal_state, key, bundle) = SignalState::generate(random.clone()).expect("fresh keys");
        let state = State {
            signal: signal_state,
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
            random,
            key,
            bundle,
            state: Mutex::new(state),
            event_log: PhoneEventLog::default(),
        }
    }

    /// Locks the mutable state.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn server(&self) -> Result<Arc<ServerState>> {
        self.server.upgrade().ok_or(Error::Stopped)
    }

    pub(super) fn account(&self) -> AccountId {
        self.account
    }

    /// The phone's own device id.
    pub(super) fn device(&self) -> DeviceId {
        DeviceId { account: self.account, number: 0 }
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The public keys to start a session with the phone.
    pub(super) fn bundle(&self) -> DeviceKeyBundle {
        self.bundle.clone()
    }

    pub(super) fn own_jid(&self, addressing: AddressingMode) -> Jid {
        match addressing {
            AddressingMode::PhoneNumber => Jid::pn(&*self.phone_number),
            AddressingMode::Lid => Jid::lid(&*self.lid),
        }
    }

    pub(super) fn sign(&self, parts: &[&[u8]]) -> Result<Vec<u8>, pairing::Error> {
        let mut generator = self.random.generator();
        let signature = self.key.private_key.calculate_signature(&parts.concat(), &mut generator);
        signature
            .map(|signature| signature.to_vec())
            .map_err(|error| pairing::Error::Crypto(error.to_string()))
    }

    /// Routes a stanza of this phone.
    pub(super) fn send_stanza(&self, shared: &Arc<ServerState>, stanza: Node) {
        let phone_stanzas = router::route_stanza(shared, self.device(), stanza);
        shared.deliver_to_phones(phone_stanzas);
    }

    /// The phone number, digits only.
    pub fn phone_number(&self) -> &str {
        &self.phone_number
    }

    /// The account's address with its phone number.
    pub fn jid(&self) -> Jid {
        self.own_jid(AddressingMode::PhoneNumber)
    }

    /// The account's address with its LID.
    pub fn lid(&self) -> Jid {
        self.own_jid(AddressingMode::Lid)
    }

    /// Scans the QR code of a device and links the device. Returns the device's number; the device then reconnects to
    /// log in.
    ///
    /// # Errors
    /// No device shows this code, or the account has the maximum number of devices.
    pub fn scan(&self, code: &str) -> Result<u16> {
        let shared = self.server()?;
        let device = pairing::scan_qr_code(&shared, self, code)?;
        Ok(device.number)
    }

    /// Unlinks a device and closes its connection.
    ///
    /// # Errors
    /// The account has no such device.
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
        let registry = shared.registry();
        registry.directory.account(self.account).devices.keys().copied().collect()
    }

    /// All stored events of the phone, oldest first.
    pub fn events(&self) -> Vec<Arc<PhoneEvent>> {
        self.event_log.all()
    }

    /// A stream of the phone's events, from the oldest stored one.
    pub fn watch(self: &Arc<Self>) -> PhoneEventStream {
        PhoneEventStream { phone: Arc::clone(self), position: 0 }
    }

    /// A stream of the phone's future events.
    pub fn watch_from_now(self: &Arc<Self>) -> PhoneEventStream {
        PhoneEventStream { phone: Arc::clone(self), position: self.event_log.len() }
    }
}

/// A stream of a phone's events. Skips none, unless it was evicted, and repeats none.
#[derive(Debug)]
pub struct PhoneEventStream {
    phone: Arc<Phone>,
    position: u64,
}

impl PhoneEventStream {
    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Arc<PhoneEvent> {
        self.phone.event_log.next(&mut self.position).await
    }

    /// The next message; skips other events.
    pub async fn message(&mut self) -> PhoneMessage {
        loop {
            if let PhoneEvent::Message(received) = &*self.next().await {
                return received.clone();
            }
        }
    }

    /// The next receipt of this type (`delivered`, `read` or `played`) for a message; skips other events.
    pub async fn receipt(&mut self, id: &str, kind: &str) -> Arc<PhoneEvent> {
        loop {
            let event = self.next().await;
            if let PhoneEvent::Receipt { ids, kind: event_kind, .. } = &*event
                && event_kind == kind
                && ids.iter().any(|event_id| event_id == id)
            {
                return event;
            }
        }
    }
}
