//! The lasting connection of a linked device: its events, the state of its link, and the account that it belongs to.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use relevo_domain::{EventKind, InboundMessage, StatusUpdate, Timestamp};

/// One event of a lasting connection. Events are sent in the order in which they occurred.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The state of the link changed.
    Link(LinkEvent),
    /// Received messages. WhatsApp keeps them until the receiver sends `true` to `durable`, which says that they are
    /// committed here. They may be delivered again.
    Messages { messages: Vec<InboundMessage>, durable: oneshot::Sender<bool> },
    /// Receipts and failures of messages that were sent.
    Statuses(Vec<StatusUpdate>),
    /// Any other event that is passed on to readers of events.
    Other {
        /// The kind of event that it becomes: `presence`, `call`, `group` …
        kind: EventKind,
        at: Timestamp,
        data: Value,
    },
}

/// A change of the link between this device and the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A connection attempt began.
    Connecting,
    /// The device is not paired; a phone scans this code within `valid_for`.
    QrCode { qr: String, valid_for: Duration },
    /// The last code expired unused. No event follows until the client is replaced.
    QrCodesExhausted,
    /// A phone paired the device; the connection follows.
    Linked(LinkedAccount),
    /// The device is logged in and can send.
    Connected(LinkedAccount),
    /// The connection was lost; the client reconnects by itself after `retry_in`.
    Disconnected { reason: String, retry_in: Duration },
    /// WhatsApp rejected this client. It has ended and does not reconnect, because further attempts do harm.
    Ended(LinkEnd),
}

/// The account that a device belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkedAccount {
    /// The JID of this device of the account: `573001234567:12@s.whatsapp.net`.
    pub jid: String,
    /// The account's hidden id, if it has one.
    #[serde(default)]
    pub lid: Option<String>,
    /// The display name of the account.
    #[serde(default)]
    pub name: Option<String>,
}

impl LinkedAccount {
    /// The digits of the account's phone number; `None` when the JID does not hold one.
    pub fn phone(&self) -> Option<&str> {
        let (user, server) = self.jid.split_once('@')?;
        let digits = user.split(':').next().filter(|digits| !digits.is_empty())?;
        let plain = server == "s.whatsapp.net" && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then_some(digits)
    }
}

/// The reason why WhatsApp ended the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEnd {
    /// The phone or WhatsApp removed this device. Its keys are deleted; it must be paired again.
    LoggedOut,
    /// Another client uses the same keys.
    Replaced,
    /// The account is banned; `until` is the end of the ban, if WhatsApp named one.
    Banned { until: Option<Timestamp>, reason: String },
    /// WhatsApp no longer supports this version of the client.
    ClientOutdated,
    /// Pairing failed permanently, with the reason.
    PairingFailed(String),
}

/// A pairing code that is typed in on the phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairCode {
    /// Eight letters and digits.
    pub code: String,
    pub valid_for: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_phone_is_parsed_from_its_jid() {
        let phone = |jid: &str| {
            let account = LinkedAccount { jid: jid.to_owned(), ..LinkedAccount::default() };
            account.phone().map(str::to_owned)
        };
        for jid in ["573001234567:12@s.whatsapp.net", "573001234567@s.whatsapp.net"] {
            assert_eq!(phone(jid).as_deref(), Some("573001234567"), "{jid}");
        }
        for jid in ["", "573001234567", ":1@s.whatsapp.net", "1234@lid"] {
            assert_eq!(phone(jid), None, "{jid}");
        }
    }
}
