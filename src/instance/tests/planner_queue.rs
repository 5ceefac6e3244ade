//! A model of the queue for the send planner: lanes, due times and the order of leases.

use std::collections::{HashMap, HashSet};

use super::planner::lease;
use crate::queue::LeaseBatch;
use relevo_domain::{Class, InstanceNumber, MessageId, Timestamp};

/// A message that waits in the queue.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    id: MessageId,
    /// It was leased before and waits for this time.
    due: Option<Timestamp>,
}

/// The messages of one instance.
#[derive(Default)]
pub struct ModelQueue {
    /// Recipient of every accepted message.
    accepted: HashMap<MessageId, u8>,
    waiting: Vec<Waiting>,
    /// Lanes with a live lease: each has one at most.
    busy: HashSet<(Class, u8)>,
    turn: u64,
    ended: HashSet<MessageId>,
}

impl ModelQueue {
    pub fn accept(&mut self, class: Class, to: u8, now: Timestamp) -> MessageId {
        let number = u64::try_from(self.accepted.len()).unwrap();
        let id = MessageId::new(now, 0, InstanceNumber::FIRST, class, number);
        self.accepted.insert(id, to);
        self.waiting.push(Waiting { id, due: None });
        id
    }

    /// Ends a lease; the message waits again, if there is a due time.
    pub fn settle(&mut self, id: MessageId, due: Option<Timestamp>) {
        assert!(self.busy.remove(&self.lane(id)), "{id} is not leased");
        match due {
            // A returned message is the first of its lane.
            Some(due) => self.waiting.insert(0, Waiting { id, due: Some(due) }),
            None => assert!(self.ended.insert(id), "{id} ended twice"),
        }
    }

    pub fn assert_all_ended(&self) {
        assert_eq!(self.ended.len(), self.accepted.len(), "left behind: {:?}", self.waiting);
    }

    pub fn recipient(&self, id: MessageId) -> u8 {
        self.accepted[&id]
    }

    fn lane(&self, id: MessageId) -> (Class, u8) {
        (id.class(), self.accepted[&id])
    }

    /// Leases messages as `queue::dispatch` does: transactional before bulk, except every fifth.
    pub fn lease(&mut self, max: usize, max_bulk: usize, now: Timestamp) -> LeaseBatch {
        let mut batch = LeaseBatch::default();
        let mut bulk_left = max_bulk;
        while batch.leases.len() < max {
            let mut order = Class::ALL;
            if self.turn % 5 == 4 {
                order.reverse();
            }
            let found = order.into_iter().find_map(|class| {
                if class == Class::Bulk && bulk_left == 0 { None } else { self.first_of(class, now) }
            });
            let Some(place) = found else { break };
            let id = self.waiting.remove(place).id;
            bulk_left -= usize::from(id.class() == Class::Bulk);
            self.busy.insert(self.lane(id));
            self.turn += 1;
            batch.leases.push(lease(id, self.accepted[&id], now));
        }
        let skips_bulk = bulk_left == 0 && max_bulk < max;
        let waits = self.waiting.iter().filter(|waiting| {
            let is_free = !self.busy.contains(&self.lane(waiting.id));
            is_free && !(waiting.id.class() == Class::Bulk && skips_bulk)
        });
        batch.next_due = waits.filter_map(|waiting| waiting.due).min();
        batch
    }

    fn first_of(&self, class: Class, now: Timestamp) -> Option<usize> {
        let mut lanes = HashSet::new();
        self.waiting.iter().position(|waiting| {
            let lane = self.lane(waiting.id);
            let is_head = lanes.insert(lane);
            let is_due = waiting.due.is_none_or(|due| due <= now);
            waiting.id.class() == class && is_head && is_due && !self.busy.contains(&lane)
        })
    }
}
