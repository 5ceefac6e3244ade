//! Leases whose attempts have not begun, one queue for each class.

use std::collections::VecDeque;

use crate::queue::Lease;
use relevo_domain::Class;

/// Leases whose attempts have not begun, in the order of their leases. Transactional messages go before bulk messages.
#[derive(Default)]
pub(super) struct ReadyQueue {
    transactional: VecDeque<Lease>,
    bulk: VecDeque<Lease>,
}

impl ReadyQueue {
    /// Number of ready transactional leases.
    pub fn transactional_len(&self) -> usize {
        self.transactional.len()
    }

    /// Number of ready bulk leases.
    pub fn bulk_len(&self) -> usize {
        self.bulk.len()
    }

    /// Adds a lease at the end of its class.
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

    /// Removes the oldest lease of a class.
    pub fn pop(&mut self, class: Class) -> Option<Lease> {
        match class {
            Class::Transactional => self.transactional.pop_front(),
            Class::Bulk => self.bulk.pop_front(),
        }
    }
}
