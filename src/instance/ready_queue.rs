//! Leases that were asked for and have not begun.

use std::collections::VecDeque;

use crate::queue::{self, Lease, LeaseBatch};
use relevo_clock::Clock;
use relevo_domain::Class;

/// Leases on their way to the actor. An actor that ends drops its mailbox: what was in it has not begun and may go again
/// at once.
pub struct LeaseGrant {
    leased: Option<Result<LeaseBatch, queue::Error>>,
    queue: queue::Handle,
    clock: Clock,
}

impl LeaseGrant {
    pub(super) fn new(leased: Result<LeaseBatch, queue::Error>, queue: queue::Handle, clock: Clock) -> Self {
        Self { leased: Some(leased), queue, clock }
    }

    pub(super) fn into_result(mut self) -> Result<LeaseBatch, queue::Error> {
        self.leased.take().unwrap_or_else(|| Ok(LeaseBatch::default()))
    }
}

impl Drop for LeaseGrant {
    fn drop(&mut self) {
        if let Some(Ok(unwanted)) = self.leased.take() {
            for lease in unwanted.leases {
                let _ = self.queue.postpone(lease, self.clock.now());
            }
        }
    }
}

/// Leases whose attempts have not begun. Whoever waits for a transactional message waits for no bulk message that has
/// not begun.
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

    /// The class of the next to begin; a bulk message only when one may.
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
