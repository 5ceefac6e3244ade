//! Counters since the start or the last reset.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter.
    pub fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// All counters of a sandbox.
#[derive(Debug, Default)]
pub struct Stats {
    /// POSTs to `/messages`, with any outcome.
    pub received: Counter,
    /// Messages that got a wamid, whether or not the answer was sent.
    pub accepted: Counter,
    /// Accepted mark-as-read requests.
    pub reads: Counter,
    /// Requests whose connection a fault cut or held before the message was accepted.
    pub dropped: Counter,
    /// Requests for the properties of a phone number.
    pub probes: Counter,
    /// Messages of simulated users, sent by the control plane.
    pub inbound: Counter,
    /// Accepted uploads.
    pub media_uploads: Counter,
    /// Files that were downloaded.
    pub media_downloads: Counter,
    /// Webhooks answered with 200.
    pub webhooks_sent: Counter,
    /// Webhook attempts without the answer 200.
    pub webhooks_failed: Counter,
    /// Webhooks that were dropped after the last attempt.
    pub webhooks_given_up: Counter,
    /// Statuses and messages in webhooks that were answered with 200.
    pub updates_sent: Counter,
    /// Statuses and messages in dropped webhooks.
    pub updates_given_up: Counter,
    /// Messages without statuses, because too many messages had pending statuses.
    pub tracking_skipped: Counter,
    refused: Mutex<BTreeMap<u32, u64>>,
}

impl Stats {
    /// Counts a refused request under its error code.
    pub fn record_refusal(&self, code: u32) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// Sets all counters to zero.
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

    /// The counters in the format of the control plane.
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
