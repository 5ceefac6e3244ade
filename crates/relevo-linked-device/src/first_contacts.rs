//! The contacts of an instance, and the limit of strangers that it may write to per day.
//!
//! WhatsApp bans numbers that write to many people who do not know them. Each stranger uses one of the day's first
//! contacts. When the limit is reached, or WhatsApp rejects a message because the account reaches out too much (463),
//! messages to strangers are deferred; all others are sent.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use relevo_clock::Clock;
use relevo_domain::{Failure, FailureKind, FailureScope, InstanceNumber, Jid, Recipient, Timestamp};
use relevo_store::{self as store, Key, Space, Store, Tx};

const DAY_MILLIS: u64 = 24 * 3600 * 1000;

/// Time for which strangers are deferred after WhatsApp's rejection. WhatsApp names no time; known clients wait for hours.
pub(super) const STRANGER_HOLD: Duration = Duration::from_secs(6 * 3600);

/// The first contacts of one instance. Cheap to clone.
#[derive(Clone)]
pub(super) struct FirstContacts {
    store: Store,
    clock: Clock,
    instance: InstanceNumber,
    /// Strangers per day; 0 disables the limit.
    limit: u32,
}

/// The decision about a message to a stranger.
#[derive(Debug, PartialEq, Eq)]
enum ContactDecision {
    Allowed,
    /// Not before this time, for this reason.
    Deferred(Timestamp, &'static str),
}

impl FirstContacts {
    pub fn new(store: Store, clock: Clock, instance: InstanceNumber, limit: u32) -> Self {
        Self { store, clock, instance, limit }
    }

    /// Checks whether a message to this recipient may be sent now. A stranger who may be written to becomes a contact.
    ///
    /// # Errors
    ///
    /// The limit is reached, strangers are on hold, or the store failed.
    pub async fn check_limit(&self, to: &Recipient) -> Result<(), Failure> {
        if !matches!(to, Recipient::Phone(_) | Recipient::Jid(Jid::Lid(_))) {
            return Ok(());
        }
        let failed = |cause: store::Error| Failure::transient(format!("the data folder failed: {cause}"));
        let contact = self.contact_key(&to.address());
        if self.store.get(&contact).map_err(failed)?.is_some() {
            return Ok(());
        }
        let (this, now) = (self.clone(), self.clock.now());
        let decision =
            self.store.write(move |tx| this.decide_stranger(tx, contact, now)).await.map_err(failed)?;
        match decision {
            ContactDecision::Allowed => Ok(()),
            ContactDecision::Deferred(until, reason) => {
                let retry_after = until.since(now);
                Err(Failure::new(FailureKind::Deferred { retry_after }, FailureScope::Recipient, reason))
            }
        }
    }

    /// Records people who wrote first as contacts. The commit is not awaited: it need not precede that of their message.
    pub async fn record_contacts(&self, addresses: Vec<String>) {
        let keys = addresses.iter().map(|address| self.contact_key(address));
        let is_new = |key: &Key| self.store.get(key).is_ok_and(|contact| contact.is_none());
        let new_keys: Vec<_> = keys.filter(is_new).collect();
        if new_keys.is_empty() {
            return;
        }
        let record = move |tx: &mut Tx| new_keys.into_iter().try_for_each(|key| tx.put(key, Vec::new()));
        self.store.submit(record, |_| {}).await;
    }

    /// Defers messages to strangers for [`STRANGER_HOLD`], after WhatsApp's rejection.
    pub async fn hold_strangers(&self) {
        let until = self.clock.now() + STRANGER_HOLD;
        let key = self.key(b'h');
        self.store.submit(move |tx| tx.put(key, until.millis().to_be_bytes().to_vec()), |_| {}).await;
    }

    fn decide_stranger(
        &self,
        tx: &mut Tx,
        contact: Key,
        now: Timestamp,
    ) -> Result<ContactDecision, store::Error> {
        // The recipient may have become a contact since the caller's lookup.
        if tx.get(&contact)?.is_some() {
            return Ok(ContactDecision::Allowed);
        }
        let held_until =
            tx.get(&self.key(b'h'))?.and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?)));
        if let Some(until) = held_until.map(Timestamp).filter(|until| *until > now) {
            let reason = "WhatsApp reported that this account writes to too many people who do not know it; messages \
                          to strangers wait";
            return Ok(ContactDecision::Deferred(until, reason));
        }
        let today = now.millis() / DAY_MILLIS;
        let used = tx.get(&self.key(b'b'))?.and_then(|bytes| {
            let (day, count) = (bytes.first_chunk::<8>()?, bytes.last_chunk::<4>()?);
            (u64::from_be_bytes(*day) == today).then(|| u32::from_be_bytes(*count))
        });
        let used = used.unwrap_or(0);
        if self.limit > 0 && used >= self.limit {
            let reason = "today's first contacts are used up (linked_device.first_contacts_per_day); messages to \
                          strangers wait until tomorrow, UTC";
            return Ok(ContactDecision::Deferred(Timestamp((today + 1) * DAY_MILLIS), reason));
        }
        let count = [&today.to_be_bytes()[..], &(used + 1).to_be_bytes()[..]].concat();
        tx.put(self.key(b'b'), count)?;
        tx.put(contact, Vec::new())?;
        Ok(ContactDecision::Allowed)
    }

    fn key(&self, table: u8) -> Key {
        Key::new(Space::LinkedContact).u32(self.instance.get()).u8(table)
    }

    fn contact_key(&self, address: &str) -> Key {
        let digest = Sha256::digest(address.as_bytes());
        self.key(b'k').bytes(digest.first_chunk::<16>().map_or(&[], |half| half.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_metrics::Metrics;
    use relevo_store::{DataFolder, Options};

    /// Ten hours after midnight UTC.
    const MORNING: Timestamp = Timestamp(1_763_805_600_000 - 1_763_805_600_000 % DAY_MILLIS + 36_000_000);

    fn to(phone: &str) -> Recipient {
        phone.parse().unwrap()
    }

    fn deferred(outcome: Result<(), Failure>) -> Option<Duration> {
        match outcome.err()?.kind {
            FailureKind::Deferred { retry_after } => Some(retry_after),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stranger_is_deferred_until_tomorrow_when_the_limit_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let clock = Clock::from_tokio(MORNING);
        let contacts = |limit| FirstContacts::new(store.clone(), clock, InstanceNumber::FIRST, limit);
        let two = contacts(2);
        two.record_contacts(vec!["573009999999@s.whatsapp.net".to_owned()]).await;
        for phone in ["573000000001", "573000000002", "573000000001", "573009999999"] {
            assert_eq!(deferred(two.check_limit(&to(phone)).await), None, "{phone}");
        }
        assert_eq!(
            deferred(two.check_limit(&to("573000000003")).await),
            Some(Duration::from_secs(14 * 3600))
        );
        assert_eq!(deferred(two.check_limit(&to("120363000000000000@g.us")).await), None);
        assert_eq!(deferred(contacts(0).check_limit(&to("573000000004")).await), None);
        tokio::time::advance(Duration::from_secs(14 * 3600)).await;
        assert_eq!(deferred(two.check_limit(&to("573000000003")).await), None);
    }

    #[tokio::test]
    async fn concurrent_messages_to_one_stranger_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let contacts = FirstContacts::new(store, Clock::from_tokio(MORNING), InstanceNumber::FIRST, 1);
        let (ana, beto) = (to("573000000001"), to("573000000002"));
        let both = tokio::join!(contacts.check_limit(&ana), contacts.check_limit(&ana));
        assert_eq!((deferred(both.0), deferred(both.1)), (None, None));
        assert!(deferred(contacts.check_limit(&beto).await).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn hold_defers_strangers_only() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let contacts = FirstContacts::new(store, Clock::from_tokio(MORNING), InstanceNumber::FIRST, 0);
        assert_eq!(deferred(contacts.check_limit(&to("573000000001")).await), None);
        contacts.hold_strangers().await;
        assert_eq!(deferred(contacts.check_limit(&to("573000000002")).await), Some(STRANGER_HOLD));
        assert_eq!(deferred(contacts.check_limit(&to("573000000001")).await), None);
        tokio::time::advance(STRANGER_HOLD).await;
        assert_eq!(deferred(contacts.check_limit(&to("573000000002")).await), None);
    }
}
