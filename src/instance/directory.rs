//! The records of instances on the disk, and the directory of instances that readers see.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::inbound::WebhookAccount;
use relevo_domain::{
    InstanceConfig, InstanceId, InstanceNumber, InstanceState, ProviderKind, Reason, Timestamp,
};
use relevo_provider::{LinkedAccount, Provider};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

/// The durable record of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    pub config: InstanceConfig,
    /// The desired state, whatever the current state is.
    pub wanted: DesiredState,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default)]
    pub last_connected_at: Option<Timestamp>,
    /// The linked account, from pairing until the keys of the device are deleted.
    #[serde(default)]
    pub account: Option<LinkedAccount>,
}

/// The state that an instance should have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DesiredState {
    /// Never asked to connect.
    Created,
    Connected,
    /// Not connected until an operator resumes it, with the reason.
    Paused(Reason),
    /// Disconnected on request.
    Disconnected,
    /// Pairing ended without a link. Pairing begins again only on request, also after a restart of the node.
    Unpaired(Reason),
    /// The device was unlinked. Pairing begins again only on request.
    LoggedOut(Reason),
    /// The device is being unlinked on request.
    #[serde(rename = "leaving")]
    LoggingOut,
    /// Deleted; its data is being deleted.
    Deleted,
}

impl DesiredState {
    /// The state and reason of an instance that should not be connected; `None` if it should be, or is deleted.
    pub fn idle_state(&self) -> Option<(InstanceState, Reason)> {
        let (state, reason) = match self {
            DesiredState::Connected | DesiredState::Deleted => return None,
            DesiredState::Created => {
                (InstanceState::Created, Reason::new("created", "not asked to connect yet"))
            }
            DesiredState::Disconnected => {
                (InstanceState::Disconnected, Reason::new("requested", "asked to disconnect"))
            }
            DesiredState::Paused(reason) => (InstanceState::Paused, reason.clone()),
            DesiredState::Unpaired(reason) => (InstanceState::Disconnected, reason.clone()),
            DesiredState::LoggedOut(reason) => (InstanceState::LoggedOut, reason.clone()),
            DesiredState::LoggingOut => {
                let text =
                    "the device is being unlinked from the phone; connect the instance again after that";
                (InstanceState::Disconnected, Reason::new("logging_out", text))
            }
        };
        Some((state, reason))
    }

    /// Whether a request for a connection or a QR code connects the instance. A paused instance waits for an operator.
    pub fn may_connect(&self) -> bool {
        match self {
            DesiredState::Created
            | DesiredState::Disconnected
            | DesiredState::Unpaired(_)
            | DesiredState::LoggedOut(_) => true,
            DesiredState::Connected
            | DesiredState::Paused(_)
            | DesiredState::LoggingOut
            | DesiredState::Deleted => false,
        }
    }
}

/// The key of the record of an instance.
pub(super) fn record_key(number: InstanceNumber) -> Key {
    Key::new(Space::Instance).u32(number.get())
}

/// The key of the largest instance number in use so far.
fn last_number_key() -> Key {
    Key::new(Space::NodeCounters).u8(b'n')
}

/// Allocates a number that no instance had before; `None` if none is left.
///
/// # Errors
///
/// The store could not be read.
pub(super) fn next_number(tx: &mut Tx) -> Result<Option<InstanceNumber>, Error> {
    let last =
        tx.get(&last_number_key())?.and_then(|bytes| InstanceNumber::from_be_bytes(*bytes.first_chunk()?));
    let next = last.map_or(Some(InstanceNumber::FIRST), InstanceNumber::next);
    if let Some(number) = next {
        tx.put(last_number_key(), number.get().to_be_bytes().to_vec())?;
    }
    Ok(next)
}

/// Reads the records of all instances.
///
/// # Errors
///
/// The store could not be read, or a record could not be decoded.
pub(super) fn load(store: &Store) -> Result<Vec<(InstanceNumber, InstanceRecord)>, Error> {
    let all = Key::new(Space::Instance);
    let mut records = Vec::new();
    for entry in store.range(&all, &all.clone().after_prefix()) {
        let key = Key::from(entry?.0);
        let number = key.as_slice().last_chunk::<4>().and_then(|bytes| InstanceNumber::from_be_bytes(*bytes));
        let bytes = store::get_large(&key, |key| store.get(key))?;
        if let (Some(number), Some(bytes)) = (number, bytes) {
            records.push((number, store::decode(&bytes)?));
        }
    }
    Ok(records)
}

/// Logs a warning if the instance accepts unsigned webhooks.
pub(super) fn warn_of_unsigned_webhooks(config: &InstanceConfig) {
    if config.cloud_api.as_ref().is_some_and(|cloud| cloud.app_secret.is_none()) {
        tracing::warn!(
            instance = config.id.as_str(),
            "instance has no app_secret, webhook signatures not verified: a caller that knows the webhook URL can forge \
             messages and statuses; set cloud_api.app_secret to the secret of the Meta app"
        );
    }
}

/// The current state of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateView {
    pub state: InstanceState,
    pub reason: Reason,
    /// Number of restarts of its actor since the node started.
    pub restarts: u32,
    /// Time of the next connection attempt, if the client plans one.
    pub next_attempt_at: Option<Timestamp>,
    /// The QR code that a phone can scan now.
    pub qr_code: Option<QrCode>,
}

impl StateView {
    /// A state with its reason, and nothing else.
    pub fn new(state: InstanceState, reason: Reason) -> Self {
        Self { state, reason, restarts: 0, next_attempt_at: None, qr_code: None }
    }
}

/// A QR code that a phone scans to link the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QrCode {
    /// The text of the QR code.
    pub text: String,
    /// The code is invalid after this time; another may follow.
    pub expires_at: Timestamp,
}

/// The published data of one instance.
pub(super) struct DirectoryEntry {
    pub number: InstanceNumber,
    pub record: InstanceRecord,
    /// A client that is never connected; it checks messages.
    pub checker: Arc<dyn Provider>,
    /// The client of the running actor.
    pub active_client: watch::Receiver<Option<Arc<dyn Provider>>>,
    pub state: watch::Receiver<StateView>,
}

/// All instances at one point in time.
#[derive(Default)]
pub(super) struct InstanceDirectory {
    pub by_id: HashMap<InstanceId, Arc<DirectoryEntry>>,
    /// The accounts to which Meta's webhooks may belong.
    pub accounts: Arc<[WebhookAccount]>,
}

impl InstanceDirectory {
    /// Builds the directory of these instances.
    pub fn from_entries(entries: impl Iterator<Item = Arc<DirectoryEntry>>) -> Self {
        let by_id: HashMap<_, _> = entries.map(|entry| (entry.record.config.id.clone(), entry)).collect();
        let accounts = by_id.values().filter_map(|entry| {
            let cloud = entry.record.config.cloud_api.as_ref()?;
            Some(WebhookAccount {
                instance: entry.number,
                name: entry.record.config.id.clone(),
                phone_number_id: cloud.phone_number_id.clone(),
                app_secret: cloud.app_secret.clone(),
                verify_token: cloud.verify_token.clone(),
            })
        });
        let accounts = accounts.collect();
        Self { by_id, accounts }
    }
}

/// The published view of an instance.
#[derive(Debug, Clone)]
pub struct InstanceView {
    pub number: InstanceNumber,
    pub config: InstanceConfig,
    pub provider: ProviderKind,
    pub state: StateView,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub last_connected_at: Option<Timestamp>,
    /// The linked account.
    pub account: Option<LinkedAccount>,
}

impl DirectoryEntry {
    /// The client of the running actor, or a client that is not connected.
    pub fn client(&self) -> Arc<dyn Provider> {
        let active = self.active_client.borrow().clone();
        active.unwrap_or_else(|| Arc::clone(&self.checker))
    }

    /// A copy of the published data.
    pub fn view(&self) -> InstanceView {
        InstanceView {
            number: self.number,
            config: self.record.config.clone(),
            provider: self.record.config.provider,
            state: self.state.borrow().clone(),
            created_at: self.record.created_at,
            updated_at: self.record.updated_at,
            last_connected_at: self.record.last_connected_at,
            account: self.record.account.clone(),
        }
    }
}
