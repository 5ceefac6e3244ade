//! The connection that a request came on, as its handler can control it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// One connection; an extension of each of its requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    /// The connection slot, until it is released.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
    abort_token: CancellationToken,
}

impl Connection {
    /// A connection that holds `slot` and ends when `abort_token` is cancelled.
    pub fn new(slot: OwnedSemaphorePermit, abort_token: CancellationToken) -> Self {
        Self(Arc::new(Inner { slot: Mutex::new(Some(slot)), abort_token }))
    }

    /// Releases the connection slot. The connection continues as a stream, which
    /// [`StreamSlots`](super::stream::slots::StreamSlots) counts.
    pub fn release_slot(&self) {
        drop(self.0.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Aborts the connection, even in the middle of a response.
    pub fn abort(&self) {
        self.0.abort_token.cancel();
    }

    /// Runs `work` until it ends or the connection is aborted.
    pub async fn run_until_aborted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.abort_token.run_until_cancelled(work).await
    }
}
