//! How endpoints fare: counters and present troubles, for everybody who reads.

use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use relevo_domain::{InstanceNumber, Timestamp};

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

/// All endpoints that exist, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// The sums of theirs.
    pub counts: Counts,
    pub endpoints: usize,
    pub disabled: usize,
    /// Enabled, and in trouble at the moment.
    pub failing: usize,
}

impl Add for Counts {
    type Output = Counts;
    fn add(self, other: Counts) -> Counts {
        Counts {
            delivered: self.delivered + other.delivered,
            failed: self.failed + other.failed,
            parked: self.parked + other.parked,
            missed: self.missed + other.missed,
        }
    }
}

/// How one endpoint fares.
#[derive(Debug, Default)]
pub(super) struct Health {
    delivered: AtomicU64,
    failed: AtomicU64,
    parked: AtomicU64,
    missed: AtomicU64,
    /// In milliseconds of the wall clock; 0 is never.
    last_delivery: AtomicU64,
    /// At most one for every instance.
    troubles: Mutex<BTreeMap<InstanceNumber, TroubleView>>,
}

impl Health {
    pub fn delivered(&self, now: Timestamp) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        self.last_delivery.store(now.millis(), Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn parked(&self) {
        self.parked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn missed(&self, events: u64) {
        self.missed.fetch_add(events, Ordering::Relaxed);
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

    pub fn trouble_of(&self, instance: InstanceNumber) -> Option<TroubleView> {
        self.troubles().get(&instance).cloned()
    }

    /// The trouble that lasts longest.
    pub fn worst(&self) -> Option<TroubleView> {
        self.troubles().values().min_by_key(|trouble| trouble.since).cloned()
    }

    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            delivered: read(&self.delivered),
            failed: read(&self.failed),
            parked: read(&self.parked),
            missed: read(&self.missed),
        }
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<InstanceNumber, TroubleView>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
