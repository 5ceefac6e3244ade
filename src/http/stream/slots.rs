//! The number of open streams, and their shutdown.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::http::error::ApiError;
use relevo_domain::ErrorKind;

/// All streams of the node. Cheap to clone.
#[derive(Clone)]
pub(in crate::http) struct StreamSlots {
    semaphore: Arc<Semaphore>,
    limit: usize,
    stopping: CancellationToken,
    tracker: TaskTracker,
}

/// One stream's place. It is counted until this is dropped.
pub(in crate::http) struct StreamSlot {
    _permit: OwnedSemaphorePermit,
    _open: TaskTrackerToken,
    stopping: CancellationToken,
}

impl StreamSlots {
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let (stopping, tracker) = (CancellationToken::new(), TaskTracker::new());
        Self { semaphore: Arc::new(Semaphore::new(limit)), limit, stopping, tracker }
    }

    /// A place for one more.
    ///
    /// # Errors
    ///
    /// 503 when there are as many as there may be, or the node stops.
    pub fn acquire(&self) -> Result<StreamSlot, ApiError> {
        let refused = |why: String| ApiError::new(ErrorKind::Unavailable, why);
        if self.stopping.is_cancelled() {
            return Err(refused("the node stops; come back when it is up again".to_owned()));
        }
        let full =
            |_| refused(format!("{} streams are open, which is http.max_streams; close one", self.limit));
        let permit = self.semaphore.clone().try_acquire_owned().map_err(full)?;
        Ok(StreamSlot { _permit: permit, _open: self.tracker.token(), stopping: self.stopping.clone() })
    }

    /// Asks every stream to end, and waits until the last has.
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
