//! The directory of instances: views that the supervisor publishes and that every reader sees without asking an actor.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::inbound::WebhookAccount;
use relevo_domain::{
    InstanceConfig, InstanceId, InstanceNumber, InstanceState, Reason, ReasonCode, Timestamp,
};
use relevo_provider::{LinkedAccount, Provider};

use super::record::InstanceRecord;

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
    /// Since when the instance cannot send, whatever the reason.
    pub unable_since: Option<Timestamp>,
}

impl StateView {
    /// A state with its reason, and nothing else.
    pub fn new(state: InstanceState, reason: Reason) -> Self {
        Self { state, reason, restarts: 0, next_attempt_at: None, qr_code: None, unable_since: None }
    }

    /// The state of an instance that sends.
    pub(super) fn connected() -> Self {
        Self::new(InstanceState::Connected, Reason::new(ReasonCode::Connected, "connected"))
    }

    /// Whether messages leave now.
    fn sends(&self) -> bool {
        self.state == InstanceState::Connected && !self.reason.is(ReasonCode::Throttled)
    }

    /// This state as the successor of `previous`.
    pub(super) fn after(self, previous: &StateView, now: Timestamp) -> Self {
        let unable_since = if self.sends() { None } else { previous.unable_since.or(Some(now)) };
        Self { restarts: previous.restarts, unable_since, ..self }
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
            let cloud = entry.record.config.provider.cloud_api()?;
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
    pub state: StateView,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub last_connected_at: Option<Timestamp>,
    /// The linked account.
    pub account: Option<LinkedAccount>,
    /// Since when the instance should send and cannot. `None` for an instance that sends, or that an operator does not
    /// want to send.
    pub unable_since: Option<Timestamp>,
}

/// An instance that cannot send for at most this long does not degrade the health of the node: connections are replaced
/// in less.
const UNABLE_GRACE: Duration = Duration::from_secs(60);

impl InstanceView {
    /// What its queue waits for, in a sentence; `None` if it sends now.
    pub fn waits_for(&self) -> Option<String> {
        let StateView { state, reason, .. } = &self.state;
        let text = || {
            format!(
                "the instance {} is {} ({}): {}",
                self.config.id,
                state.as_str(),
                reason.code,
                reason.text
            )
        };
        (!self.state.sends()).then(text)
    }

    /// Whether the instance should send and could not for more than a minute.
    pub fn is_unable_to_send(&self, now: Timestamp) -> bool {
        self.unable_since.is_some_and(|since| now.since(since) > UNABLE_GRACE)
    }
}

impl DirectoryEntry {
    /// The client of the running actor, or a client that is not connected.
    pub fn client(&self) -> Arc<dyn Provider> {
        let active = self.active_client.borrow().clone();
        active.unwrap_or_else(|| Arc::clone(&self.checker))
    }

    /// A copy of the published data.
    pub fn view(&self) -> InstanceView {
        let state = self.state.borrow().clone();
        InstanceView {
            number: self.number,
            config: self.record.config.clone(),
            unable_since: state.unable_since.filter(|_| self.record.is_meant_to_send()),
            state,
            created_at: self.record.created_at,
            updated_at: self.record.updated_at,
            last_connected_at: self.record.last_connected_at,
            account: self.record.account.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_without_sending_begins_once_and_ends_with_the_connection() {
        let view = |state, code| StateView::new(state, Reason::new(code, "x"));
        let minute = |n: u64| Timestamp(n * 60_000);
        let created = view(InstanceState::Created, ReasonCode::Created);
        let connecting = view(InstanceState::Connecting, ReasonCode::Unreachable).after(&created, minute(1));
        assert_eq!(connecting.unable_since, Some(minute(1)));
        let paused = view(InstanceState::Paused, ReasonCode::AuthRejected).after(&connecting, minute(2));
        assert_eq!(paused.unable_since, Some(minute(1)));
        let sending = StateView::connected().after(&paused, minute(3));
        assert_eq!(sending.unable_since, None);
        let held = view(InstanceState::Connected, ReasonCode::Throttled).after(&sending, minute(4));
        assert_eq!(held.unable_since, Some(minute(4)));
    }
}
