//! Receipts: what they acknowledge to the server, and to whom they are passed on.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{AddressingMode, DeviceId};
use crate::registry::{PhoneStanza, Registry};
use crate::server_state::ServerState;
use crate::stanza::{attr, children, jid_attr, optional_attr};

/// Who hears of a receipt, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReceiptTarget {
    /// All devices of the message's author: delivered, read, played.
    Author,
    /// The one device that sent the message, and must send it again.
    Sender,
    /// Nobody: it only tells the server that a device has the message.
    ServerOnly,
}

impl ReceiptTarget {
    fn from_type(kind: &str) -> Self {
        match kind {
            "" | "read" | "played" => Self::Author,
            "retry" => Self::Sender,
            // `inactive` says that a device has it that nobody is looking at; the phone says so for the user.
            _ => Self::ServerOnly,
        }
    }
}

/// Takes a device's receipt: the messages in it leave its line, and their author hears of it.
pub fn route_receipt(shared: &ServerState, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let mut mail = Vec::new();
    let (id, kind) = (attr(stanza, "id"), attr(stanza, "type"));
    let Some(to) = jid_attr(stanza, "to").filter(|_| !id.is_empty()) else {
        tracing::info!("a receipt without id or recipient is passed over");
        return mail;
    };
    let mut hub = shared.registry();
    if let Some(device) = hub.directory.device_mut(from) {
        device.queue.remove_received(&id);
        for item in stanza.get_optional_child("list").map(children).unwrap_or_default() {
            device.queue.remove_received(&attr(item, "id"));
        }
    }
    hub.reply_to(from, receipt_ack(stanza, &to));
    if let Some((author, naming)) = author(&hub, &to, stanza) {
        let audience = ReceiptTarget::from_type(&kind);
        let numbers: Vec<u16> = match audience {
            ReceiptTarget::Author => hub.directory.account(author.account).device_numbers().collect(),
            ReceiptTarget::Sender => vec![author.number],
            ReceiptTarget::ServerOnly => Vec::new(),
        };
        let passed = forwarded_receipt(&hub, from, stanza, &to, naming, audience, shared.seconds());
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
fn author(hub: &Registry, to: &Jid, stanza: &Node) -> Option<(DeviceId, AddressingMode)> {
    let author = if to.is_group() { jid_attr(stanza, "participant")? } else { to.clone() };
    Some((hub.directory.device_of(&author)?, AddressingMode::from_jid(&author)?))
}

fn receipt_ack(stanza: &Node, to: &Jid) -> Node {
    let mut ack = NodeBuilder::new("ack")
        .attr("class", "receipt")
        .attr("id", attr(stanza, "id").as_ref())
        .attr("from", to);
    for key in ["type", "participant"] {
        if let Some(value) = optional_attr(stanza, key) {
            ack = ack.attr(key, value.as_ref());
        }
    }
    ack.build()
}

fn forwarded_receipt(
    hub: &Registry,
    from: DeviceId,
    stanza: &Node,
    to: &Jid,
    naming: AddressingMode,
    audience: ReceiptTarget,
    seconds: u64,
) -> Arc<Node> {
    let reader = match audience {
        ReceiptTarget::Sender => hub.directory.device_jid(from, naming),
        ReceiptTarget::Author | ReceiptTarget::ServerOnly => hub.directory.user_jid(from.account, naming),
    };
    let mut receipt = NodeBuilder::new("receipt").attr("id", attr(stanza, "id").as_ref()).attr("t", seconds);
    receipt = if to.is_group() {
        let alias = hub.directory.user_jid(from.account, naming.other());
        let alias_key = match naming {
            AddressingMode::Lid => "participant_pn",
            AddressingMode::PhoneNumber => "participant_lid",
        };
        receipt.attr("from", to).attr("participant", reader).attr(alias_key, alias)
    } else {
        receipt.attr("from", reader)
    };
    for key in ["type", "recipient", "category"] {
        if let Some(value) = optional_attr(stanza, key) {
            receipt = receipt.attr(key, value.as_ref());
        }
    }
    let parts = children(stanza);
    Arc::new(if parts.is_empty() { receipt.build() } else { receipt.children(parts.to_vec()).build() })
}
