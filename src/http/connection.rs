//! What a request can do about the connection that it came on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// One connection, as the extension of each of its requests. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<Inside>);

struct Inside {
    /// Its place among those that are served at once, until it is given back.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    cut: CancellationToken,
}

impl Connection {
    pub fn new(place: OwnedSemaphorePermit, cut: CancellationToken) -> Self {
        Self(Arc::new(Inside { place: Mutex::new(Some(place)), cut }))
    }

    /// Lets another connection have the place of this one, which goes on as a stream that is counted elsewhere.
    pub fn give_place_back(&self) {
        drop(self.0.place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends the connection in the middle of whatever it does.
    pub fn cut(&self) {
        self.0.cut.cancel();
    }

    /// Does some of the connection's work, until it is cut.
    pub async fn until_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.cut.run_until_cancelled(work).await
    }
}
