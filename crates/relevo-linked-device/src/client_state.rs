//! State that an instance's client shares with its users: whether it is connected, which stanzas wait for an
//! acknowledgement, and which messages they carry.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use whatsapp_rust::{Client, SignalMaintenanceError};

use super::pending_decrypts::PendingDecrypts;
use relevo_domain::MessageId;

/// Number of stanzas whose message id is kept, so that a receipt that arrives before the queue has recorded the send is
/// matched to its message.
const MAX_REMEMBERED_STANZAS: usize = 10_000;

/// Number of pending acknowledgements from which those without a waiter are removed.
const PENDING_ACKS_BEFORE_SWEEP: usize = 1_000;

/// Number of consecutive messages without an acknowledgement after which the connection counts as dead.
const MAX_CONSECUTIVE_ACK_TIMEOUTS: u32 = 3;

/// Maximum number of key flushes before a message leaves, while received messages may change the keys again.
const MAX_KEY_FLUSHES: usize = 3;

/// Time after a retry receipt in which the client may send the message again under new keys. It does so by itself and
/// does not report when.
const RETRY_RECEIPT_WINDOW: Duration = Duration::from_secs(30);

/// WhatsApp's acknowledgement of one stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ack {
    Accepted,
    /// Rejected, with WhatsApp's code.
    Rejected(String),
}

/// The shared state of an instance's client. It outlives single connections.
#[derive(Default)]
pub(super) struct ClientState {
    inner: Mutex<Inner>,
    /// Notified when the connection is marked as unusable; the reason is in `inner`.
    unusable: Notify,
    /// Received messages that are not yet durable. The event handler adds them, the store waits for them.
    pub pending_decrypts: Arc<PendingDecrypts>,
}

#[derive(Default)]
struct Inner {
    /// The client of the current connection.
    client: Option<Arc<Client>>,
    connected: bool,
    pending_acks: HashMap<String, oneshot::Sender<Ack>>,
    /// Message ids by stanza id.
    message_ids: HashMap<String, MessageId>,
    /// The stanza ids of `message_ids`, oldest first.
    stanza_order: VecDeque<String>,
    ack_timeouts: u32,
    unusable_reason: Option<&'static str>,
    /// Time of the last retry receipt, by which a recipient requests a message that it could not decrypt.
    retry_requested_at: Option<Instant>,
}

impl Inner {
    /// Whether a frame that is sent now may carry a message.
    fn may_send_message(&self) -> bool {
        !self.pending_acks.is_empty()
            || self.retry_requested_at.is_some_and(|at| at.elapsed() < RETRY_RECEIPT_WINDOW)
    }
}

impl ClientState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the client of a new connection, which is not yet connected.
    pub fn set_client(&self, client: Arc<Client>) {
        let mut inner = self.lock();
        inner.client = Some(client);
        inner.connected = false;
        inner.ack_timeouts = 0;
        inner.unusable_reason = None;
    }

    /// Permits sending with the current client.
    pub fn set_connected(&self) {
        self.lock().connected = true;
    }

    /// Ends the connection. All pending acknowledgements fail.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.client = None;
        inner.connected = false;
        inner.pending_acks.clear();
    }

    /// The client, whether it is connected or not.
    pub fn client(&self) -> Option<Arc<Client>> {
        self.lock().client.clone()
    }

    /// The client, if messages can be sent with it.
    pub fn online_client(&self) -> Option<Arc<Client>> {
        let inner = self.lock();
        inner.client.clone().filter(|_| inner.connected)
    }

    /// Writes the keys that encrypt messages to the disk, if a frame may carry a message. The client does so when it
    /// reserves more counters, but not when the other side's last message made it create a new sending key: a crash
    /// would lose that key after its use, and the other side's next messages could not be decrypted.
    ///
    /// # Errors
    ///
    /// The keys could not be written; the frame must not be sent.
    pub async fn flush_keys(&self) -> Result<(), SignalMaintenanceError> {
        let client = {
            let inner = self.lock();
            inner.client.clone().filter(|_| inner.connected && inner.may_send_message())
        };
        let Some(client) = client else { return Ok(()) };
        for _ in 0..MAX_KEY_FLUSHES {
            // The client does not flush keys with which it is just decrypting a message.
            self.pending_decrypts.wait_until_complete().await;
            let count = self.pending_decrypts.count();
            client.flush_pending_signal_state().await?;
            if self.pending_decrypts.count() == count {
                break;
            }
        }
        Ok(())
    }

    /// Registers a stanza before it is sent. The receiver resolves with WhatsApp's acknowledgement, or with an error
    /// when the connection ends.
    pub fn expect_ack(&self, stanza: &str, id: MessageId) -> oneshot::Receiver<Ack> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if inner.pending_acks.len() >= PENDING_ACKS_BEFORE_SWEEP {
            inner.pending_acks.retain(|_, sender| !sender.is_closed());
        }
        inner.pending_acks.insert(stanza.to_owned(), sender);
        if inner.message_ids.insert(stanza.to_owned(), id).is_none() {
            inner.stanza_order.push_back(stanza.to_owned());
        }
        if inner.stanza_order.len() > MAX_REMEMBERED_STANZAS
            && let Some(oldest) = inner.stanza_order.pop_front()
        {
            inner.message_ids.remove(&oldest);
        }
        receiver
    }

    /// Records that a recipient could not decrypt a message and requests it again.
    pub fn record_retry_request(&self) {
        self.lock().retry_requested_at = Some(Instant::now());
    }

    /// Records WhatsApp's acknowledgement of a stanza.
    pub fn resolve_ack(&self, stanza: &str, ack: Ack) {
        let mut inner = self.lock();
        inner.ack_timeouts = 0;
        if let Some(sender) = inner.pending_acks.remove(stanza) {
            let _ = sender.send(ack);
        }
    }

    /// Removes the pending acknowledgement of a stanza that was not written.
    pub fn cancel_ack(&self, stanza: &str) {
        self.lock().pending_acks.remove(stanza);
    }

    /// Removes the pending acknowledgement of a stanza that timed out. Several timeouts in a row mark the connection as
    /// unusable.
    pub fn record_ack_timeout(&self, stanza: &str) {
        let mut inner = self.lock();
        inner.pending_acks.remove(stanza);
        inner.ack_timeouts += 1;
        let dead = inner.ack_timeouts >= MAX_CONSECUTIVE_ACK_TIMEOUTS;
        drop(inner);
        if dead {
            self.mark_unusable("WhatsApp acknowledges no messages");
        }
    }

    /// Marks the current connection as unusable. The first reason counts.
    pub fn mark_unusable(&self, reason: &'static str) {
        self.lock().unusable_reason.get_or_insert(reason);
        self.unusable.notify_one();
    }

    /// Resolves with the reason when the current connection is marked as unusable.
    pub async fn wait_unusable(&self) -> &'static str {
        loop {
            self.unusable.notified().await;
            // The notification may concern an earlier connection.
            if let Some(reason) = self.lock().unusable_reason.take() {
                return reason;
            }
        }
    }

    /// The message that a stanza carries, if it is among the latest.
    pub fn message_id(&self, stanza: &str) -> Option<MessageId> {
        self.lock().message_ids.get(stanza).copied()
    }
}

/// The id of the stanza that carries a message. It is the same on every attempt, so that WhatsApp recognises a repeated
/// one. It has the format of WhatsApp Web: `3EB0` and 18 hexadecimal digits.
pub(super) fn stanza_id(id: MessageId) -> String {
    let digest = Sha256::digest(id.to_string().as_bytes());
    let digits = digest.iter().take(9).map(|byte| format!("{byte:02X}"));
    std::iter::once("3EB0".to_owned()).chain(digits).collect()
}

/// Whether an id has the format of [`stanza_id`]. It distinguishes own from received messages that are not in the
/// message cache.
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
        let state = ClientState::default();
        let (accepted, rejected, lost) =
            (state.expect_ack("A", id(1)), state.expect_ack("B", id(2)), state.expect_ack("C", id(3)));
        state.resolve_ack("B", Ack::Rejected("463".to_owned()));
        state.resolve_ack("A", Ack::Accepted);
        state.resolve_ack("unknown", Ack::Accepted);
        state.close();
        assert_eq!(accepted.await, Ok(Ack::Accepted));
        assert_eq!(rejected.await, Ok(Ack::Rejected("463".to_owned())));
        assert!(lost.await.is_err());
        assert_eq!(
            (state.message_id("A"), state.message_id("C"), state.message_id("D")),
            (Some(id(1)), Some(id(3)), None)
        );
    }

    #[tokio::test]
    async fn connection_without_acks_is_marked_unusable() {
        let state = ClientState::default();
        state.record_ack_timeout("A");
        state.record_ack_timeout("B");
        state.resolve_ack("C", Ack::Accepted);
        state.record_ack_timeout("D");
        state.record_ack_timeout("E");
        assert!(futures_util::FutureExt::now_or_never(state.wait_unusable()).is_none());
        state.record_ack_timeout("F");
        assert!(state.wait_unusable().await.contains("acknowledges no messages"));
    }

    #[tokio::test]
    async fn unusable_mark_does_not_outlive_its_connection() {
        let state = ClientState::default();
        state.mark_unusable("the earlier one");
        state.lock().unusable_reason = None;
        assert!(futures_util::FutureExt::now_or_never(state.wait_unusable()).is_none());
        state.mark_unusable("the first reason");
        state.mark_unusable("the second reason");
        assert_eq!(state.wait_unusable().await, "the first reason");
    }

    #[tokio::test(start_paused = true)]
    async fn message_may_be_sent_while_an_ack_or_a_retry_is_pending() {
        let state = ClientState::default();
        assert!(!state.lock().may_send_message());
        let ack = state.expect_ack("A", id(1));
        assert!(state.lock().may_send_message());
        state.resolve_ack("A", Ack::Accepted);
        assert!(!state.lock().may_send_message());
        state.record_retry_request();
        assert!(state.lock().may_send_message());
        tokio::time::advance(RETRY_RECEIPT_WINDOW).await;
        assert!(!state.lock().may_send_message());
        drop(ack);
    }

    #[test]
    fn dropped_ack_waiters_are_removed() {
        let state = ClientState::default();
        for n in 0..=PENDING_ACKS_BEFORE_SWEEP {
            drop(state.expect_ack(&n.to_string(), id(1)));
        }
        assert_eq!(state.lock().pending_acks.len(), 1);
    }

    #[test]
    fn only_the_latest_stanzas_are_remembered() {
        let state = ClientState::default();
        for n in 0..=MAX_REMEMBERED_STANZAS {
            drop(state.expect_ack(&n.to_string(), id(1)));
        }
        assert_eq!((state.message_id("0"), state.message_id("1")), (None, Some(id(1))));
    }
}
