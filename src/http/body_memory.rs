//! The memory that large bodies share, taken as their bytes arrive: a pure ledger, and the share that executes its
//! decisions.
//!
//! Guarantees:
//!
//! - A body takes what has arrived of it, never what it announces.
//! - Bodies cannot block one another for ever: with [`ShortagePolicy::OldestFirst`] the oldest incomplete body always proceeds, at
//!   most by its size beyond the capacity; with [`ShortagePolicy::DropOldest`] it is dropped once it is older than
//!   [`GRACE`], because nothing is known of its sender.
//! - What was taken is free when its [`BodyMemory`] is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An incomplete body is not dropped for another one before this age. Meta sends 3 MB within it.
const GRACE: Duration = Duration::from_secs(1);

/// What happens when the memory is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShortagePolicy {
    /// Bodies wait; the oldest incomplete one proceeds beyond the capacity. For senders with a key.
    OldestFirst,
    /// The oldest incomplete body is dropped. For senders without a key.
    DropOldest,
}

/// A body. Older bodies have lower numbers, which are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct BodyId(u64);

#[derive(Debug)]
struct Holding {
    bytes: usize,
    since: Instant,
    complete: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Growth {
    Granted,
    /// This body was dropped; ask again.
    Drop(BodyId),
    /// Ask again when memory is freed, and at this time.
    Wait {
        until: Option<Instant>,
    },
}

/// Who holds how much: the decisions.
#[derive(Debug)]
struct Ledger {
    capacity: usize,
    shortage: ShortagePolicy,
    taken: usize,
    bodies: BTreeMap<BodyId, Holding>,
    next_id: u64,
}

impl Ledger {
    fn new(capacity: usize, shortage: ShortagePolicy) -> Self {
        Self { capacity, shortage, taken: 0, bodies: BTreeMap::new(), next_id: 0 }
    }

    fn begin(&mut self, now: Instant) -> BodyId {
        let id = BodyId(self.next_id);
        self.next_id += 1;
        self.bodies.insert(id, Holding { bytes: 0, since: now, complete: false });
        id
    }

    /// `bytes` more of a body arrived.
    fn grow(&mut self, id: BodyId, bytes: usize, now: Instant) -> Growth {
        let oldest = self.bodies.iter().find(|(_, holding)| !holding.complete);
        let oldest = oldest.map(|(&oldest, holding)| (oldest, holding.since + GRACE));
        let fits = self.taken + bytes <= self.capacity;
        let of_others = self.taken - self.bodies.get(&id).map_or(0, |holding| holding.bytes);
        let proceeds = self.shortage == ShortagePolicy::OldestFirst
            && of_others <= self.capacity
            && oldest.is_some_and(|(oldest, _)| oldest == id);
        if fits || proceeds {
            if let Some(holding) = self.bodies.get_mut(&id) {
                holding.bytes += bytes;
                self.taken += bytes;
            }
            return Growth::Granted;
        }
        match (self.shortage, oldest) {
            (ShortagePolicy::DropOldest, Some((oldest, until))) if until <= now => {
                self.end(oldest);
                Growth::Drop(oldest)
            }
            (ShortagePolicy::DropOldest, Some((_, until))) => Growth::Wait { until: Some(until) },
            _ => Growth::Wait { until: None },
        }
    }

    fn complete(&mut self, id: BodyId) {
        if let Some(holding) = self.bodies.get_mut(&id) {
            holding.complete = true;
        }
    }

    fn end(&mut self, id: BodyId) {
        if let Some(holding) = self.bodies.remove(&id) {
            self.taken -= holding.bytes;
        }
    }
}

/// Memory that bodies share. Cheap to clone.
#[derive(Clone)]
pub(super) struct MemoryShare(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Signalled when memory was freed, or a body became the oldest.
    changed: Notify,
}

struct State {
    ledger: Ledger,
    drop_tokens: HashMap<BodyId, CancellationToken>,
}

impl MemoryShare {
    /// `capacity` bytes.
    pub fn new(capacity: usize, shortage: ShortagePolicy) -> Self {
        let state = State { ledger: Ledger::new(capacity, shortage), drop_tokens: HashMap::new() };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// The memory of a body that begins to arrive: nothing yet.
    pub fn begin(&self) -> BodyMemory {
        let mut state = self.lock();
        let (id, dropped) = (state.ledger.begin(Instant::now()), CancellationToken::new());
        state.drop_tokens.insert(id, dropped.clone());
        drop(state);
        BodyMemory { share: self.clone(), id, dropped }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of one body; freed on drop.
pub(super) struct BodyMemory {
    share: MemoryShare,
    id: BodyId,
    dropped: CancellationToken,
}

impl BodyMemory {
    /// Waits for `bytes` more. Cancel safe.
    pub async fn grow(&self, bytes: usize) {
        loop {
            let changed = self.share.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the ledger is asked, so that no change is missed.
            changed.as_mut().enable();
            match self.try_grow(bytes) {
                Growth::Granted => return,
                Growth::Drop(_) => {}
                Growth::Wait { until: Some(until) } => {
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
                Growth::Wait { until: None } => changed.await,
            }
        }
    }

    fn try_grow(&self, bytes: usize) -> Growth {
        let mut state = self.share.lock();
        let growth = state.ledger.grow(self.id, bytes, Instant::now());
        if let Growth::Drop(id) = growth
            && let Some(token) = state.drop_tokens.remove(&id)
        {
            token.cancel();
        }
        growth
    }

    /// The body is complete and will be used: it is not dropped for another one.
    pub fn complete(&self) {
        self.share.lock().ledger.complete(self.id);
        self.share.0.changed.notify_waiters();
    }

    /// Resolves when this body gives its memory to another one: its request must end.
    pub async fn dropped(&self) {
        self.dropped.cancelled().await;
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        let mut state = self.share.lock();
        state.ledger.end(self.id);
        state.drop_tokens.remove(&self.id);
        drop(state);
        self.share.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
