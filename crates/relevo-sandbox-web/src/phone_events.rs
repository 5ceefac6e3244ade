//! What a virtual phone saw, in order, for tests to wait for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::waproto::whatsapp::Message;
use tokio::sync::Notify;

/// How many things a phone remembers; the oldest make room.
const MAX_EVENTS: usize = 10_000;

/// Something that a phone saw.
#[derive(Debug, Clone)]
pub enum PhoneEvent {
    Message(PhoneMessage),
    /// A message that could not be opened; the phone asked its sender for it again.
    Undecryptable {
        id: String,
        sender: Jid,
        why: String,
    },
    /// What became of messages: `delivered`, `read` or `played`.
    Receipt {
        ids: Vec<String>,
        kind: String,
        chat: Jid,
        reader: Jid,
    },
    /// `composing` or `paused`; `media` is `audio` while somebody records.
    Typing {
        chat: Jid,
        sender: Jid,
        state: String,
        media: String,
    },
    Presence {
        who: Jid,
        available: bool,
    },
    /// A device asks for its code to be typed in: see [`type_code`].
    ///
    /// [`type_code`]: crate::Phone::type_code
    PairingCodeRequested,
}

/// A message that a phone opened.
#[derive(Debug, Clone)]
pub struct PhoneMessage {
    pub id: String,
    /// The other user, or the group.
    pub chat: Jid,
    /// The device that sent it.
    pub sender: Jid,
    /// Whether a linked device of the phone's own account sent it.
    pub from_me: bool,
    /// The stanza's attribute `edit`: empty, 1 for an edit, 7 for a revocation.
    pub edit: String,
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

#[derive(Debug, Default)]
pub struct PhoneEventLog {
    inner: Mutex<Inner>,
    written: Notify,
}

impl PhoneEventLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self, seen: PhoneEvent) {
        let mut inner = self.lock();
        if inner.events.len() == MAX_EVENTS {
            inner.events.pop_front();
            inner.evicted += 1;
        }
        inner.events.push_back(Arc::new(seen));
        drop(inner);
        self.written.notify_waiters();
    }

    /// How many things were seen so far.
    pub fn len(&self) -> u64 {
        let inner = self.lock();
        inner.evicted + inner.events.len() as u64
    }

    /// What was seen behind `place`, or next after what is no longer remembered; with its own place.
    fn after(&self, place: u64) -> Option<(u64, Arc<PhoneEvent>)> {
        let inner = self.lock();
        let index = place.saturating_sub(inner.evicted);
        let seen = inner.events.get(usize::try_from(index).ok()?)?;
        Some((inner.evicted + index + 1, Arc::clone(seen)))
    }

    /// All that is remembered, oldest first.
    pub fn all(&self) -> Vec<Arc<PhoneEvent>> {
        self.lock().events.iter().cloned().collect()
    }

    pub async fn next(&self, place: &mut u64) -> Arc<PhoneEvent> {
        loop {
            // Listens before it looks, so that nothing comes unnoticed in between.
            let written = self.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if let Some((next, seen)) = self.after(*place) {
                *place = next;
                return seen;
            }
            written.await;
        }
    }
}
