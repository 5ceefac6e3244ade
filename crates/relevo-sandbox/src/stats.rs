//! Counters of everything that happened since the start or the last reset.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub struct Stats {
    /// POSTs to `/messages`, whatever became of them.
    pub received: Counter,
    /// Messages that got a wamid, whether or not the answer was given.
    pub accepted: Counter,
    /// Mark-as-read requests that were taken.
    pub reads: Counter,
    /// Requests whose connection a fault cut or held before the message was accepted.
    pub dropped: Counter,
    /// Looks at a phone number.
    pub probes: Counter,
    /// Messages that a user wrote, by way of the control plane.
    pub inbound: Counter,
    pub media_uploads: Counter,
    pub media_downloads: Counter,
    /// Webhooks answered with 200.
    pub webhooks_sent: Counter,
    /// Attempts that were not, repeated or not.
    pub webhooks_failed: Counter,
    /// Webhooks that were not delivered in all their attempts.
    pub webhooks_given_up: Counter,
    /// Statuses and messages in the webhooks that were answered with 200.
    pub updates_sent: Counter,
    /// Statuses and messages that were given up.
    pub updates_given_up: Counter,
    /// Messages whose statuses were left out because too many waited.
    pub tracking_skipped: Counter,
    refused: Mutex<BTreeMap<u32, u64>>,
}

impl Stats {
    pub fn record_refusal(&self, code: u32) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// Counts from zero again.
    pub fn clear(&self) {
        let counters = [
            &self.received,
            &self.accepted,
            &self.reads,
            &self.dropped,
            &self.probes,
            &self.inbound,
            &self.media_uploads,
            &self.media_downloads,
            &self.webhooks_sent,
            &self.webhooks_failed,
            &self.webhooks_given_up,
            &self.updates_sent,
            &self.updates_given_up,
            &self.tracking_skipped,
        ];
        counters.into_iter().for_each(Counter::clear);
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The counters as the control plane shows them.
    pub fn to_json(&self) -> Value {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "received": self.received.get(),
            "accepted": self.accepted.get(),
            "reads": self.reads.get(),
            "dropped": self.dropped.get(),
            "refused": refused.values().sum::<u64>(),
            "refused_by_code": refused,
            "probes": self.probes.get(),
            "inbound": self.inbound.get(),
            "media_uploads": self.media_uploads.get(),
            "media_downloads": self.media_downloads.get(),
            "webhooks_sent": self.webhooks_sent.get(),
            "webhooks_failed": self.webhooks_failed.get(),
            "webhooks_given_up": self.webhooks_given_up.get(),
            "updates_sent": self.updates_sent.get(),
            "updates_given_up": self.updates_given_up.get(),
            "tracking_skipped": self.tracking_skipped.get(),
        })
    }
}
