//! The queue of a device: unacknowledged stanzas, which are delivered again after every login.

use std::collections::VecDeque;
use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::node::Node;

use crate::stanza::{attr, optional_attr};

/// Maximum number of stanzas in a queue; further ones are dropped.
pub const QUEUE_LIMIT: usize = 20_000;

/// A stanza with its sequence number.
#[derive(Debug)]
struct QueuedStanza {
    sequence: u64,
    stanza: Arc<Node>,
}

/// Messages, receipts and notifications for a device, in order of arrival.
#[derive(Debug, Default)]
pub struct DeviceQueue {
    last: u64,
    pending: VecDeque<QueuedStanza>,
    /// A message that a fault holds back until another message has been queued.
    delayed: Option<Arc<Node>>,
}

impl DeviceQueue {
    /// Queues a stanza; false when the queue is full.
    pub fn push(&mut self, stanza: Arc<Node>) -> bool {
        if self.pending.len() >= QUEUE_LIMIT {
            return false;
        }
        self.append(stanza);
        if let Some(delayed) = self.delayed.take() {
            self.append(delayed);
        }
        true
    }

    /// Queues a stanza after the next one.
    pub fn push_delayed(&mut self, stanza: Arc<Node>) {
        match self.delayed.replace(stanza) {
            None => {}
            Some(earlier) => self.append(earlier),
        }
    }

    fn append(&mut self, stanza: Arc<Node>) {
        self.last += 1;
        self.pending.push_back(QueuedStanza { sequence: self.last, stanza });
    }

    /// The first stanza after `order`, with its own sequence number.
    pub fn after(&self, order: u64) -> Option<(u64, &Arc<Node>)> {
        let start = self.pending.partition_point(|pending| pending.sequence <= order);
        self.pending.get(start).map(|pending| (pending.sequence, &pending.stanza))
    }

    /// The sequence number of the last stanza.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Number of stanzas.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Number of stanzas with this tag.
    pub fn count(&self, tag: &str) -> usize {
        self.pending.iter().filter(|pending| pending.stanza.tag == tag).count()
    }

    /// Removes the message with this id, which a receipt of the device has confirmed.
    pub fn remove_received(&mut self, id: &str) {
        self.remove(|stanza| stanza.tag == "message" && attr(stanza, "id") == id);
    }

    /// Removes the stanza that an `<ack>` acknowledges: same class, id and type, and participant if it has one.
    pub fn remove_acknowledged(&mut self, ack: &Node) {
        let class = attr(ack, "class");
        let same = |stanza: &Node| {
            stanza.tag == class
                && attr(stanza, "id") == attr(ack, "id")
                && (class == "message" || attr(stanza, "type") == attr(ack, "type"))
        };
        let participant = optional_attr(ack, "participant");
        let exact = |stanza: &Node| {
            same(stanza) && participant.is_some() && optional_attr(stanza, "participant") == participant
        };
        if !self.remove(exact) {
            self.remove(same);
        }
    }

    fn remove(&mut self, wanted: impl Fn(&Node) -> bool) -> bool {
        let found = self.pending.iter().position(|pending| wanted(&pending.stanza));
        found.and_then(|index| self.pending.remove(index)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;

    use super::*;

    fn message(id: &str) -> Arc<Node> {
        Arc::new(NodeBuilder::new("message").attr("id", id).build())
    }

    fn ids(queue: &DeviceQueue) -> Vec<String> {
        queue.pending.iter().map(|pending| attr(&pending.stanza, "id").into_owned()).collect()
    }

    #[test]
    fn received_message_is_removed_and_order_is_kept() {
        let mut queue = DeviceQueue::default();
        for id in ["a", "b", "c"] {
            assert!(queue.push(message(id)));
        }
        queue.remove_received("b");
        assert_eq!(ids(&queue), ["a", "c"]);
        assert_eq!(queue.after(1).map(|(order, _)| order), Some(3));
        assert!(queue.after(3).is_none());
    }

    #[test]
    fn delayed_message_follows_the_next_one() {
        let mut queue = DeviceQueue::default();
        queue.push_delayed(message("first"));
        assert_eq!(queue.len(), 0);
        queue.push(message("second"));
        assert_eq!(ids(&queue), ["second", "first"]);
    }

    #[test]
    fn ack_removes_the_receipt_of_its_type_and_participant() {
        let mut queue = DeviceQueue::default();
        let receipt = |kind: &str, who: &str| {
            let node =
                NodeBuilder::new("receipt").attr("id", "m").attr("type", kind).attr("participant", who);
            Arc::new(node.build())
        };
        for (kind, who) in [("read", "1@lid"), ("read", "2@lid"), ("played", "2@lid")] {
            queue.push(receipt(kind, who));
        }
        let ack = NodeBuilder::new("ack").attr("class", "receipt").attr("id", "m").attr("type", "read");
        queue.remove_acknowledged(&ack.attr("participant", "2@lid").build());
        let left: Vec<_> =
            queue.pending.iter().map(|p| (attr(&p.stanza, "type"), attr(&p.stanza, "participant"))).collect();
        assert_eq!(left, [("read".into(), "1@lid".into()), ("played".into(), "2@lid".into())]);
    }
}
