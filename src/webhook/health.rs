//! The health of endpoints: counters and current failures, published for readers.

use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use relevo_domain::{InstanceNumber, Timestamp};

use super::endpoint::FailuresView;

/// Counters since the start of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WebhookCounts {
    /// Events that a receiver accepted.
    pub delivered: u64,
    /// Attempts that failed or were refused.
    pub failed: u64,
    /// Parked events.
    pub parked: u64,
    /// Events that retention deleted before they were delivered.
    pub missed: u64,
}

/// Sums over all endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointTotals {
    /// Sums of the counters.
    pub counts: WebhookCounts,
    /// Number of endpoints.
    pub endpoints: usize,
    /// Number of disabled endpoints.
    pub disabled: usize,
    /// Number of enabled endpoints with a current failure.
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

/// The health of one endpoint.
#[derive(Debug, Default)]
pub(super) struct EndpointHealth {
    delivered: AtomicU64,
    failed: AtomicU64,
    parked: AtomicU64,
    missed: AtomicU64,
    /// Time of the last delivery in milliseconds of the wall clock; 0 if there was none.
    last_delivery: AtomicU64,
    /// Current failures, at most one per instance.
    failures: Mutex<BTreeMap<InstanceNumber, FailuresView>>,
}

impl EndpointHealth {
    /// Counts a delivered event.
    pub fn record_delivered(&self, now: Timestamp) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        self.last_delivery.store(now.millis(), Ordering::Relaxed);
    }

    /// Counts a failed or refused attempt.
    pub fn record_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a parked event.
    pub fn record_parked(&self) {
        self.parked.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts events that retention deleted before delivery.
    pub fn record_missed(&self, events: u64) {
        self.missed.fetch_add(events, Ordering::Relaxed);
    }

    /// Whether an event was delivered after this time.
    pub fn delivered_since(&self, time: Timestamp) -> bool {
        self.last_delivery.load(Ordering::Relaxed) > time.millis()
    }

    /// Sets the current failure of an instance.
    pub fn record_failures(&self, failures: FailuresView) {
        self.lock_failures().insert(failures.instance, failures);
    }

    /// Removes the current failure of an instance.
    pub fn clear_failures(&self, instance: InstanceNumber) {
        self.lock_failures().remove(&instance);
    }

    /// Removes all current failures.
    pub fn clear_all_failures(&self) {
        self.lock_failures().clear();
    }

    /// The current failure of an instance.
    pub fn failures_of(&self, instance: InstanceNumber) -> Option<FailuresView> {
        self.lock_failures().get(&instance).cloned()
    }

    /// The oldest current failure.
    pub fn longest_failing(&self) -> Option<FailuresView> {
        self.lock_failures().values().min_by_key(|failures| failures.since).cloned()
    }

    /// The counters.
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
