//! Messages that arrived and are not yet with us.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A message that was opened is noted as pending within this, on a machine that is not starved. Whatever takes longer is
/// no message, cannot be opened, or waits for the very ratchets that are about to be written.
const PATIENCE: Duration = Duration::from_millis(20);

/// What keeps ratchets from overtaking messages. The client writes all ratchets that moved in one go, also those of a
/// message that it opened just now and did not yet hand over: a crash between the two would leave a message that nobody
/// can open again and nobody has.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    open: Mutex<HashMap<String, Instant>>,
    noted: Notify,
    /// How many there were so far.
    count: AtomicU64,
}

impl Arrivals {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message is about to be opened.
    pub fn arrived(&self, id: &str) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let now = Instant::now();
        let mut open = self.open();
        open.retain(|_, since| now.duration_since(*since) < PATIENCE);
        open.insert(id.to_owned(), now);
    }

    /// How many messages have arrived so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// A message is lined up for the disk, or turned out to be there.
    pub fn noted(&self, id: &str) {
        if self.open().remove(id).is_some() {
            self.noted.notify_waiters();
        }
    }

    /// Waits until everything that has arrived by now is noted, or took too long.
    pub async fn settled(&self) {
        let asked = Instant::now();
        loop {
            let noted = self.noted.notified();
            let since = self.open().values().copied().filter(|since| *since <= asked).max();
            let Some(over) = since.map(|since| since + PATIENCE).filter(|over| *over > Instant::now()) else {
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
    async fn ratchets_wait_for_the_messages_that_moved_them() {
        let arrivals = Arrivals::default();
        assert!(arrivals.settled().now_or_never().is_some());
        arrivals.arrived("A");
        arrivals.arrived("B");
        let began = Instant::now();
        let mut settled = Box::pin(arrivals.settled());
        assert!(settled.as_mut().now_or_never().is_none());
        arrivals.noted("A");
        assert!(settled.as_mut().now_or_never().is_none());
        arrivals.noted("B");
        settled.await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_becomes_a_message_is_not_waited_for_long() {
        let arrivals = Arrivals::default();
        arrivals.arrived("A");
        let began = Instant::now();
        arrivals.settled().await;
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(arrivals.settled().now_or_never().is_some());
    }
}
