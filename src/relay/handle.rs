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

/// How long the peer has to show that it is there, as in the documented system.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// So many frames are cleared in one commit. One may have three megabytes, like the webhook it was.
const COMMIT_BATCH: usize = 50;

/// The way to the relay. Cheap to clone; reading waits for no actor.
#[derive(Clone)]
pub struct Handle {
    store: Store,
    clock: Clock,
    frame_queue: FrameQueue,
    /// `None`: nothing is relayed.
    relay: Option<ActiveRelay>,
}

/// What leads to a relay that is on.
#[derive(Clone)]
pub(super) struct ActiveRelay {
    pub slot: ActorSlot<Msg>,
    pub relay: ActorSlot<actor::Msg>,
    pub peer: RelayPeer,
    pub retry_now: Arc<Notify>,
    pub capacity: u64,
}

/// How the relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayHealth {
    /// The peer took a connection just now.
    pub available: bool,
    /// There is somebody who pushes.
    pub running: bool,
    /// Frames that wait, the one in hand included.
    pub waiting: u64,
    /// There is room for more, and somebody who pushes.
    pub healthy: bool,
}

impl Handle {
    pub(super) fn disabled(store: Store, clock: Clock) -> Self {
        Self { store, clock, frame_queue: FrameQueue::disabled(), relay: None }
    }

    pub(super) fn new(store: Store, clock: Clock, frame_queue: FrameQueue, relay: ActiveRelay) -> Self {
        Self { store, clock, frame_queue, relay: Some(relay) }
    }

    /// Whether there is a peer to push to.
    pub fn is_enabled(&self) -> bool {
        self.relay.is_some()
    }

    /// Where inbound messages join the line.
    pub fn frame_queue(&self) -> FrameQueue {
        self.frame_queue.clone()
    }

    /// Frames that wait, the one in hand included.
    pub fn waiting(&self) -> Result<u64, Error> {
        Ok(storage::read_meta(|key| self.store.get(key))?.waiting)
    }

    /// When the first of the line joined it.
    pub fn oldest(&self) -> Result<Option<Timestamp>, Error> {
        Ok(storage::oldest(&self.store)?)
    }

    /// Connects to the peer to see whether it is there; takes up to 5 s.
    pub async fn health(&self) -> Result<RelayHealth, Error> {
        let waiting = self.waiting()?;
        let Some(relay) = &self.relay else { return Ok(RelayHealth { waiting, ..RelayHealth::default() }) };
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let available = match relay.peer.connect(deadline).await {
            Ok(mut line) => {
                // Whether it says goodbye is nobody's concern.
                let _ = line.close(deadline).await;
                true
            }
            Err(_) => false,
        };
        let running = relay.relay.get().is_some();
        Ok(RelayHealth { available, running, waiting, healthy: running && waiting < relay.capacity })
    }

    /// Puts an object at the end of the line as it is.
    ///
    /// # Errors
    ///
    /// Nothing is relayed, or the line is full.
    pub async fn push(&self, object: impl Serialize + Send + 'static) -> Result<(), Error> {
        self.require_enabled()?;
        let (intake, now) = (self.frame_queue.clone(), self.clock.now());
        Ok(self.store.write(move |tx| intake.push_json(tx, &object, now)).await?)
    }

    /// Takes out every frame that is in the line when this begins; one that is being pushed may arrive all the
    /// same. Works in small commits: when it fails half way, a part is gone.
    pub async fn clear(&self) -> Result<u64, Error> {
        let until = storage::read_meta(|key| self.store.get(key))?.last;
        let mut cleared = 0;
        loop {
            let taken = self.store.write(move |tx| storage::remove_first(tx, until, COMMIT_BATCH)).await?;
            if taken == 0 {
                return Ok(cleared);
            }
            cleared += taken;
        }
    }

    /// Ends the pause after a failed attempt.
    pub fn retry_now(&self) -> Result<(), Error> {
        self.require_enabled()?.retry_now.notify_waiters();
        Ok(())
    }

    /// Replaces whoever pushes. A frame in hand is pushed again.
    pub async fn restart(&self) -> Result<(), Error> {
        Ok(self.require_enabled()?.slot.call(Msg::Restart).await?)
    }

    /// Finishes the frame in hand, within `limit`, and pushes nothing more.
    pub async fn drain(&self, limit: Duration) {
        if let Some(relay) = &self.relay
            && tokio::time::timeout(limit, relay.slot.call(Msg::Drain)).await.is_err()
        {
            tracing::warn!(
                "the relay had a frame in hand at the end; it is pushed again after the next start"
            );
        }
    }

    fn require_enabled(&self) -> Result<&ActiveRelay, Error> {
        self.relay.as_ref().ok_or(Error::Disabled)
    }
}
