//! What a request can do about the connection that it came on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// One connection, as the extension of each of its requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inner>);

struct Inner {
    /// Its place among those that are served at once, until it is given back.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
    abort_token: CancellationToken,
}

impl Connection {
    pub fn new(place: OwnedSemaphorePermit, cut: CancellationToken) -> Self {
        Self(Arc::new(Inner { slot: Mutex::new(Some(place)), abort_token: cut }))
    }

    /// Lets another connection have the place of this one, which goes on as a stream that is counted elsewhere.
    pub fn release_slot(&self) {
        drop(self.0.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends the connection in the middle of whatever it does.
    pub fn abort(&self) {
        self.0.abort_token.cancel();
    }

    /// Does some of the connection's work, until it is cut.
    pub async fn run_until_aborted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.abort_token.run_until_cancelled(work).await
    }
}
