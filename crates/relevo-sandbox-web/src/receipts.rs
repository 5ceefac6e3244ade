//! Receipts: what they acknowledge to the server, and to whom they are passed on.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{DeviceId, Naming};
use crate::hub::{Hub, Mail};
use crate::shared::Shared;
use crate::stanza::{attr, children, jid, maybe};

/// Who hears of a receipt, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// All devices of the message's author: delivered, read, played.
    Author,
    /// The one device that sent the message, and must send it again.
    Sender,
    /// Nobody: it only tells the server that a device has the message.
    Nobody,
}

impl Audience {
    fn of(kind: &str) -> Self {
        match kind {
            "" | "read" | "played" => Self::Author,
            "retry" => Self::Sender,
            // `inactive` says that a device has it that nobody is looking at; the phone says so for the user.
            _ => Self::Nobody,
        }
    }
}

/// Takes a device's receipt: the messages in it leave its line, and their author hears of it.
pub fn accept(shared: &Shared, from: DeviceId, stanza: &Node) -> Vec<Mail> {
    let mut mail = Vec::new();
    let (id, kind) = (attr(stanza, "id"), attr(stanza, "type"));
    let Some(to) = jid(stanza, "to").filter(|_| !id.is_empty()) else {
        tracing::info!("a receipt without id or recipient is passed over");
        return mail;
    };
    let mut hub = shared.hub();
    if let Some(device) = hub.directory.device_mut(from) {
        device.queue.received(&id);
        for item in stanza.get_optional_child("list").map(children).unwrap_or_default() {
            device.queue.received(&attr(item, "id"));
        }
    }
    hub.reply_to(from, acknowledgement(stanza, &to));
    if let Some((author, naming)) = author(&hub, &to, stanza) {
        let audience = Audience::of(&kind);
        let numbers: Vec<u16> = match audience {
            Audience::Author => hub.directory.account(author.account).numbers().collect(),
            Audience::Sender => vec![author.number],
            Audience::Nobody => Vec::new(),
        };
        let passed = passed_on(&hub, from, stanza, &to, naming, audience, shared.seconds());
        for number in numbers {
            let device = DeviceId { account: author.account, number };
            if device != from {
                hub.deliver(device, Arc::clone(&passed), &mut mail);
            }
        }
    }
    mail
}

/// The device that sent the message, and how it was called.
fn author(hub: &Hub, to: &Jid, stanza: &Node) -> Option<(DeviceId, Naming)> {
    let author = if to.is_group() { jid(stanza, "participant")? } else { to.clone() };
    Some((hub.directory.device_of(&author)?, Naming::of(&author)?))
}

fn acknowledgement(stanza: &Node, to: &Jid) -> Node {
    let mut ack = NodeBuilder::new("ack")
        .attr("class", "receipt")
        .attr("id", attr(stanza, "id").as_ref())
        .attr("from", to);
    for key in ["type", "participant"] {
        if let Some(value) = maybe(stanza, key) {
            ack = ack.attr(key, value.as_ref());
        }
    }
    ack.build()
}

fn passed_on(
    hub: &Hub,
    from: DeviceId,
    stanza: &Node,
    to: &Jid,
    naming: Naming,
    audience: Audience,
    seconds: u64,
) -> Arc<Node> {
    let reader = match audience {
        Audience::Sender => hub.directory.jid(from, naming),
        Audience::Author | Audience::Nobody => hub.directory.user(from.account, naming),
    };
    let mut receipt = NodeBuilder::new("receipt").attr("id", attr(stanza, "id").as_ref()).attr("t", seconds);
    receipt = if to.is_group() {
        let alias = hub.directory.user(from.account, naming.other());
        let alias_key = match naming {
            Naming::Lid => "participant_pn",
            Naming::PhoneNumber => "participant_lid",
        };
        receipt.attr("from", to).attr("participant", reader).attr(alias_key, alias)
    } else {
        receipt.attr("from", reader)
    };
    for key in ["type", "recipient", "category"] {
        if let Some(value) = maybe(stanza, key) {
            receipt = receipt.attr(key, value.as_ref());
        }
    }
    let parts = children(stanza);
    Arc::new(if parts.is_empty() { receipt.build() } else { receipt.children(parts.to_vec()).build() })
}
