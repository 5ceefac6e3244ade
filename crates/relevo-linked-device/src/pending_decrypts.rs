//! Messages that arrived and are not yet with us.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A message that was opened is noted as pending within this, on a machine that is not starved. Whatever takes longer is
/// no message, cannot be opened, or waits for the very ratchets that are about to be written.
const DECRYPT_TIMEOUT: Duration = Duration::from_millis(20);

/// What keeps ratchets from overtaking messages. The client writes all ratchets that moved in one go, also those of a
/// message that it opened just now and did not yet hand over: a crash between the two would leave a message that nobody
/// can open again and nobody has.
#[derive(Debug, Default)]
pub(super) struct PendingDecrypts {
    pending: Mutex<HashMap<String, Instant>>,
    completed: Notify,
    /// How many there were so far.
    count: AtomicU64,
}

impl PendingDecrypts {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message is about to be opened.
    pub fn begin(&self, id: &str) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let now = Instant::now();
        let mut open = self.lock();
        open.retain(|_, since| now.duration_since(*since) < DECRYPT_TIMEOUT);
        open.insert(id.to_owned(), now);
    }

    /// How many messages have arrived so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// A message is lined up for the disk, or turned out to be there.
    pub fn complete(&self, id: &str) {
        if self.lock().remove(id).is_some() {
            self.completed.notify_waiters();
        }
    }

    /// Waits until everything that has arrived by now is noted, or took too long.
    pub async fn wait_until_complete(&self) {
        let asked = Instant::now();
        loop {
            let noted = self.completed.notified();
            let since = self.lock().values().copied().filter(|since| *since <= asked).max();
            let Some(over) = since.map(|since| since + DECRYPT_TIMEOUT).filter(|over| *over > Instant::now())
            else {
                return;
            };
            // Whichever comes first: the last of them is noted, or all have had their time.
            let _ = tokio::time::timeout_at(over, noted).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ratchets_wait_for_pending_decrypts() {
        let arrivals = PendingDecrypts::default();
        assert!(arrivals.wait_until_complete().now_or_never().is_some());
        arrivals.begin("A");
        arrivals.begin("B");
        let began = Instant::now();
        let mut settled = Box::pin(arrivals.wait_until_complete());
        assert!(settled.as_mut().now_or_never().is_none());
        arrivals.complete("A");
        assert!(settled.as_mut().now_or_never().is_none());
        arrivals.complete("B");
        settled.await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_decrypt_times_out() {
        let arrivals = PendingDecrypts::default();
        arrivals.begin("A");
        let began = Instant::now();
        arrivals.wait_until_complete().await;
        assert_eq!(began.elapsed(), DECRYPT_TIMEOUT);
        assert!(arrivals.wait_until_complete().now_or_never().is_some());
    }
}
