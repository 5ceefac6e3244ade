//! The events of a virtual phone, in order, for tests that wait for them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::waproto::whatsapp::Message;
use tokio::sync::Notify;

/// Maximum number of stored events of a phone; the oldest are evicted.
const MAX_EVENTS: usize = 10_000;

/// An event of a phone.
#[derive(Debug, Clone)]
pub enum PhoneEvent {
    /// A decrypted message.
    Message(PhoneMessage),
    /// A message that could not be decrypted; the phone requested it again.
    Undecryptable {
        /// The message's id.
        id: String,
        /// The sending device.
        sender: Jid,
        /// The error.
        why: String,
    },
    /// A receipt.
    Receipt {
        /// The ids of the messages.
        ids: Vec<String>,
        /// `delivered`, `read` or `played`.
        kind: String,
        /// The chat of the messages.
        chat: Jid,
        /// The user or device that sent the receipt.
        reader: Jid,
    },
    /// Typing or recording started or ended.
    Typing {
        /// The chat.
        chat: Jid,
        /// The typing user.
        sender: Jid,
        /// `composing` or `paused`.
        state: String,
        /// `audio` while the user records, otherwise empty.
        media: String,
    },
    /// A user came online or went offline.
    Presence {
        /// The user.
        who: Jid,
        /// Whether the user is online.
        available: bool,
    },
    /// A device waits for its code to be entered: see [`enter_pairing_code`].
    ///
    /// [`enter_pairing_code`]: crate::Phone::enter_pairing_code
    PairingCodeRequested,
}

/// A message that a phone decrypted.
#[derive(Debug, Clone)]
pub struct PhoneMessage {
    /// The message's id.
    pub id: String,
    /// The other user, or the group.
    pub chat: Jid,
    /// The sending device.
    pub sender: Jid,
    /// Whether a linked device of the phone's own account sent it.
    pub from_me: bool,
    /// The stanza's attribute `edit`: empty, 1 for an edit, 7 for a revocation.
    pub edit: String,
    /// The content.
    pub message: Box<Message>,
}

impl PhoneMessage {
    /// The text of a text message, plain or extended.
    pub fn text(&self) -> Option<&str> {
        let extended = self.message.extended_text_message.as_option().and_then(|text| text.text.as_deref());
        self.message.conversation.as_deref().filter(|text| !text.is_empty()).or(extended)
    }
}

#[derive(Debug, Default)]
struct Inner {
    evicted: u64,
    events: VecDeque<Arc<PhoneEvent>>,
}

/// The events of a phone.
#[derive(Debug, Default)]
pub struct PhoneEventLog {
    inner: Mutex<Inner>,
    written: Notify,
}

impl PhoneEventLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event and wakes readers.
    pub fn write(&self, event: PhoneEvent) {
        let mut inner = self.lock();
        if inner.events.len() == MAX_EVENTS {
            inner.events.pop_front();
            inner.evicted += 1;
        }
        inner.events.push_back(Arc::new(event));
        drop(inner);
        self.written.notify_waiters();
    }

    /// Number of events, including evicted ones.
    pub fn len(&self) -> u64 {
        let inner = self.lock();
        inner.evicted + inner.events.len() as u64
    }

    /// The event after `position`, or the oldest stored one if that was evicted; with its own position.
    fn after(&self, position: u64) -> Option<(u64, Arc<PhoneEvent>)> {
        let inner = self.lock();
        let index = position.saturating_sub(inner.evicted);
        let event = inner.events.get(usize::try_from(index).ok()?)?;
        Some((inner.evicted + index + 1, Arc::clone(event)))
    }

    /// All stored events, oldest first.
    pub fn all(&self) -> Vec<Arc<PhoneEvent>> {
        self.lock().events.iter().cloned().collect()
    }

    /// Waits for the event after `position` and advances `position`.
    pub async fn next(&self, position: &mut u64) -> Arc<PhoneEvent> {
        loop {
            // Subscribes before it reads, so that no event is missed in between.
            let written = self.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if let Some((next, event)) = self.after(*position) {
                *position = next;
                return event;
            }
            written.await;
        }
    }
}
