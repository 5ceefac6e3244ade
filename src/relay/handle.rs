//! The handle of the relay: its queue length, its health, and the commands of operators.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::supervisor::ActorSlot;
use relevo_clock::Clock;
use relevo_domain::Timestamp;
use relevo_store::Store;

use super::supervisor::Msg;
use super::websocket::RelayPeer;
use super::{Error, FrameQueue, actor, storage};

/// Timeout of the health check of the peer, as in the documented system.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of frames that one commit deletes. A frame can have three megabytes, as its webhook can.
const COMMIT_BATCH: usize = 50;

/// The handle of the relay. Cheap to clone. Reads do not wait for an actor.
#[derive(Clone)]
pub struct Handle {
    store: Store,
    clock: Clock,
    frame_queue: FrameQueue,
    /// `None` if the relay is disabled.
    relay: Option<ActiveRelay>,
}

/// The parts of an enabled relay.
#[derive(Clone)]
pub(super) struct ActiveRelay {
    pub slot: ActorSlot<Msg>,
    pub relay: ActorSlot<actor::Msg>,
    pub peer: RelayPeer,
    pub retry_now: Arc<Notify>,
    pub capacity: u64,
}

/// Result of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayHealth {
    /// The peer accepted a connection during the check.
    pub available: bool,
    /// The pusher runs.
    pub running: bool,
    /// Length of the queue, including the frame in flight.
    pub waiting: u64,
    /// The pusher runs, and the queue is below its capacity.
    pub healthy: bool,
}

impl Handle {
    pub(super) fn disabled(store: Store, clock: Clock) -> Self {
        Self { store, clock, frame_queue: FrameQueue::disabled(), relay: None }
    }

    pub(super) fn new(store: Store, clock: Clock, frame_queue: FrameQueue, relay: ActiveRelay) -> Self {
        Self { store, clock, frame_queue, relay: Some(relay) }
    }

    /// Whether `relay.url` is set.
    pub fn is_enabled(&self) -> bool {
        self.relay.is_some()
    }

    /// The producers' side of the queue.
    pub fn frame_queue(&self) -> FrameQueue {
        self.frame_queue.clone()
    }

    /// Length of the queue, including the frame in flight.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn waiting(&self) -> Result<u64, Error> {
        Ok(storage::read_meta(|key| self.store.get(key))?.waiting)
    }

    /// Time at which the oldest frame was queued; `None` if the queue is empty.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn oldest(&self) -> Result<Option<Timestamp>, Error> {
        Ok(storage::oldest(&self.store)?)
    }

    /// Checks the health of the relay. Connects to the peer, which takes up to 5 s.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn health(&self) -> Result<RelayHealth, Error> {
        let waiting = self.waiting()?;
        let Some(relay) = &self.relay else { return Ok(RelayHealth { waiting, ..RelayHealth::default() }) };
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let available = match relay.peer.connect(deadline).await {
            Ok(mut connection) => {
                // The check has succeeded, whether or not the peer answers the close.
                let _ = connection.close(deadline).await;
                true
            }
            Err(_) => false,
        };
        let running = relay.relay.get().is_some();
        Ok(RelayHealth { available, running, waiting, healthy: running && waiting < relay.capacity })
    }

    /// Appends an object to the queue unchanged.
    ///
    /// # Errors
    ///
    /// The relay is disabled, the queue is full, or the store failed.
    pub async fn push(&self, object: impl Serialize + Send + 'static) -> Result<(), Error> {
        self.require_enabled()?;
        let (frame_queue, now) = (self.frame_queue.clone(), self.clock.now());
        Ok(self.store.write(move |tx| frame_queue.push_json(tx, &object, now)).await?)
    }

    /// Deletes all frames that are queued when the call begins and returns their number. A frame in flight may still
    /// arrive. Works in small commits: a failure leaves the earlier batches deleted.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn clear(&self) -> Result<u64, Error> {
        let until = storage::read_meta(|key| self.store.get(key))?.last;
        let mut deleted = 0;
        loop {
            let count = self.store.write(move |tx| storage::remove_first(tx, until, COMMIT_BATCH)).await?;
            if count == 0 {
                return Ok(deleted);
            }
            deleted += count;
        }
    }

    /// Ends the delay after a failed attempt.
    ///
    /// # Errors
    ///
    /// The relay is disabled.
    pub fn retry_now(&self) -> Result<(), Error> {
        self.require_enabled()?.retry_now.notify_waiters();
        Ok(())
    }

    /// Replaces the actor of the relay. A frame in flight is pushed again.
    ///
    /// # Errors
    ///
    /// The relay is disabled, or its supervisor is not available.
    pub async fn restart(&self) -> Result<(), Error> {
        Ok(self.require_enabled()?.slot.call(Msg::Restart).await?)
    }

    /// Waits up to `limit` for the attempt in flight; no further attempt starts.
    pub async fn drain(&self, limit: Duration) {
        if let Some(relay) = &self.relay
            && tokio::time::timeout(limit, relay.slot.call(Msg::Drain)).await.is_err()
        {
            tracing::warn!("relay drain timed out; the frame in flight is pushed again after the next start");
        }
    }

    fn require_enabled(&self) -> Result<&ActiveRelay, Error> {
        self.relay.as_ref().ok_or(Error::Disabled)
    }
}
