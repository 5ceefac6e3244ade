//! The one who pushes: the first of the line, again and again until it was read, then the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use relevo_metrics::Metrics;
use relevo_store::{Error, Store, Tx};

use super::line::{Line, Peer, Read, Trouble};
use super::storage::{self, Head};

/// How long the peer may take to say goodbye when the node stops.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Courier {
    pub store: Store,
    pub metrics: Metrics,
    pub peer: Peer,
    pub retry_delay: Duration,
    /// Told when a frame may have joined the line.
    pub arrived: Arc<Notify>,
    /// Told when a pause is to end.
    pub hurry: Arc<Notify>,
}

/// What is known about the way to the peer.
struct Road {
    line: Option<Box<Line>>,
    /// Whether the peer is asked by pings: until it leaves one unanswered.
    pings: bool,
}

impl Courier {
    /// Works until it is told to `stop`, and finishes the frame in hand. Fails only with the store.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut road = Road { line: None, pings: true };
        let mut head = self.look().await?;
        while !stop.is_cancelled() {
            let Some(first) = head else {
                road.rest(&self.arrived, &stop).await;
                head = self.look().await?;
                continue;
            };
            match self.attempt(&mut road, &first).await {
                Ok(()) => {
                    self.metrics.relayed("sent");
                    let work = move |tx: &mut Tx| {
                        storage::take(tx, first.order)?;
                        storage::head(tx)
                    };
                    head = self.store.write(work).await?;
                }
                Err(trouble) => {
                    self.metrics.relayed("failed");
                    let (order, attempt) = (first.order, first.attempts + 1);
                    tracing::warn!(order, attempt, %trouble, pause = ?self.retry_delay, "a frame could not be relayed");
                    self.store.write(move |tx| storage::count_failure(tx, order)).await?;
                    tokio::select! {
                        () = tokio::time::sleep(self.retry_delay) => {}
                        () = self.hurry.notified() => {}
                        () = stop.cancelled() => {}
                    }
                    // The line may have been cleared meanwhile.
                    head = self.look().await?;
                }
            }
        }
        if let Some(mut line) = road.line {
            let _ = line.close(tokio::time::Instant::now() + GOODBYE).await;
        }
        Ok(())
    }

    /// The first of the line. Read on the writer's thread, behind every change that was announced before.
    async fn look(&self) -> Result<Option<Head>, Error> {
        self.store.write(|tx| storage::head(tx)).await
    }

    async fn attempt(&self, road: &mut Road, head: &Head) -> Result<(), Trouble> {
        let text = head.frame.text(head.attempts);
        if let Some(line) = road.line.take() {
            match line.push(text.clone(), true, self.peer.deadline()).await {
                Ok(read) => {
                    road.note(read);
                    return Ok(());
                }
                // It may have ended before the frame reached the peer: that is no failure of the frame.
                Err(trouble @ (Trouble::Broken | Trouble::Closed(_))) => {
                    tracing::debug!(%trouble, "the relay's connection has ended; it is made anew");
                }
                Err(trouble) => return Err(trouble),
            }
        }
        let deadline = self.peer.deadline();
        let asked_by_pings = std::mem::replace(&mut road.pings, true);
        let line = self.peer.connect(deadline).await?;
        road.note(line.push(text, asked_by_pings, deadline).await?);
        Ok(())
    }
}

impl Road {
    fn note(&mut self, read: Read) {
        match read {
            Read::GoOn(line) => self.line = Some(line),
            Read::NoPings => self.pings = false,
        }
    }

    /// Waits until a frame may have arrived, or the connection has ended.
    async fn rest(&mut self, arrived: &Notify, stop: &CancellationToken) {
        let ended = async {
            match &mut self.line {
                Some(line) => line.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = arrived.notified() => {}
            () = stop.cancelled() => {}
            () = ended => self.line = None,
        }
    }
}
