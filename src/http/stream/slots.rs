//! The number of open streams, and their shutdown.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::http::error::ApiError;
use relevo_domain::ErrorKind;

/// The slots of all streams. Cheap to clone.
#[derive(Clone)]
pub(in crate::http) struct StreamSlots {
    semaphore: Arc<Semaphore>,
    limit: usize,
    stopping: CancellationToken,
    tracker: TaskTracker,
}

/// The slot of one stream; released on drop.
pub(in crate::http) struct StreamSlot {
    _permit: OwnedSemaphorePermit,
    _open: TaskTrackerToken,
    stopping: CancellationToken,
}

impl StreamSlots {
    /// Slots for up to `limit` streams.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let (stopping, tracker) = (CancellationToken::new(), TaskTracker::new());
        Self { semaphore: Arc::new(Semaphore::new(limit)), limit, stopping, tracker }
    }

    /// Takes a slot.
    ///
    /// # Errors
    ///
    /// 503 when all slots are taken, or the node stops.
    pub fn acquire(&self) -> Result<StreamSlot, ApiError> {
        let unavailable = |why: String| ApiError::new(ErrorKind::Unavailable, why);
        if self.stopping.is_cancelled() {
            return Err(unavailable("the node stops; reconnect later".to_owned()));
        }
        let full = |_| {
            unavailable(format!("{} streams are open, the limit http.max_streams; close one", self.limit))
        };
        let permit = self.semaphore.clone().try_acquire_owned().map_err(full)?;
        Ok(StreamSlot { _permit: permit, _open: self.tracker.token(), stopping: self.stopping.clone() })
    }

    /// Asks every stream to end, and waits until all have ended.
    pub async fn shut_down(&self) {
        self.stopping.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl StreamSlot {
    /// Resolves when the stream should end because the node stops.
    pub fn wait_for_shutdown(&self) -> WaitForCancellationFutureOwned {
        self.stopping.clone().cancelled_owned()
    }
}
