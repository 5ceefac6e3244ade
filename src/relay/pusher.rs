//! The pusher: pushes the head of the queue until the peer has read it, then the next frame.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use relevo_metrics::Metrics;
use relevo_store::{Error, Store, Tx};

use super::storage::{self, QueueHead};
use super::websocket::{PushError, PushOutcome, RelayConnection, RelayPeer};

/// Timeout of the close handshake when the node stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The pusher and what it needs.
#[derive(Clone)]
pub(super) struct Pusher {
    pub store: Store,
    pub metrics: Metrics,
    pub peer: RelayPeer,
    pub retry_delay: Duration,
    /// Signals that a frame may have been queued.
    pub frame_added: Arc<Notify>,
    /// Signals that the delay after a failed attempt ends.
    pub retry_now: Arc<Notify>,
}

/// State of the connection to the peer.
struct ConnectionState {
    connection: Option<Box<RelayConnection>>,
    /// Whether frames are confirmed by pings. False after the peer left a ping unanswered; a failed
    /// attempt resets it.
    use_pings: bool,
}

impl Pusher {
    /// Pushes frames until `stop` is cancelled; an attempt in flight is finished. Fails only if the store fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut state = ConnectionState { connection: None, use_pings: true };
        let mut head = self.read_head().await?;
        while !stop.is_cancelled() {
            let Some(first) = head else {
                state.wait_for_work(&self.frame_added, &stop).await;
                head = self.read_head().await?;
                continue;
            };
            match self.push_head(&mut state, &first).await {
                Ok(()) => {
                    self.metrics.record_relay_push("sent");
                    let remove_and_read = move |tx: &mut Tx| {
                        storage::remove(tx, first.order)?;
                        storage::head(tx)
                    };
                    head = self.store.write(remove_and_read).await?;
                }
                Err(error) => {
                    self.metrics.record_relay_push("failed");
                    let (order, attempt) = (first.order, first.attempts + 1);
                    tracing::warn!(order, attempt, %error, retry_in = ?self.retry_delay, "relay push failed; the frame is retried");
                    self.store.write(move |tx| storage::count_failure(tx, order)).await?;
                    tokio::select! {
                        () = tokio::time::sleep(self.retry_delay) => {}
                        () = self.retry_now.notified() => {}
                        () = stop.cancelled() => {}
                    }
                    // The queue may have been cleared meanwhile.
                    head = self.read_head().await?;
                }
            }
        }
        if let Some(mut connection) = state.connection {
            let _ = connection.close(tokio::time::Instant::now() + CLOSE_TIMEOUT).await;
        }
        Ok(())
    }

    /// Reads the head of the queue on the writer thread, after all changes that were signalled before.
    async fn read_head(&self) -> Result<Option<QueueHead>, Error> {
        self.store.write(|tx| storage::head(tx)).await
    }

    async fn push_head(&self, state: &mut ConnectionState, head: &QueueHead) -> Result<(), PushError> {
        let text = head.frame.to_text(head.attempts);
        if let Some(connection) = state.connection.take() {
            match connection.push(text.clone(), true, self.peer.deadline()).await {
                Ok(outcome) => {
                    state.update(outcome);
                    return Ok(());
                }
                // The connection may have ended before the frame was pushed, so this is not a failed attempt.
                Err(error @ (PushError::Broken | PushError::Closed(_))) => {
                    tracing::debug!(%error, "relay connection ended; reconnecting");
                }
                Err(error) => return Err(error),
            }
        }
        let deadline = self.peer.deadline();
        let use_pings = std::mem::replace(&mut state.use_pings, true);
        let connection = self.peer.connect(deadline).await?;
        state.update(connection.push(text, use_pings, deadline).await?);
        Ok(())
    }
}

impl ConnectionState {
    fn update(&mut self, outcome: PushOutcome) {
        match outcome {
            PushOutcome::KeepOpen(connection) => self.connection = Some(connection),
            PushOutcome::Closed => self.use_pings = false,
        }
    }

    /// Waits until a frame may have been queued, the connection has ended, or `stop` is cancelled.
    async fn wait_for_work(&mut self, frame_added: &Notify, stop: &CancellationToken) {
        let ended = async {
            match &mut self.connection {
                Some(connection) => connection.wait_until_closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = frame_added.notified() => {}
            () = stop.cancelled() => {}
            () = ended => self.connection = None,
        }
    }
}
