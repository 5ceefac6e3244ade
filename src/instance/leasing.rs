//! The actor's side of leasing: forwards nudges from the queue, sends the planner's lease requests to the queue, and returns
//! leases that an ended actor did not receive.

use std::sync::Arc;

use ractor::ActorRef;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::queue::{self, Lease, LeaseBatch};
use relevo_clock::Clock;
use relevo_domain::{Class, Timestamp};

use super::actor::{Msg, State};
use super::planner::Capacity;

/// Forwards the nudges of one class to the actor. The mailbox holds at most one nudge per class.
pub(super) async fn forward_nudges(mut nudges: watch::Receiver<()>, class: Class, actor: ActorRef<Msg>) {
    let permits = Arc::new(Semaphore::new(1));
    while let Ok(permit) = permits.clone().acquire_owned().await
        && nudges.changed().await.is_ok()
        && actor.cast(Msg::Nudged(class, permit)).is_ok()
    {}
}

/// The result of a lease request on its way to the actor. An actor that ends drops its mailbox. Dropping a grant returns
/// its leases to the queue, because their attempts have not begun.
pub struct LeaseGrant {
    result: Option<Result<LeaseBatch, queue::Error>>,
    queue: queue::Handle,
    clock: Clock,
}

impl LeaseGrant {
    fn new(result: Result<LeaseBatch, queue::Error>, queue: queue::Handle, clock: Clock) -> Self {
        Self { result: Some(result), queue, clock }
    }

    fn into_result(mut self) -> Result<LeaseBatch, queue::Error> {
        self.result.take().unwrap_or_else(|| Ok(LeaseBatch::default()))
    }
}

impl Drop for LeaseGrant {
    fn drop(&mut self) {
        if let Some(Ok(batch)) = self.result.take() {
            for lease in batch.leases {
                let _ = self.queue.postpone(lease, self.clock.now());
            }
        }
    }
}

impl State {
    /// Requests leases from the queue, in a task.
    pub(super) fn request_leases(&self, request: Capacity) {
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let (clock, ended) = (self.arguments.clock, self.arguments.supervisor_ended.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let Capacity { total, bulk, priority } = request;
            let lease = queue.lease_with_priority(priority, number, total, bulk);
            let Some(result) = ended.run_until_cancelled(lease).await else { return };
            let _ = me.cast(Msg::Leased(LeaseGrant::new(result, queue, clock), request, started.elapsed()));
        });
    }

    /// Asks the queue for the next transactional message. The request is sent now; a task waits for its completion.
    pub(super) fn await_next_lease(&self) {
        let (queue, number, me) = (self.arguments.queue.clone(), self.arguments.number, self.me.clone());
        let (clock, next) = (self.arguments.clock, queue.lease_next(number));
        tokio::spawn(async move {
            let _ = me.cast(Msg::NextLease(LeaseGrant::new(next.await, queue, clock)));
        });
    }

    /// Withdraws the request for the next message.
    pub(super) fn cancel_next_lease(&self) {
        let _ = self.arguments.queue.cancel_lease_next(self.arguments.number);
    }

    /// Returns a lease to the queue; its message may be leased again at `until`.
    pub(super) fn return_lease(&self, lease: Lease, until: Timestamp) {
        let _ = self.arguments.queue.postpone(lease, until);
    }

    /// The leases of a grant; `None` after an error, which is logged.
    pub(super) fn batch_of(&self, grant: LeaseGrant) -> Option<LeaseBatch> {
        match grant.into_result() {
            Ok(batch) => Some(batch),
            Err(error) => {
                tracing::warn!(instance = %self.arguments.config.id, %error, "lease request failed; retrying in one second");
                None
            }
        }
    }
}
