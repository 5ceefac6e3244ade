//! Leases that were asked for and have not begun.

use std::collections::VecDeque;

use crate::clock::Clock;
use crate::domain::Class;
use crate::queue::{self, Lease, Leased};

/// Leases on their way to the actor. An actor that ends drops its mailbox: what was in it has not begun and may go again
/// at once.
pub struct Offer {
    leased: Option<Result<Leased, queue::Error>>,
    queue: queue::Handle,
    clock: Clock,
}

impl Offer {
    pub(super) fn new(leased: Result<Leased, queue::Error>, queue: queue::Handle, clock: Clock) -> Self {
        Self { leased: Some(leased), queue, clock }
    }

    pub(super) fn take(mut self) -> Result<Leased, queue::Error> {
        self.leased.take().unwrap_or_else(|| Ok(Leased::default()))
    }
}

impl Drop for Offer {
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
pub(super) struct Ready {
    transactional: VecDeque<Lease>,
    bulk: VecDeque<Lease>,
}

impl Ready {
    pub fn len(&self) -> usize {
        self.transactional.len() + self.bulk.len()
    }

    pub fn bulk(&self) -> usize {
        self.bulk.len()
    }

    pub fn push(&mut self, lease: Lease) {
        match lease.id.class() {
            Class::Transactional => self.transactional.push_back(lease),
            Class::Bulk => self.bulk.push_back(lease),
        }
    }

    /// The next to begin; a bulk message only when one may.
    pub fn next(&mut self, bulk: bool) -> Option<Lease> {
        self.transactional.pop_front().or_else(|| if bulk { self.bulk.pop_front() } else { None })
    }
}
