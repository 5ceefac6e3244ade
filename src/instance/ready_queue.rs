//! Leases whose attempts have not begun.

use std::collections::VecDeque;

use crate::queue::{self, Lease, LeaseBatch};
use relevo_clock::Clock;
use relevo_domain::Class;

/// The result of a lease request on its way to the actor. An actor that ends drops its mailbox. Dropping a grant returns
/// its leases to the queue, because their attempts have not begun.
pub struct LeaseGrant {
    result: Option<Result<LeaseBatch, queue::Error>>,
    queue: queue::Handle,
    clock: Clock,
}

impl LeaseGrant {
    pub(super) fn new(result: Result<LeaseBatch, queue::Error>, queue: queue::Handle, clock: Clock) -> Self {
        Self { result: Some(result), queue, clock }
    }

    pub(super) fn into_result(mut self) -> Result<LeaseBatch, queue::Error> {
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

/// Leases whose attempts have not begun, in the order of their leases. Transactional messages go before bulk messages.
#[derive(Default)]
pub(super) struct ReadyQueue {
    transactional: VecDeque<Lease>,
    bulk: VecDeque<Lease>,
}

impl ReadyQueue {
    pub fn transactional_len(&self) -> usize {
        self.transactional.len()
    }

    pub fn bulk_len(&self) -> usize {
        self.bulk.len()
    }

    pub fn push(&mut self, lease: Lease) {
        match lease.id.class() {
            Class::Transactional => self.transactional.push_back(lease),
            Class::Bulk => self.bulk.push_back(lease),
        }
    }

    /// The class of the next attempt. `bulk`: a bulk message may begin.
    pub fn next_class(&self, bulk: bool) -> Option<Class> {
        match (self.transactional.is_empty(), self.bulk.is_empty()) {
            (false, _) => Some(Class::Transactional),
            (true, false) if bulk => Some(Class::Bulk),
            _ => None,
        }
    }

    pub fn pop(&mut self, class: Class) -> Option<Lease> {
        match class {
            Class::Transactional => self.transactional.pop_front(),
            Class::Bulk => self.bulk.pop_front(),
        }
    }
}
