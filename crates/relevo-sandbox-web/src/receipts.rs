//! Receipts: what they acknowledge to the server, and their recipients.

use std::sync::Arc;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{AddressingMode, DeviceId};
use crate::registry::{PhoneStanza, Registry};
use crate::server_state::ServerState;
use crate::stanza::{attr, children, jid_attr, optional_attr};

/// The recipients of a receipt, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReceiptTarget {
    /// All devices of the message's author: delivered, read, played.
    Author,
    /// The device that sent the message and must send it again.
    Sender,
    /// No device: the receipt informs the server that a device has the message.
    ServerOnly,
}

impl ReceiptTarget {
    fn from_type(kind: &str) -> Self {
        match kind {
            "" | "read" | "played" => Self::Author,
            "retry" => Self::Sender,
            // `inactive`: a device in the background has the message. The phone sends the receipt of the user.
            _ => Self::ServerOnly,
        }
    }
}

/// Handles a device's receipt: removes the messages from its queue and forwards the receipt to their author.
pub fn route_receipt(shared: &ServerState, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let mut phone_stanzas = Vec::new();
    let (id, kind) = (attr(stanza, "id"), attr(stanza, "type"));
    let Some(to) = jid_attr(stanza, "to").filter(|_| !id.is_empty()) else {
        tracing::info!("receipt without id or recipient; ignoring it");
        return phone_stanzas;
    };
    let mut registry = shared.registry();
    if let Some(device) = registry.directory.device_mut(from) {
        device.queue.remove_received(&id);
        for item in stanza.get_optional_child("list").map(children).unwrap_or_default() {
            device.queue.remove_received(&attr(item, "id"));
        }
    }
    registry.reply_to(from, receipt_ack(stanza, &to));
    if let Some((author, addressing)) = author(&registry, &to, stanza) {
        let target = ReceiptTarget::from_type(&kind);
        let numbers: Vec<u16> = match target {
            ReceiptTarget::Author => registry.directory.account(author.account).device_numbers().collect(),
            ReceiptTarget::Sender => vec![author.number],
            ReceiptTarget::ServerOnly => Vec::new(),
        };
        let forwarded = forwarded_receipt(&registry, from, stanza, &to, addressing, target, shared.seconds());
        for number in numbers {
            let device = DeviceId { account: author.account, number };
            if device != from {
                registry.deliver(device, Arc::clone(&forwarded), &mut phone_stanzas);
            }
        }
    }
    phone_stanzas
}

/// The device that sent the message, and the addressing mode in the receipt.
fn author(registry: &Registry, to: &Jid, stanza: &Node) -> Option<(DeviceId, AddressingMode)> {
    let author = if to.is_group() { jid_attr(stanza, "participant")? } else { to.clone() };
    Some((registry.directory.device_of(&author)?, AddressingMode::from_jid(&author)?))
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
    registry: &Registry,
    from: DeviceId,
    stanza: &Node,
    to: &Jid,
    addressing: AddressingMode,
    target: ReceiptTarget,
    seconds: u64,
) -> Arc<Node> {
    let reader = match target {
        ReceiptTarget::Sender => registry.directory.device_jid(from, addressing),
        ReceiptTarget::Author | ReceiptTarget::ServerOnly => {
            registry.directory.user_jid(from.account, addressing)
        }
    };
    let mut receipt = NodeBuilder::new("receipt").attr("id", attr(stanza, "id").as_ref()).attr("t", seconds);
    receipt = if to.is_group() {
        let alias = registry.directory.user_jid(from.account, addressing.other());
        let alias_key = match addressing {
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
