//! What all connections and phones share.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::accounts::{AccountId, DeviceId};
use crate::faults::Faults;
use crate::journal::Journal;
use crate::media::EncryptedMediaStore;
use crate::noise::ServerIdentity;
use crate::phone::Phone;
use crate::registry::{PhoneStanza, Registry};
use crate::routing;
use crate::stats::Stats;
use relevo_clock::Clock;

pub struct ServerState {
    pub clock: Clock,
    pub address: SocketAddr,
    pub journal: Journal,
    pub faults: Faults,
    pub stats: Stats,
    pub media: EncryptedMediaStore,
    pub slots: Arc<Semaphore>,
    /// Woken by whatever a test may wait for.
    pub changed: Notify,
    /// Cancelled when the server stops.
    pub closing: CancellationToken,
    identity: Mutex<Arc<ServerIdentity>>,
    registry: Mutex<Registry>,
    /// Until then the server pretends not to be back.
    unavailable_until: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for ServerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerState").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ServerState {
    pub fn new(options: &Options, clock: Clock, address: SocketAddr) -> Self {
        Self {
            clock,
            address,
            journal: Journal::new(options.keep_stanzas),
            faults: Faults::default(),
            stats: Stats::default(),
            media: EncryptedMediaStore::new(options.media_bytes),
            slots: Arc::new(Semaphore::new(options.max_connections)),
            changed: Notify::new(),
            closing: CancellationToken::new(),
            identity: Mutex::new(Arc::new(ServerIdentity::generate())),
            registry: Mutex::default(),
            unavailable_until: Mutex::new(None),
        }
    }

    /// The state. Held for moments only, never while a phone works or anything is awaited.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since 1970, as stanzas carry time.
    pub fn seconds(&self) -> u64 {
        self.clock.now().millis() / 1000
    }

    pub fn identity(&self) -> Arc<ServerIdentity> {
        Arc::clone(&self.identity.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a new Noise key, as a server does whose old one was retired.
    pub fn rotate_identity(&self) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(ServerIdentity::generate());
    }

    /// Lets nobody in for so long.
    pub fn set_unavailable_for(&self, rest: Duration) {
        *self.unavailable_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + rest);
    }

    pub fn is_unavailable(&self) -> bool {
        let until = *self.unavailable_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The account of this phone number, which is opened when there is none.
    pub fn account(self: &Arc<Self>, phone_number: &str) -> AccountId {
        let mut hub = self.registry();
        match hub.directory.find(phone_number) {
            Some(id) => id,
            None => {
                let open = |id, lid: &str| Arc::new(Phone::new(Arc::downgrade(self), id, phone_number, lid));
                hub.directory.create_account(phone_number, open)
            }
        }
    }

    pub fn phone(&self, id: AccountId) -> Arc<Phone> {
        Arc::clone(&self.registry().directory.account(id).phone)
    }

    /// Hands mail to phones, and what they answer to whom it concerns, until nothing is left.
    pub fn deliver_to_phones(self: &Arc<Self>, mail: Vec<PhoneStanza>) {
        let mut waiting = VecDeque::from(mail);
        while let Some((account, stanza)) = waiting.pop_front() {
            let phone = self.phone(account);
            for answer in phone.handle_stanza(self, &stanza) {
                waiting.extend(routing::route_stanza(self, DeviceId { account, number: 0 }, answer));
            }
        }
        self.changed.notify_waiters();
    }
}
