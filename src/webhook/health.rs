//! How endpoints fare: counters and present troubles, for everybody who reads.

use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use relevo_domain::{InstanceNumber, Timestamp};

use super::endpoint::FailuresView;

/// What happened since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WebhookCounts {
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
pub struct EndpointTotals {
    /// The sums of theirs.
    pub counts: WebhookCounts,
    pub endpoints: usize,
    pub disabled: usize,
    /// Enabled, and in trouble at the moment.
    pub failing: usize,
}

impl Add for WebhookCounts {
    type Output = WebhookCounts;
    fn add(self, other: WebhookCounts) -> WebhookCounts {
        WebhookCounts {
            delivered: self.delivered + other.delivered,
            failed: self.failed + other.failed,
            parked: self.parked + other.parked,
            missed: self.missed + other.missed,
        }
    }
}

/// How one endpoint fares.
#[derive(Debug, Default)]
pub(super) struct EndpointHealth {
    delivered: AtomicU64,
    failed: AtomicU64,
    parked: AtomicU64,
    missed: AtomicU64,
    /// In milliseconds of the wall clock; 0 is never.
    last_delivery: AtomicU64,
    /// At most one for every instance.
    failures: Mutex<BTreeMap<InstanceNumber, FailuresView>>,
}

impl EndpointHealth {
    pub fn record_delivered(&self, now: Timestamp) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        self.last_delivery.store(now.millis(), Ordering::Relaxed);
    }

    pub fn record_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn record_parked(&self) {
        self.parked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn record_missed(&self, events: u64) {
        self.missed.fetch_add(events, Ordering::Relaxed);
    }

    /// Whether anything was delivered after that moment.
    pub fn delivered_since(&self, moment: Timestamp) -> bool {
        self.last_delivery.load(Ordering::Relaxed) > moment.millis()
    }

    pub fn record_failures(&self, trouble: FailuresView) {
        self.lock_failures().insert(trouble.instance, trouble);
    }

    pub fn clear_failures(&self, instance: InstanceNumber) {
        self.lock_failures().remove(&instance);
    }

    pub fn clear_all_failures(&self) {
        self.lock_failures().clear();
    }

    pub fn failures_of(&self, instance: InstanceNumber) -> Option<FailuresView> {
        self.lock_failures().get(&instance).cloned()
    }

    /// The trouble that lasts longest.
    pub fn longest_failing(&self) -> Option<FailuresView> {
        self.lock_failures().values().min_by_key(|trouble| trouble.since).cloned()
    }

    pub fn counts(&self) -> WebhookCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WebhookCounts {
            delivered: read(&self.delivered),
            failed: read(&self.failed),
            parked: read(&self.parked),
            missed: read(&self.missed),
        }
    }

    fn lock_failures(&self) -> MutexGuard<'_, BTreeMap<InstanceNumber, FailuresView>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
