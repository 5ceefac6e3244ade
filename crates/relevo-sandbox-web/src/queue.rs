//! What a device has not yet acknowledged. It is delivered again on every login until it is.

use std::collections::VecDeque;
use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::node::Node;

use crate::stanza::{attr, maybe};

/// Stanzas that wait for one device at most; later ones are not taken.
pub const QUEUE_LIMIT: usize = 20_000;

/// A stanza with its place in the line.
#[derive(Debug)]
struct Pending {
    order: u64,
    stanza: Arc<Node>,
}

/// A device's line: messages, receipts and notifications in the order in which they reached the server.
#[derive(Debug, Default)]
pub struct Queue {
    last: u64,
    pending: VecDeque<Pending>,
    /// A message that a fault keeps back until another one overtakes it.
    held: Option<Arc<Node>>,
}

impl Queue {
    /// Takes a stanza in; false when the line is full.
    pub fn push(&mut self, stanza: Arc<Node>) -> bool {
        if self.pending.len() >= QUEUE_LIMIT {
            return false;
        }
        self.append(stanza);
        if let Some(held) = self.held.take() {
            self.append(held);
        }
        true
    }

    /// Takes a stanza in behind whatever comes next.
    pub fn hold(&mut self, stanza: Arc<Node>) {
        match self.held.replace(stanza) {
            None => {}
            Some(earlier) => self.append(earlier),
        }
    }

    fn append(&mut self, stanza: Arc<Node>) {
        self.last += 1;
        self.pending.push_back(Pending { order: self.last, stanza });
    }

    /// The first stanza behind `order`, with its own order.
    pub fn after(&self, order: u64) -> Option<(u64, &Arc<Node>)> {
        let start = self.pending.partition_point(|pending| pending.order <= order);
        self.pending.get(start).map(|pending| (pending.order, &pending.stanza))
    }

    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// How many of each kind wait.
    pub fn count(&self, tag: &str) -> usize {
        self.pending.iter().filter(|pending| pending.stanza.tag == tag).count()
    }

    /// Takes the message with this id out of the line. A device says so with a receipt.
    pub fn received(&mut self, id: &str) {
        self.remove(|stanza| stanza.tag == "message" && attr(stanza, "id") == id);
    }

    /// Takes out what an `<ack>` acknowledges: same class, id and type; the participant where it names one.
    pub fn acknowledged(&mut self, ack: &Node) {
        let class = attr(ack, "class");
        let same = |stanza: &Node| {
            stanza.tag == class
                && attr(stanza, "id") == attr(ack, "id")
                && (class == "message" || attr(stanza, "type") == attr(ack, "type"))
        };
        let participant = maybe(ack, "participant");
        let exact = |stanza: &Node| {
            same(stanza) && participant.is_some() && maybe(stanza, "participant") == participant
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

    fn ids(queue: &Queue) -> Vec<String> {
        queue.pending.iter().map(|pending| attr(&pending.stanza, "id").into_owned()).collect()
    }

    #[test]
    fn what_was_received_leaves_and_the_rest_keeps_its_order() {
        let mut queue = Queue::default();
        for id in ["a", "b", "c"] {
            assert!(queue.push(message(id)));
        }
        queue.received("b");
        assert_eq!(ids(&queue), ["a", "c"]);
        assert_eq!(queue.after(1).map(|(order, _)| order), Some(3));
        assert!(queue.after(3).is_none());
    }

    #[test]
    fn a_held_message_comes_behind_the_next() {
        let mut queue = Queue::default();
        queue.hold(message("first"));
        assert_eq!(queue.len(), 0);
        queue.push(message("second"));
        assert_eq!(ids(&queue), ["second", "first"]);
    }

    #[test]
    fn an_ack_takes_the_receipt_of_its_type_and_participant() {
        let mut queue = Queue::default();
        let receipt = |kind: &str, who: &str| {
            let node =
                NodeBuilder::new("receipt").attr("id", "m").attr("type", kind).attr("participant", who);
            Arc::new(node.build())
        };
        for (kind, who) in [("read", "1@lid"), ("read", "2@lid"), ("played", "2@lid")] {
            queue.push(receipt(kind, who));
        }
        let ack = NodeBuilder::new("ack").attr("class", "receipt").attr("id", "m").attr("type", "read");
        queue.acknowledged(&ack.attr("participant", "2@lid").build());
        let left: Vec<_> =
            queue.pending.iter().map(|p| (attr(&p.stanza, "type"), attr(&p.stanza, "participant"))).collect();
        assert_eq!(left, [("read".into(), "1@lid".into()), ("played".into(), "2@lid".into())]);
    }
}
