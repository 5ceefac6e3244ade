//! The instances that exist, for everybody who reads: published, never asked for.

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

/// An instance as it is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    pub config: InstanceConfig,
    /// What the instance should be, whatever it is at the moment.
    pub wanted: DesiredState,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default)]
    pub last_connected_at: Option<Timestamp>,
    /// Whose device it is, from the moment a phone took it until its keys are forgotten.
    #[serde(default)]
    pub account: Option<LinkedAccount>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DesiredState {
    /// Nobody asked for it yet.
    Created,
    Connected,
    /// Kept away from WhatsApp until somebody resumes it, with the reason.
    Paused(Reason),
    Disconnected,
    /// No phone took it. It is not tried again, also not by a restart of the node, before somebody asks for it.
    Unpaired(Reason),
    /// Nobody's device any more; the same holds.
    LoggedOut(Reason),
    /// Its link is being ended, as its owner asked.
    #[serde(rename = "leaving")]
    LoggingOut,
    /// Gone for everybody; what it left is being cleared away.
    Deleted,
}

impl DesiredState {
    /// The state of an instance that is not to be connected; `None` for one that is, or that is gone.
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
                let text = "its link with the phone is being ended; connect it again after that";
                (InstanceState::Disconnected, Reason::new("logging_out", text))
            }
        };
        Some((state, reason))
    }

    /// Whether asking for a connection, or for a code, is enough to try. What paused waits for somebody who cares.
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

pub(super) fn record_key(number: InstanceNumber) -> Key {
    Key::new(Space::Instance).u32(number.get())
}

/// The largest instance number that was ever given.
fn last_number_key() -> Key {
    Key::new(Space::NodeCounters).u8(b'n')
}

/// A number that no instance had before; `None` when all were given.
pub(super) fn next_number(tx: &mut Tx) -> Result<Option<InstanceNumber>, Error> {
    let last =
        tx.get(&last_number_key())?.and_then(|bytes| InstanceNumber::from_be_bytes(*bytes.first_chunk()?));
    let next = last.map_or(Some(InstanceNumber::FIRST), InstanceNumber::next);
    if let Some(number) = next {
        tx.put(last_number_key(), number.get().to_be_bytes().to_vec())?;
    }
    Ok(next)
}

/// Every instance that is written down.
pub(super) fn load(store: &Store) -> Result<Vec<(InstanceNumber, InstanceRecord)>, Error> {
    let all = Key::new(Space::Instance);
    let mut records = Vec::new();
    for entry in store.range(&all, &all.clone().after_prefix()) {
        let key = Key::from(entry?.0);
        let number = key.as_slice().last_chunk::<4>().and_then(|bytes| InstanceNumber::from_be_bytes(*bytes));
        let bytes = store.get(&key)?;
        if let (Some(number), Some(bytes)) = (number, bytes) {
            records.push((number, store::decode(&bytes)?));
        }
    }
    Ok(records)
}

/// Says in the log that an instance takes whatever is sent to its webhook, if it does.
pub(super) fn warn_of_unsigned_webhooks(config: &InstanceConfig) {
    if config.cloud_api.as_ref().is_some_and(|cloud| cloud.app_secret.is_none()) {
        tracing::warn!(
            instance = config.id.as_str(),
            "this instance has no app_secret: whoever knows its webhook can forge messages and statuses; set \
             cloud_api.app_secret to the secret of its Meta app"
        );
    }
}

/// What an instance is doing now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateView {
    pub state: InstanceState,
    pub reason: Reason,
    /// How often its actor was replaced since the node started.
    pub restarts: u32,
    /// When its client tries to connect again by itself.
    pub next_attempt_at: Option<Timestamp>,
    /// What a phone can scan now.
    pub qr_code: Option<QrCode>,
}

impl StateView {
    pub fn new(state: InstanceState, reason: Reason) -> Self {
        Self { state, reason, restarts: 0, next_attempt_at: None, qr_code: None }
    }
}

/// What a phone scans to make an instance its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QrCode {
    /// The text of the QR code.
    pub text: String,
    /// Then another one follows, or none.
    pub expires_at: Timestamp,
}

/// One instance, as readers see it.
pub(super) struct DirectoryEntry {
    pub number: InstanceNumber,
    pub record: InstanceRecord,
    /// Never connected: it answers whether a message could be sent.
    pub checker: Arc<dyn Provider>,
    /// The client of its actor, while it has one.
    pub active_client: watch::Receiver<Option<Arc<dyn Provider>>>,
    pub state: watch::Receiver<StateView>,
}

/// All instances at one moment.
#[derive(Default)]
pub(super) struct InstanceDirectory {
    pub by_id: HashMap<InstanceId, Arc<DirectoryEntry>>,
    /// Those that Meta's webhooks may be about.
    pub accounts: Arc<[WebhookAccount]>,
}

impl InstanceDirectory {
    pub fn from_entries(known: impl Iterator<Item = Arc<DirectoryEntry>>) -> Self {
        let by_id: HashMap<_, _> = known.map(|known| (known.record.config.id.clone(), known)).collect();
        let accounts = by_id.values().filter_map(|known| {
            let cloud = known.record.config.cloud_api.as_ref()?;
            Some(WebhookAccount {
                instance: known.number,
                name: known.record.config.id.clone(),
                phone_number_id: cloud.phone_number_id.clone(),
                app_secret: cloud.app_secret.clone(),
                verify_token: cloud.verify_token.clone(),
            })
        });
        let accounts = accounts.collect();
        Self { by_id, accounts }
    }
}

/// An instance for people and programs: everything but its secrets.
#[derive(Debug, Clone)]
pub struct InstanceView {
    pub number: InstanceNumber,
    pub config: InstanceConfig,
    pub provider: ProviderKind,
    pub state: StateView,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub last_connected_at: Option<Timestamp>,
    /// Whose device it is.
    pub account: Option<LinkedAccount>,
}

impl DirectoryEntry {
    /// The client that is at work, or one that is not connected.
    pub fn client(&self) -> Arc<dyn Provider> {
        let at_work = self.active_client.borrow().clone();
        at_work.unwrap_or_else(|| Arc::clone(&self.checker))
    }

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
