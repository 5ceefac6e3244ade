//! The state that all connections and phones share.

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
use crate::router;
use crate::stats::Stats;
use relevo_clock::{Clock, Random};

/// The state of a server.
pub struct ServerState {
    pub clock: Clock,
    pub random: Random,
    pub address: SocketAddr,
    pub journal: Journal,
    pub faults: Faults,
    pub stats: Stats,
    pub media: EncryptedMediaStore,
    pub slots: Arc<Semaphore>,
    /// Notified after every change that a test may wait for.
    pub changed: Notify,
    /// Cancelled when the server stops.
    pub closing: CancellationToken,
    identity: Mutex<Arc<ServerIdentity>>,
    registry: Mutex<Registry>,
    /// The server refuses connections until this time.
    unavailable_until: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for ServerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerState").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ServerState {
    /// The state of a server that listens on `address`.
    pub fn new(options: &Options, clock: Clock, random: Random, address: SocketAddr) -> Self {
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
            identity: Mutex::new(Arc::new(ServerIdentity::generate(&random))),
            random,
            registry: Mutex::default(),
            unavailable_until: Mutex::new(None),
        }
    }

    /// Locks the registry. Callers hold the lock briefly, never across an await or while a phone works.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since 1970, the time format of stanzas.
    pub fn seconds(&self) -> u64 {
        self.clock.now().millis() / 1000
    }

    /// The current Noise identity.
    pub fn identity(&self) -> Arc<ServerIdentity> {
        Arc::clone(&self.identity.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Generates a new Noise key.
    pub fn rotate_identity(&self) {
        let identity = Arc::new(ServerIdentity::generate(&self.random));
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Refuses connections for this time.
    pub fn set_unavailable_for(&self, duration: Duration) {
        *self.unavailable_until.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + duration);
    }

    /// Whether connections are refused.
    pub fn is_unavailable(&self) -> bool {
        let until = *self.unavailable_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The account of this phone number, which is created if it does not exist.
    pub fn account(self: &Arc<Self>, phone_number: &str) -> AccountId {
        let mut registry = self.registry();
        match registry.directory.find(phone_number) {
            Some(id) => id,
            None => {
                let new_phone = |id, lid: &str| {
                    let random = self.random.clone();
                    Arc::new(Phone::new(Arc::downgrade(self), random, id, phone_number, lid))
                };
                registry.directory.create_account(phone_number, new_phone)
            }
        }
    }

    /// The phone of an account.
    pub fn phone(&self, id: AccountId) -> Arc<Phone> {
        Arc::clone(&self.registry().directory.account(id).phone)
    }

    /// Delivers stanzas to phones and routes their answers, until there are no more stanzas.
    pub fn deliver_to_phones(self: &Arc<Self>, phone_stanzas: Vec<PhoneStanza>) {
        let mut waiting = VecDeque::from(phone_stanzas);
        while let Some((account, stanza)) = waiting.pop_front() {
            let phone = self.phone(account);
            for answer in phone.handle_stanza(self, &stanza) {
                waiting.extend(router::route_stanza(self, DeviceId { account, number: 0 }, answer));
            }
        }
        self.changed.notify_waiters();
    }
}
