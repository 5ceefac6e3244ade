//! What an instance's client and those who use it know together: whether it is connected, which stanzas wait for
//! WhatsApp's word, and which of our messages they are.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use whatsapp_rust::{Client, SignalMaintenanceError};

use super::arrivals::Arrivals;
use relevo_domain::MessageId;

/// Stanzas whose message is remembered, so that a receipt that comes before the queue noted the sending finds it.
const REMEMBERED: usize = 10_000;

/// From so many stanzas that wait, those are looked for that nobody waits for any more.
const WAITING: usize = 1_000;

/// So many messages in a row without any word from WhatsApp, and the connection is taken for dead.
const SILENCES: u32 = 3;

/// So often the keys are written before a message leaves, while others arrive that may move them.
const WRITES: usize = 3;

/// Within this, the client answers somebody who could not read a message with the same message under other keys. It
/// does so by itself, and does not say when.
const AGAIN: Duration = Duration::from_secs(30);

/// WhatsApp's word on one stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ack {
    Taken,
    /// Refused, with WhatsApp's code.
    Refused(String),
}

#[derive(Default)]
pub(super) struct Desk {
    inside: Mutex<Inside>,
    /// Somebody found the connection to be of no use, and left the reason inside.
    useless: Notify,
    /// What the ear hears and the store waits for.
    pub arrivals: Arc<Arrivals>,
}

#[derive(Default)]
struct Inside {
    /// The client of the connection under way.
    client: Option<Arc<Client>>,
    connected: bool,
    waiting: HashMap<String, oneshot::Sender<Ack>>,
    ids: HashMap<String, MessageId>,
    /// Of `ids`, oldest first.
    order: VecDeque<String>,
    silences: u32,
    useless: Option<&'static str>,
    /// When somebody last asked for a message that they could not read.
    asked_again: Option<Instant>,
}

impl Inside {
    /// Whether a frame that leaves now may carry a message.
    fn sends(&self) -> bool {
        !self.waiting.is_empty() || self.asked_again.is_some_and(|asked| asked.elapsed() < AGAIN)
    }
}

impl Desk {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client begins, not yet connected.
    pub fn open(&self, client: Arc<Client>) {
        let mut inside = self.inside();
        inside.client = Some(client);
        inside.connected = false;
        inside.silences = 0;
        inside.useless = None;
    }

    pub fn connected(&self) {
        self.inside().connected = true;
    }

    /// The connection is over. Whoever waits for WhatsApp's word learns that none comes.
    pub fn close(&self) {
        let mut inside = self.inside();
        inside.client = None;
        inside.connected = false;
        inside.waiting.clear();
    }

    /// The client, whether it is connected or not.
    pub fn client(&self) -> Option<Arc<Client>> {
        self.inside().client.clone()
    }

    /// The client, when messages can be sent with it.
    pub fn online(&self) -> Option<Arc<Client>> {
        let inside = self.inside();
        inside.client.clone().filter(|_| inside.connected)
    }

    /// Writes the keys that a message is encrypted with to the disk, if one may be on its way out. The client does so
    /// when it reserves more counters, but not when the other side's last message made it take a new key to send with:
    /// a crash would lose that key after it was used, and what the other side then writes nobody could read.
    ///
    /// # Errors
    ///
    /// The keys could not be written: nothing may leave.
    pub async fn keys_are_safe(&self) -> Result<(), SignalMaintenanceError> {
        let client = {
            let inside = self.inside();
            inside.client.clone().filter(|_| inside.connected && inside.sends())
        };
        let Some(client) = client else { return Ok(()) };
        for _ in 0..WRITES {
            // The client passes over keys with which it is just opening a message.
            self.arrivals.settled().await;
            let arrived = self.arrivals.count();
            client.flush_pending_signal_state().await?;
            if self.arrivals.count() == arrived {
                break;
            }
        }
        Ok(())
    }

    /// Announces a stanza. What comes back resolves with WhatsApp's word, or with an error when the connection ends.
    pub fn expect(&self, stanza: &str, id: MessageId) -> oneshot::Receiver<Ack> {
        let (word, waiting) = oneshot::channel();
        let mut inside = self.inside();
        if inside.waiting.len() >= WAITING {
            inside.waiting.retain(|_, word| !word.is_closed());
        }
        inside.waiting.insert(stanza.to_owned(), word);
        if inside.ids.insert(stanza.to_owned(), id).is_none() {
            inside.order.push_back(stanza.to_owned());
        }
        if inside.order.len() > REMEMBERED
            && let Some(oldest) = inside.order.pop_front()
        {
            inside.ids.remove(&oldest);
        }
        waiting
    }

    /// Somebody could not read a message and asks for it again.
    pub fn asked_again(&self) {
        self.inside().asked_again = Some(Instant::now());
    }

    /// WhatsApp's word on a stanza.
    pub fn acknowledged(&self, stanza: &str, ack: Ack) {
        let mut inside = self.inside();
        inside.silences = 0;
        if let Some(word) = inside.waiting.remove(stanza) {
            let _ = word.send(ack);
        }
    }

    /// Nobody waits for WhatsApp's word on this stanza any more, because it was not written.
    pub fn withdraw(&self, stanza: &str) {
        self.inside().waiting.remove(stanza);
    }

    /// Nobody waits for WhatsApp's word on this stanza any more, because it took too long.
    pub fn silent(&self, stanza: &str) {
        let mut inside = self.inside();
        inside.waiting.remove(stanza);
        inside.silences += 1;
        let dead = inside.silences >= SILENCES;
        drop(inside);
        if dead {
            self.give_up("WhatsApp acknowledges nothing that is sent");
        }
    }

    /// The connection under way is of no use.
    pub fn give_up(&self, why: &'static str) {
        self.inside().useless.get_or_insert(why);
        self.useless.notify_one();
    }

    /// Resolves when the connection under way was given up, with the reason.
    pub async fn given_up(&self) -> &'static str {
        loop {
            self.useless.notified().await;
            // An earlier connection may have been meant.
            if let Some(why) = self.inside().useless.take() {
                return why;
            }
        }
    }

    /// Our message behind a stanza, if it is among the latest.
    pub fn message(&self, stanza: &str) -> Option<MessageId> {
        self.inside().ids.get(stanza).copied()
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
    fn a_message_keeps_its_stanza_and_no_two_share_one() {
        let stanza = stanza_id(id(1));
        assert!(stanza.len() == 22 && is_our_stanza(&stanza), "{stanza}");
        assert!(!is_our_stanza("3A5F0C2FE7A4B5C8D9E0F1") && !is_our_stanza(""));
        assert_eq!(stanza, stanza_id(id(1)));
        assert_ne!(stanza, stanza_id(id(2)));
    }

    #[tokio::test]
    async fn whoever_waits_gets_whatsapps_word_or_learns_that_none_comes() {
        let desk = Desk::default();
        let (taken, refused, lost) =
            (desk.expect("A", id(1)), desk.expect("B", id(2)), desk.expect("C", id(3)));
        desk.acknowledged("B", Ack::Refused("463".to_owned()));
        desk.acknowledged("A", Ack::Taken);
        desk.acknowledged("unknown", Ack::Taken);
        desk.close();
        assert_eq!(taken.await, Ok(Ack::Taken));
        assert_eq!(refused.await, Ok(Ack::Refused("463".to_owned())));
        assert!(lost.await.is_err());
        assert_eq!(
            (desk.message("A"), desk.message("C"), desk.message("D")),
            (Some(id(1)), Some(id(3)), None)
        );
    }

    #[tokio::test]
    async fn a_connection_that_never_answers_is_useless() {
        let desk = Desk::default();
        desk.silent("A");
        desk.silent("B");
        desk.acknowledged("C", Ack::Taken);
        desk.silent("D");
        desk.silent("E");
        assert!(futures_util::FutureExt::now_or_never(desk.given_up()).is_none());
        desk.silent("F");
        assert!(desk.given_up().await.contains("acknowledges nothing"));
    }

    #[tokio::test]
    async fn a_connection_is_not_given_up_for_what_an_earlier_one_did() {
        let desk = Desk::default();
        desk.give_up("the earlier one");
        desk.inside().useless = None;
        assert!(futures_util::FutureExt::now_or_never(desk.given_up()).is_none());
        desk.give_up("the first reason");
        desk.give_up("the second reason");
        assert_eq!(desk.given_up().await, "the first reason");
    }

    #[tokio::test(start_paused = true)]
    async fn messages_leave_when_they_are_sent_and_when_they_are_asked_for_again() {
        let desk = Desk::default();
        assert!(!desk.inside().sends());
        let word = desk.expect("A", id(1));
        assert!(desk.inside().sends());
        desk.acknowledged("A", Ack::Taken);
        assert!(!desk.inside().sends());
        desk.asked_again();
        assert!(desk.inside().sends());
        tokio::time::advance(AGAIN).await;
        assert!(!desk.inside().sends());
        drop(word);
    }

    #[test]
    fn whoever_left_is_not_waited_for() {
        let desk = Desk::default();
        for n in 0..=WAITING {
            drop(desk.expect(&n.to_string(), id(1)));
        }
        assert_eq!(desk.inside().waiting.len(), 1);
    }

    #[test]
    fn only_the_latest_stanzas_are_remembered() {
        let desk = Desk::default();
        for n in 0..=REMEMBERED {
            drop(desk.expect(&n.to_string(), id(1)));
        }
        assert_eq!((desk.message("0"), desk.message("1")), (None, Some(id(1))));
    }
}
