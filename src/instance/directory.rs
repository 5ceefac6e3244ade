//! The instances that exist, for everybody who reads: published, never asked for.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::inbound::Account;
use relevo_domain::{
    InstanceConfig, InstanceId, InstanceNumber, InstanceState, ProviderKind, Reason, Timestamp,
};
use relevo_provider::{LinkedAccount, Provider};
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

/// An instance as it is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub config: InstanceConfig,
    /// What the instance should be, whatever it is at the moment.
    pub wanted: Wanted,
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
pub(super) enum Wanted {
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
    Leaving,
    /// Gone for everybody; what it left is being cleared away.
    Deleted,
}

impl Wanted {
    /// The state of an instance that is not to be connected; `None` for one that is, or that is gone.
    pub fn rest(&self) -> Option<(InstanceState, Reason)> {
        let (state, reason) = match self {
            Wanted::Connected | Wanted::Deleted => return None,
            Wanted::Created => (InstanceState::Created, Reason::new("created", "not asked to connect yet")),
            Wanted::Disconnected => {
                (InstanceState::Disconnected, Reason::new("requested", "asked to disconnect"))
            }
            Wanted::Paused(reason) => (InstanceState::Paused, reason.clone()),
            Wanted::Unpaired(reason) => (InstanceState::Disconnected, reason.clone()),
            Wanted::LoggedOut(reason) => (InstanceState::LoggedOut, reason.clone()),
            Wanted::Leaving => {
                let text = "its link with the phone is being ended; connect it again after that";
                (InstanceState::Disconnected, Reason::new("logging_out", text))
            }
        };
        Some((state, reason))
    }

    /// Whether asking for a connection, or for a code, is enough to try. What paused waits for somebody who cares.
    pub fn may_begin(&self) -> bool {
        match self {
            Wanted::Created | Wanted::Disconnected | Wanted::Unpaired(_) | Wanted::LoggedOut(_) => true,
            Wanted::Connected | Wanted::Paused(_) | Wanted::Leaving | Wanted::Deleted => false,
        }
    }
}

pub(super) fn record_key(number: InstanceNumber) -> Key {
    Key::new(Space::Instance).u32(number.get())
}

/// The largest instance number that was ever given.
fn last_number_key() -> Key {
    Key::new(Space::Meta).u8(b'n')
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
pub(super) fn load(store: &Store) -> Result<Vec<(InstanceNumber, Record)>, Error> {
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
    pub code: Option<Code>,
}

impl StateView {
    pub fn new(state: InstanceState, reason: Reason) -> Self {
        Self { state, reason, restarts: 0, next_attempt_at: None, code: None }
    }
}

/// What a phone scans to make an instance its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The text of the QR code.
    pub qr: String,
    /// Then another one follows, or none.
    pub expires_at: Timestamp,
}

/// One instance, as readers see it.
pub(super) struct Known {
    pub number: InstanceNumber,
    pub record: Record,
    /// Never connected: it answers whether a message could be sent.
    pub checker: Arc<dyn Provider>,
    /// The client of its actor, while it has one.
    pub at_work: watch::Receiver<Option<Arc<dyn Provider>>>,
    pub state: watch::Receiver<StateView>,
}

/// All instances at one moment.
#[derive(Default)]
pub(super) struct Directory {
    pub by_id: HashMap<InstanceId, Arc<Known>>,
    /// Those that Meta's webhooks may be about.
    pub accounts: Arc<[Account]>,
}

impl Directory {
    pub fn of(known: impl Iterator<Item = Arc<Known>>) -> Self {
        let by_id: HashMap<_, _> = known.map(|known| (known.record.config.id.clone(), known)).collect();
        let accounts = by_id.values().filter_map(|known| {
            let cloud = known.record.config.cloud_api.as_ref()?;
            Some(Account {
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

impl Known {
    /// The client that is at work, or one that is not connected.
    pub fn client(&self) -> Arc<dyn Provider> {
        let at_work = self.at_work.borrow().clone();
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
