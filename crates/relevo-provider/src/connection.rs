//! What lasts: the connection of a client that is always there, and what it tells of itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, oneshot};
use url::Url;

use relevo_domain::{EventKind, InboundMessage, InstanceNumber, StatusUpdate, Timestamp};

/// How linked devices run, where their own configuration says nothing else.
#[derive(Debug, Clone)]
pub struct LinkedOptions {
    /// Where WhatsApp Web answers.
    pub server: Url,
    /// The version of WhatsApp Web to be; asked of WhatsApp when unset.
    pub version: Option<(u32, u32, u32)>,
    /// The name that the phone shows in its list of linked devices.
    pub device_name: String,
    /// People whom an instance may write to first within a day; 0 is any number.
    pub first_contacts_per_day: u32,
    /// A message that WhatsApp does not acknowledge for so long has an unknown fate.
    pub ack_timeout: Duration,
    /// No pause between two attempts to connect is longer.
    pub reconnect_max_delay: Duration,
}

impl Default for LinkedOptions {
    #[expect(clippy::expect_used, reason = "a constant that a test parses")]
    fn default() -> Self {
        Self {
            server: Url::parse("wss://web.whatsapp.com/ws/chat").expect("the address of WhatsApp Web"),
            version: None,
            device_name: "relevo".to_owned(),
            first_contacts_per_day: 100,
            ack_timeout: Duration::from_secs(20),
            reconnect_max_delay: Duration::from_secs(60),
        }
    }
}

/// What all linked devices without a proxy reach WhatsApp with: the trusted certificates alone take more memory than an
/// idle device.
pub type DirectClient = Arc<OnceLock<reqwest::Client>>;

/// So many devices may be logging in at once.
const MAX_CONCURRENT_LOGINS: usize = 8;

/// Who may use the keys of an instance: one client at a time, also while one actor replaces another. And who may log in
/// now: when many start together, after a restart of the node or of WhatsApp, they go in a few at a time.
#[derive(Debug, Clone)]
pub struct LoginGate {
    key_locks: Arc<Mutex<HashMap<InstanceNumber, KeyLock>>>,
    permits: Arc<Semaphore>,
}

type KeyLock = Arc<tokio::sync::Mutex<()>>;

/// Leave to log in, until it is dropped.
#[derive(Debug)]
pub struct LoginPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for LoginGate {
    fn default() -> Self {
        Self { key_locks: Arc::default(), permits: Arc::new(Semaphore::new(MAX_CONCURRENT_LOGINS)) }
    }
}

impl LoginGate {
    /// Waits for a turn to log in. They come in the order in which they were asked for.
    pub async fn acquire(&self) -> LoginPermit {
        // It is never closed.
        LoginPermit { _permit: Arc::clone(&self.permits).acquire_owned().await.ok() }
    }

    /// Waits until nobody has the seat of this instance, and has it until what comes back is dropped.
    pub async fn lock_keys(&self, instance: InstanceNumber) -> OwnedMutexGuard<()> {
        let seat = {
            let mut seats = self.key_locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(seats.entry(instance).or_default())
        };
        seat.lock_owned().await
    }
}

/// One thing that happened on a lasting connection, in the order in which it happened.
#[derive(Debug)]
pub enum ConnectionEvent {
    Link(LinkEvent),
    /// Messages that WhatsApp keeps for us until `kept` says `true`: that they are durable here. May come again.
    Messages {
        messages: Vec<InboundMessage>,
        durable: oneshot::Sender<bool>,
    },
    /// Facts about messages that were sent.
    Statuses(Vec<StatusUpdate>),
    /// Whatever else readers of events may want to know.
    Other {
        /// The kind of event that it becomes: `presence`, `call`, `group` …
        kind: EventKind,
        at: Timestamp,
        data: Value,
    },
}

/// How the link between this device and the account stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    Connecting,
    /// Nobody's device yet: this is what a phone scans, for so long.
    QrCode {
        qr: String,
        valid_for: Duration,
    },
    /// The last code passed unused. Nothing more comes before the client is replaced.
    QrCodesExhausted,
    /// A phone took it; the connection follows.
    Linked(LinkedAccount),
    Connected(LinkedAccount),
    /// The connection is lost; the client tries again by itself after this pause.
    Disconnected {
        reason: String,
        retry_in: Duration,
    },
    /// WhatsApp wants nothing of this client: it has ended, and trying again would do harm.
    Ended(LinkEnd),
}

/// The account that a device belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkedAccount {
    /// This device of it: `573001234567:12@s.whatsapp.net`.
    pub jid: String,
    /// The account's hidden id, where it has one.
    #[serde(default)]
    pub lid: Option<String>,
    /// The name that the account shows.
    #[serde(default)]
    pub name: Option<String>,
}

impl LinkedAccount {
    /// The digits of the account's number.
    pub fn phone(&self) -> Option<&str> {
        let (user, server) = self.jid.split_once('@')?;
        let digits = user.split(':').next().filter(|digits| !digits.is_empty())?;
        let plain = server == "s.whatsapp.net" && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then_some(digits)
    }
}

/// Why WhatsApp ended the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEnd {
    /// The phone, or WhatsApp, removed this device. Its keys are forgotten; it must be paired again.
    LoggedOut,
    /// Another client uses the same keys.
    Replaced,
    /// The account may not be used, until then where WhatsApp says so.
    Banned { until: Option<Timestamp>, reason: String },
    /// WhatsApp no longer speaks with this version of the client.
    ClientOutdated,
    /// Pairing failed for good, with the reason.
    PairingFailed(String),
}

/// What is typed in on the phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairCode {
    /// Eight letters and digits.
    pub code: String,
    pub valid_for: Duration,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn login_gate_limits_concurrent_logins() {
        let seats = LoginGate::default();
        let mut turns = Vec::new();
        for _ in 0..MAX_CONCURRENT_LOGINS {
            turns.push(seats.acquire().await);
        }
        let mut next = Box::pin(seats.acquire());
        assert!(next.as_mut().now_or_never().is_none());
        turns.pop();
        assert!(next.now_or_never().is_some());
    }

    #[test]
    fn default_server_is_whatsapp_web() {
        assert_eq!(LinkedOptions::default().server.scheme(), "wss");
    }

    #[test]
    fn account_phone_is_parsed_from_its_jid() {
        let phone = |jid: &str| {
            let account = LinkedAccount { jid: jid.to_owned(), ..LinkedAccount::default() };
            account.phone().map(str::to_owned)
        };
        for jid in ["573001234567:12@s.whatsapp.net", "573001234567@s.whatsapp.net"] {
            assert_eq!(phone(jid).as_deref(), Some("573001234567"), "{jid}");
        }
        for nobody in ["", "573001234567", ":1@s.whatsapp.net", "1234@lid"] {
            assert_eq!(phone(nobody), None, "{nobody}");
        }
    }
}
