//! The environment of the model: randomness, the queue, the instances and the clock.

use std::time::Duration;

use super::Model;
use crate::queue::ItemOutcome;
use relevo_domain::{BulkItem, InstanceState, MessageId, Status, Timestamp};

/// SplitMix64.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::try_from(self.below(values.len() as u64)).unwrap()]
    }
}

/// A message in the simulated queue.
pub(super) struct QueuedMessage {
    pub row: u32,
    pub expires_at: Option<Timestamp>,
    pub in_flight: bool,
}

impl Model {
    /// Withdraws messages without an attempt.
    pub(super) fn withdraw(&mut self, messages: &[MessageId]) {
        for id in messages {
            let is_waiting = self.messages.get(id).is_some_and(|message| !message.in_flight);
            if is_waiting {
                self.settle(*id, Status::Cancelled, false);
            }
        }
    }

    fn settle(&mut self, id: MessageId, status: Status, is_ambiguous: bool) {
        let Some(message) = self.messages.remove(&id) else { return };
        let outcome = ItemOutcome {
            item: BulkItem { job: 0, row: message.row },
            id,
            instance: id.instance(),
            status,
            at: self.now,
            provider_id: None,
            failure: None,
            ambiguous: is_ambiguous,
        };
        self.outcomes.insert(message.row, outcome);
    }

    /// Lets the queue expire messages, and instances attempt and finish some.
    pub(super) fn process_messages(&mut self) {
        let ids: Vec<_> = self.messages.keys().copied().collect();
        for id in ids {
            let Some(message) = self.messages.get_mut(&id) else { continue };
            if message.in_flight {
                if !self.is_favourable && self.random.one_in(3) {
                    continue;
                }
                let row = message.row as usize;
                let outcome = if self.is_favourable { 0 } else { self.random.below(10) };
                match outcome {
                    0..8 => {
                        self.sent[row] += 1;
                        self.settle(id, Status::Sent, false);
                    }
                    8 => self.settle(id, Status::DeadLetter, false),
                    _ => self.settle(id, Status::DeadLetter, true),
                }
            } else if message.expires_at.is_some_and(|expires_at| expires_at <= self.now) {
                self.settle(id, Status::Expired, false);
            } else {
                let instance = self.instances.iter().find(|instance| instance.number == id.instance());
                let is_connected = instance.is_some_and(|found| found.state == InstanceState::Connected);
                message.in_flight = is_connected && (self.is_favourable || self.random.one_in(2));
            }
        }
    }

    /// Advances the clock: to the next round, or by less.
    pub(super) fn advance(&mut self, due: Option<Duration>) {
        let due = due.unwrap_or(Duration::from_secs(1));
        let step =
            if self.is_favourable { due } else { due.mul_f64(self.random.pick(&[0.1, 1.0, 1.0, 1.5])) };
        self.now = self.now + step;
        if self.random.one_in(if self.is_favourable { 60 } else { 15 }) {
            self.now = self.now + Duration::from_secs(60 * self.random.below(600));
        }
    }

    pub(super) fn change_instance(&mut self) {
        let index = usize::try_from(self.random.below(4)).unwrap();
        let state = self.random.pick(&[
            InstanceState::Connected,
            InstanceState::Connected,
            InstanceState::Connecting,
            InstanceState::Disconnected,
            InstanceState::LoggedOut,
        ]);
        self.instances[index].state = state;
    }
}
