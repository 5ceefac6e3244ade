//! What an instance's client and those who use it know together: whether it is connected, which stanzas wait for
//! WhatsApp's word, and which of our messages they are.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use whatsapp_rust::{Client, SignalMaintenanceError};

use super::pending_decrypts::PendingDecrypts;
use relevo_domain::MessageId;

/// Stanzas whose message is remembered, so that a receipt that comes before the queue noted the sending finds it.
const MAX_REMEMBERED_STANZAS: usize = 10_000;

/// From so many stanzas that wait, those are looked for that nobody waits for any more.
const PENDING_ACKS_BEFORE_SWEEP: usize = 1_000;

/// So many messages in a row without any word from WhatsApp, and the connection is taken for dead.
const MAX_CONSECUTIVE_ACK_TIMEOUTS: u32 = 3;

/// So often the keys are written before a message leaves, while others arrive that may move them.
const MAX_KEY_FLUSHES: usize = 3;

/// Within this, the client answers somebody who could not read a message with the same message under other keys. It
/// does so by itself, and does not say when.
const RETRY_RECEIPT_WINDOW: Duration = Duration::from_secs(30);

/// WhatsApp's word on one stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ack {
    Accepted,
    /// Refused, with WhatsApp's code.
    Rejected(String),
}

#[derive(Default)]
pub(super) struct ClientState {
    inner: Mutex<Inner>,
    /// Somebody found the connection to be of no use, and left the reason inside.
    unusable: Notify,
    /// What the ear hears and the store waits for.
    pub pending_decrypts: Arc<PendingDecrypts>,
}

#[derive(Default)]
struct Inner {
    /// The client of the connection under way.
    client: Option<Arc<Client>>,
    connected: bool,
    pending_acks: HashMap<String, oneshot::Sender<Ack>>,
    message_ids: HashMap<String, MessageId>,
    /// Of `ids`, oldest first.
    stanza_order: VecDeque<String>,
    ack_timeouts: u32,
    unusable_reason: Option<&'static str>,
    /// When somebody last asked for a message that they could not read.
    retry_requested_at: Option<Instant>,
}

impl Inner {
    /// Whether a frame that leaves now may carry a message.
    fn may_send_message(&self) -> bool {
        !self.pending_acks.is_empty()
            || self.retry_requested_at.is_some_and(|asked| asked.elapsed() < RETRY_RECEIPT_WINDOW)
    }
}

impl ClientState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client begins, not yet connected.
    pub fn set_client(&self, client: Arc<Client>) {
        let mut inside = self.lock();
        inside.client = Some(client);
        inside.connected = false;
        inside.ack_timeouts = 0;
        inside.unusable_reason = None;
    }

    pub fn set_connected(&self) {
        self.lock().connected = true;
    }

    /// The connection is over. Whoever waits for WhatsApp's word learns that none comes.
    pub fn close(&self) {
        let mut inside = self.lock();
        inside.client = None;
        inside.connected = false;
        inside.pending_acks.clear();
    }

    /// The client, whether it is connected or not.
    pub fn client(&self) -> Option<Arc<Client>> {
        self.lock().client.clone()
    }

    /// The client, when messages can be sent with it.
    pub fn online_client(&self) -> Option<Arc<Client>> {
        let inside = self.lock();
        inside.client.clone().filter(|_| inside.connected)
    }

    /// Writes the keys that a message is encrypted with to the disk, if one may be on its way out. The client does so
    /// when it reserves more counters, but not when the other side's last message made it take a new key to send with:
    /// a crash would lose that key after it was used, and what the other side then writes nobody could read.
    ///
    /// # Errors
    ///
    /// The keys could not be written: nothing may leave.
    pub async fn flush_keys(&self) -> Result<(), SignalMaintenanceError> {
        let client = {
            let inside = self.lock();
            inside.client.clone().filter(|_| inside.connected && inside.may_send_message())
        };
        let Some(client) = client else { return Ok(()) };
        for _ in 0..MAX_KEY_FLUSHES {
            // The client passes over keys with which it is just opening a message.
            self.pending_decrypts.wait_until_complete().await;
            let arrived = self.pending_decrypts.count();
            client.flush_pending_signal_state().await?;
            if self.pending_decrypts.count() == arrived {
                break;
            }
        }
        Ok(())
    }

    /// Announces a stanza. What comes back resolves with WhatsApp's word, or with an error when the connection ends.
    pub fn expect_ack(&self, stanza: &str, id: MessageId) -> oneshot::Receiver<Ack> {
        let (word, waiting) = oneshot::channel();
        let mut inside = self.lock();
        if inside.pending_acks.len() >= PENDING_ACKS_BEFORE_SWEEP {
            inside.pending_acks.retain(|_, word| !word.is_closed());
        }
        inside.pending_acks.insert(stanza.to_owned(), word);
        if inside.message_ids.insert(stanza.to_owned(), id).is_none() {
            inside.stanza_order.push_back(stanza.to_owned());
        }
        if inside.stanza_order.len() > MAX_REMEMBERED_STANZAS
            && let Some(oldest) = inside.stanza_order.pop_front()
        {
            inside.message_ids.remove(&oldest);
        }
        waiting
    }

    /// Somebody could not read a message and asks for it again.
    pub fn record_retry_request(&self) {
        self.lock().retry_requested_at = Some(Instant::now());
    }

    /// WhatsApp's word on a stanza.
    pub fn resolve_ack(&self, stanza: &str, ack: Ack) {
        let mut inside = self.lock();
        inside.ack_timeouts = 0;
        if let Some(word) = inside.pending_acks.remove(stanza) {
            let _ = word.send(ack);
        }
    }

    /// Nobody waits for WhatsApp's word on this stanza any more, because it was not written.
    pub fn cancel_ack(&self, stanza: &str) {
        self.lock().pending_acks.remove(stanza);
    }

    /// Nobody waits for WhatsApp's word on this stanza any more, because it took too long.
    pub fn record_ack_timeout(&self, stanza: &str) {
        let mut inside = self.lock();
        inside.pending_acks.remove(stanza);
        inside.ack_timeouts += 1;
        let dead = inside.ack_timeouts >= MAX_CONSECUTIVE_ACK_TIMEOUTS;
        drop(inside);
        if dead {
            self.mark_unusable("WhatsApp acknowledges nothing that is sent");
        }
    }

    /// The connection under way is of no use.
    pub fn mark_unusable(&self, why: &'static str) {
        self.lock().unusable_reason.get_or_insert(why);
        self.unusable.notify_one();
    }

    /// Resolves when the connection under way was given up, with the reason.
    pub async fn wait_unusable(&self) -> &'static str {
        loop {
            self.unusable.notified().await;
            // An earlier connection may have been meant.
            if let Some(why) = self.lock().unusable_reason.take() {
                return why;
            }
        }
    }

    /// Our message behind a stanza, if it is among the latest.
    pub fn message_id(&self, stanza: &str) -> Option<MessageId> {
        self.lock().message_ids.get(stanza).copied()
    }
}

/// The id of the stanza that carries a message: the same on every attempt, so that WhatsApp recognises the second. It
/// looks like those of WhatsApp Web: `3EB0` and 18 hexadecimal digits.
pub(super) fn stanza_id(id: MessageId) -> String {
    let digest = Sha256::digest(id.to_string().as_bytes());
    let digits = digest.iter().take(9).map(|byte| format!("{byte:02X}"));
    std::iter::once("3EB0".to_owned()).chain(digits).collect()
}

/// Whether an id looks like one that [`stanza_id`] made. Of messages that are not known to have been received, it tells
/// ours from theirs.
pub(super) fn is_our_stanza(id: &str) -> bool {
    let digits = id.strip_prefix("3EB0").unwrap_or_default();
    digits.len() == 18 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::{Class, InstanceNumber, Timestamp};

    fn id(n: u16) -> MessageId {
        MessageId::new(Timestamp(1_763_800_000_123), n, InstanceNumber::FIRST, Class::Transactional, 0)
    }

    #[test]
    fn stanza_id_is_stable_and_unique_per_message() {
        let stanza = stanza_id(id(1));
        assert!(stanza.len() == 22 && is_our_stanza(&stanza), "{stanza}");
        assert!(!is_our_stanza("3A5F0C2FE7A4B5C8D9E0F1") && !is_our_stanza(""));
        assert_eq!(stanza, stanza_id(id(1)));
        assert_ne!(stanza, stanza_id(id(2)));
    }

    #[tokio::test]
    async fn ack_resolves_or_fails_when_the_connection_closes() {
        let desk = ClientState::default();
        let (taken, refused, lost) =
            (desk.expect_ack("A", id(1)), desk.expect_ack("B", id(2)), desk.expect_ack("C", id(3)));
        desk.resolve_ack("B", Ack::Rejected("463".to_owned()));
        desk.resolve_ack("A", Ack::Accepted);
        desk.resolve_ack("unknown", Ack::Accepted);
        desk.close();
        assert_eq!(taken.await, Ok(Ack::Accepted));
        assert_eq!(refused.await, Ok(Ack::Rejected("463".to_owned())));
        assert!(lost.await.is_err());
        assert_eq!(
            (desk.message_id("A"), desk.message_id("C"), desk.message_id("D")),
            (Some(id(1)), Some(id(3)), None)
        );
    }

    #[tokio::test]
    async fn connection_without_acks_is_marked_unusable() {
        let desk = ClientState::default();
        desk.record_ack_timeout("A");
        desk.record_ack_timeout("B");
        desk.resolve_ack("C", Ack::Accepted);
        desk.record_ack_timeout("D");
        desk.record_ack_timeout("E");
        assert!(futures_util::FutureExt::now_or_never(desk.wait_unusable()).is_none());
        desk.record_ack_timeout("F");
        assert!(desk.wait_unusable().await.contains("acknowledges nothing"));
    }

    #[tokio::test]
    async fn unusable_mark_does_not_outlive_its_connection() {
        let desk = ClientState::default();
        desk.mark_unusable("the earlier one");
        desk.lock().unusable_reason = None;
        assert!(futures_util::FutureExt::now_or_never(desk.wait_unusable()).is_none());
        desk.mark_unusable("the first reason");
        desk.mark_unusable("the second reason");
        assert_eq!(desk.wait_unusable().await, "the first reason");
    }

    #[tokio::test(start_paused = true)]
    async fn message_may_be_sent_while_an_ack_or_a_retry_is_pending() {
        let desk = ClientState::default();
        assert!(!desk.lock().may_send_message());
        let word = desk.expect_ack("A", id(1));
        assert!(desk.lock().may_send_message());
        desk.resolve_ack("A", Ack::Accepted);
        assert!(!desk.lock().may_send_message());
        desk.record_retry_request();
        assert!(desk.lock().may_send_message());
        tokio::time::advance(RETRY_RECEIPT_WINDOW).await;
        assert!(!desk.lock().may_send_message());
        drop(word);
    }

    #[test]
    fn dropped_ack_waiters_are_removed() {
        let desk = ClientState::default();
        for n in 0..=PENDING_ACKS_BEFORE_SWEEP {
            drop(desk.expect_ack(&n.to_string(), id(1)));
        }
        assert_eq!(desk.lock().pending_acks.len(), 1);
    }

    #[test]
    fn only_the_latest_stanzas_are_remembered() {
        let desk = ClientState::default();
        for n in 0..=MAX_REMEMBERED_STANZAS {
            drop(desk.expect_ack(&n.to_string(), id(1)));
        }
        assert_eq!((desk.message_id("0"), desk.message_id("1")), (None, Some(id(1))));
    }
}
