//! The one who pushes: the first of the line, again and again until it was read, then the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use relevo_metrics::Metrics;
use relevo_store::{Error, Store, Tx};

use super::storage::{self, QueueHead};
use super::websocket::{PushError, PushOutcome, RelayConnection, RelayPeer};

/// How long the peer may take to say goodbye when the node stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Pusher {
    pub store: Store,
    pub metrics: Metrics,
    pub peer: RelayPeer,
    pub retry_delay: Duration,
    /// Told when a frame may have joined the line.
    pub frame_added: Arc<Notify>,
    /// Told when a pause is to end.
    pub retry_now: Arc<Notify>,
}

/// What is known about the way to the peer.
struct ConnectionState {
    connection: Option<Box<RelayConnection>>,
    /// Whether the peer is asked by pings: until it leaves one unanswered.
    use_pings: bool,
}

impl Pusher {
    /// Works until it is told to `stop`, and finishes the frame in hand. Fails only with the store.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut road = ConnectionState { connection: None, use_pings: true };
        let mut head = self.read_head().await?;
        while !stop.is_cancelled() {
            let Some(first) = head else {
                road.wait_for_work(&self.frame_added, &stop).await;
                head = self.read_head().await?;
                continue;
            };
            match self.push_head(&mut road, &first).await {
                Ok(()) => {
                    self.metrics.record_relay_push("sent");
                    let work = move |tx: &mut Tx| {
                        storage::remove(tx, first.order)?;
                        storage::head(tx)
                    };
                    head = self.store.write(work).await?;
                }
                Err(trouble) => {
                    self.metrics.record_relay_push("failed");
                    let (order, attempt) = (first.order, first.attempts + 1);
                    tracing::warn!(order, attempt, %trouble, pause = ?self.retry_delay, "a frame could not be relayed");
                    self.store.write(move |tx| storage::count_failure(tx, order)).await?;
                    tokio::select! {
                        () = tokio::time::sleep(self.retry_delay) => {}
                        () = self.retry_now.notified() => {}
                        () = stop.cancelled() => {}
                    }
                    // The line may have been cleared meanwhile.
                    head = self.read_head().await?;
                }
            }
        }
        if let Some(mut line) = road.connection {
            let _ = line.close(tokio::time::Instant::now() + CLOSE_TIMEOUT).await;
        }
        Ok(())
    }

    /// The first of the line. Read on the writer's thread, behind every change that was announced before.
    async fn read_head(&self) -> Result<Option<QueueHead>, Error> {
        self.store.write(|tx| storage::head(tx)).await
    }

    async fn push_head(&self, road: &mut ConnectionState, head: &QueueHead) -> Result<(), PushError> {
        let text = head.frame.to_text(head.attempts);
        if let Some(line) = road.connection.take() {
            match line.push(text.clone(), true, self.peer.deadline()).await {
                Ok(read) => {
                    road.update(read);
                    return Ok(());
                }
                // It may have ended before the frame reached the peer: that is no failure of the frame.
                Err(trouble @ (PushError::Broken | PushError::Closed(_))) => {
                    tracing::debug!(%trouble, "the relay's connection has ended; it is made anew");
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let deadline = self.peer.deadline();
        let asked_by_pings = std::mem::replace(&mut road.use_pings, true);
        let line = self.peer.connect(deadline).await?;
        road.update(line.push(text, asked_by_pings, deadline).await?);
        Ok(())
    }
}

impl ConnectionState {
    fn update(&mut self, read: PushOutcome) {
        match read {
            PushOutcome::KeepOpen(line) => self.connection = Some(line),
            PushOutcome::Closed => self.use_pings = false,
        }
    }

    /// Waits until a frame may have arrived, or the connection has ended.
    async fn wait_for_work(&mut self, arrived: &Notify, stop: &CancellationToken) {
        let ended = async {
            match &mut self.connection {
                Some(line) => line.wait_until_closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = arrived.notified() => {}
            () = stop.cancelled() => {}
            () = ended => self.connection = None,
        }
    }
}
