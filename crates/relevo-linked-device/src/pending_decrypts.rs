//! Received messages that are not yet queued for the disk. Ratchets are not written before them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Maximum time between the arrival of a message and its write to the store, on a machine that is not overloaded. A stanza
/// that takes longer is no message, cannot be decrypted, or waits for the ratchets that are about to be written.
const DECRYPT_TIMEOUT: Duration = Duration::from_millis(20);

/// Holds ratchets back until the messages that advanced them are queued for the disk. The client writes all advanced
/// ratchets at once, also that of a message which it has decrypted but not yet stored: a crash between the two writes
/// would lose the message, because it cannot be decrypted a second time.
#[derive(Debug, Default)]
pub(super) struct PendingDecrypts {
    /// Arrival time by message id.
    pending: Mutex<HashMap<String, Instant>>,
    completed: Notify,
    /// Number of messages that have arrived.
    count: AtomicU64,
}

impl PendingDecrypts {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a message has arrived and will be decrypted.
    pub fn begin(&self, id: &str) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let now = Instant::now();
        let mut pending = self.lock();
        pending.retain(|_, arrived_at| now.duration_since(*arrived_at) < DECRYPT_TIMEOUT);
        pending.insert(id.to_owned(), now);
    }

    /// Number of messages that have arrived so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Records that the write of a message is queued, or that the message is already stored.
    pub fn complete(&self, id: &str) {
        if self.lock().remove(id).is_some() {
            self.completed.notify_waiters();
        }
    }

    /// Waits until the messages that have arrived before this call are complete or have timed out.
    pub async fn wait_until_complete(&self) {
        let called_at = Instant::now();
        loop {
            let completed = self.completed.notified();
            let newest = self.lock().values().copied().filter(|arrived_at| *arrived_at <= called_at).max();
            let Some(newest) = newest else { return };
            let deadline = newest + DECRYPT_TIMEOUT;
            if deadline <= Instant::now() {
                return;
            }
            let _ = tokio::time::timeout_at(deadline, completed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ratchets_wait_for_pending_decrypts() {
        let pending = PendingDecrypts::default();
        assert!(pending.wait_until_complete().now_or_never().is_some());
        pending.begin("A");
        pending.begin("B");
        let started_at = Instant::now();
        let mut completed = Box::pin(pending.wait_until_complete());
        assert!(completed.as_mut().now_or_never().is_none());
        pending.complete("A");
        assert!(completed.as_mut().now_or_never().is_none());
        pending.complete("B");
        completed.await;
        assert_eq!(started_at.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_decrypt_times_out() {
        let pending = PendingDecrypts::default();
        pending.begin("A");
        let started_at = Instant::now();
        pending.wait_until_complete().await;
        assert_eq!(started_at.elapsed(), DECRYPT_TIMEOUT);
        assert!(pending.wait_until_complete().now_or_never().is_some());
    }
}
