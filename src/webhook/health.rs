//! How endpoints fare: counters and present troubles, for everybody who reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{InstanceNumber, Timestamp};

use super::endpoint::TroubleView;

/// What happened since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events that a receiver took.
    pub delivered: u64,
    /// Attempts that failed or were refused.
    pub failed: u64,
    /// Events put aside.
    pub parked: u64,
    /// Events that left the log, by its retention, before they could be delivered.
    pub missed: u64,
}

/// All endpoints in numbers, those that were deleted included in `counts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub counts: Counts,
    pub endpoints: usize,
    pub disabled: usize,
    /// Enabled, and in trouble at the moment.
    pub failing: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    delivered: AtomicU64,
    failed: AtomicU64,
    parked: AtomicU64,
    missed: AtomicU64,
}

impl Counters {
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            delivered: read(&self.delivered),
            failed: read(&self.failed),
            parked: read(&self.parked),
            missed: read(&self.missed),
        }
    }
}

/// How one endpoint fares.
#[derive(Debug, Default)]
pub(super) struct Health {
    own: Counters,
    all: Arc<Counters>,
    /// In milliseconds of the wall clock; 0 is never.
    last_delivery: AtomicU64,
    /// At most one for every instance.
    troubles: Mutex<BTreeMap<InstanceNumber, TroubleView>>,
}

impl Health {
    /// Counts for itself and into `all`.
    pub fn new(all: Arc<Counters>) -> Self {
        Self { all, ..Self::default() }
    }

    pub fn delivered(&self, now: Timestamp) {
        self.count(|counters| &counters.delivered, 1);
        self.last_delivery.store(now.millis(), Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.count(|counters| &counters.failed, 1);
    }

    pub fn parked(&self) {
        self.count(|counters| &counters.parked, 1);
    }

    pub fn missed(&self, events: u64) {
        self.count(|counters| &counters.missed, events);
    }

    /// Whether anything was delivered after that moment.
    pub fn delivered_since(&self, moment: Timestamp) -> bool {
        self.last_delivery.load(Ordering::Relaxed) > moment.millis()
    }

    pub fn trouble(&self, trouble: TroubleView) {
        self.troubles().insert(trouble.instance, trouble);
    }

    pub fn well(&self, instance: InstanceNumber) {
        self.troubles().remove(&instance);
    }

    pub fn forget_troubles(&self) {
        self.troubles().clear();
    }

    /// The trouble that lasts longest.
    pub fn worst(&self) -> Option<TroubleView> {
        self.troubles().values().min_by_key(|trouble| trouble.since).cloned()
    }

    pub fn counts(&self) -> Counts {
        self.own.read()
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64, by: u64) {
        for counters in [&self.own, &*self.all] {
            counter(counters).fetch_add(by, Ordering::Relaxed);
        }
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<InstanceNumber, TroubleView>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
