//! Stanzas of a device that is logged in, on their way to others: messages here, receipts in `receipts`, typing
//! and presence at the end. Phones come through the same door as linked devices.

use std::sync::Arc;
use std::time::Duration;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::{Node, NodeContent};
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{AccountId, AddressingMode, DeviceId};
use crate::faults::{Fault, FaultStage};
use crate::groups;
use crate::journal::MessageArrival;
use crate::receipts;
use crate::registry::{ConnectionId, PhoneStanza, Registry};
use crate::server_state::ServerState;
use crate::stanza::{attr, children, jid_attr, optional_attr};

/// Code of a refusal to those who write where they do not belong. Source: WhatsApp, `403 forbidden`.
const FORBIDDEN: u16 = 403;

/// Code of a refusal for an address behind which there is nobody.
const NOT_FOUND: u16 = 404;

/// Takes a stanza of a device. What phones get of it is for the caller to hand out.
pub fn route_stanza(shared: &Arc<ServerState>, from: DeviceId, stanza: Node) -> Vec<PhoneStanza> {
    match stanza.tag.as_ref() {
        "message" => route_message(shared, from, &stanza),
        "receipt" => receipts::route_receipt(shared, from, &stanza),
        "ack" => {
            if let Some(device) = shared.registry().directory.device_mut(from) {
                device.queue.remove_acknowledged(&stanza);
            }
            Vec::new()
        }
        "chatstate" => route_chat_state(shared, from, &stanza),
        "presence" => route_presence(shared, from, &stanza),
        // How far the client is with what had waited; all of that is sent anyway.
        "ib" => Vec::new(),
        tag => {
            tracing::debug!(stanza = tag, "the sandbox's WhatsApp Web does not know this stanza");
            Vec::new()
        }
    }
}

/// A message: refused, or journaled, delivered and acknowledged, with whatever faults strike it.
fn route_message(shared: &Arc<ServerState>, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let id = attr(stanza, "id");
    let Some(to) = jid_attr(stanza, "to").filter(|_| !id.is_empty()) else {
        tracing::info!("a message without id or recipient is passed over");
        return Vec::new();
    };
    let mut hub = shared.registry();
    let link = hub.directory.device(from).and_then(|device| device.connection);
    let fault = trigger_fault(shared, &hub, FaultStage::Message, from);
    match (&fault, link) {
        (Some(Fault::CutBefore), Some(link)) => {
            hub.cut(link);
            return Vec::new();
        }
        (Some(Fault::Mute), Some(link)) => {
            hub.mute(link, true);
            return Vec::new();
        }
        _ => {}
    }
    let refused = match fault {
        Some(Fault::Nack { code }) => Some(code),
        _ => refusal_code(&hub, from, &to),
    };
    record_in_journal(shared, &hub, from, stanza, &to, refused);
    let mut mail = Vec::new();
    let mut ack = message_ack(stanza, &to, shared.seconds());
    match refused {
        Some(code) => ack = ack.attr("error", code),
        None => {
            ack = groups::with_participant_hash(&hub, from, stanza, &to, ack);
            let envelope = MessageFanout::new(&hub, from, stanza, &to, shared.seconds());
            envelope.send(shared, &mut hub, &mut mail);
        }
    }
    if let Some(link) = link {
        send_ack(shared, &mut hub, link, ack.build(), fault);
    }
    mail
}

fn refusal_code(hub: &Registry, from: DeviceId, to: &Jid) -> Option<u16> {
    if to.is_group() {
        let Some(group) = hub.groups.get(to.user.as_str()) else { return Some(NOT_FOUND) };
        return (!group.is_member(from.account)).then_some(FORBIDDEN);
    }
    let user = AddressingMode::from_jid(to).is_some();
    (user && hub.directory.account_of(to).is_none()).then_some(NOT_FOUND)
}

/// Whether a message is one of those that an account's devices exchange without their user.
fn is_peer_message(stanza: &Node) -> bool {
    optional_attr(stanza, "category").is_some_and(|category| category == "peer")
}

fn record_in_journal(
    shared: &ServerState,
    hub: &Registry,
    sender: DeviceId,
    stanza: &Node,
    to: &Jid,
    refused: Option<u16>,
) {
    let arrival = MessageArrival {
        sender,
        id: &attr(stanza, "id"),
        from: &hub.directory.device_jid(sender, AddressingMode::PhoneNumber).to_string(),
        to: &to.to_non_ad_string(),
        kind: &attr(stanza, "type"),
        edit: &attr(stanza, "edit"),
        at: shared.clock.now(),
    };
    shared.journal.record_received(arrival, refused);
}

fn message_ack(stanza: &Node, to: &Jid, seconds: u64) -> NodeBuilder {
    let ack = NodeBuilder::new("ack")
        .attr("class", "message")
        .attr("id", attr(stanza, "id").as_ref())
        .attr("from", to)
        .attr("t", seconds);
    match optional_attr(stanza, "participant") {
        Some(participant) => ack.attr("participant", participant.as_ref()),
        None => ack,
    }
}

fn send_ack(
    shared: &Arc<ServerState>,
    hub: &mut Registry,
    link: ConnectionId,
    ack: Node,
    fault: Option<Fault>,
) {
    match fault {
        Some(Fault::LoseAck) => {}
        Some(Fault::CutUnacked) => hub.cut(link),
        Some(Fault::CutAfter) => hub.close(link, Some(ack)),
        Some(Fault::DelayAck { ms }) => {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(ms)) => shared.registry().reply(link, ack),
                    () = shared.closing.cancelled() => {}
                }
            });
        }
        _ => hub.reply(link, ack),
    }
}

/// The fault that strikes a linked device now; phones are spared.
fn trigger_fault(
    shared: &ServerState,
    hub: &Registry,
    moment: FaultStage,
    device: DeviceId,
) -> Option<Fault> {
    if device.number == 0 {
        return None;
    }
    shared.faults.trigger(moment, &hub.directory.account(device.account).phone_number, device.number)
}

/// One device's share of a message.
struct DevicePayload {
    to: DeviceId,
    /// How the sender is called towards this device.
    addressing_mode: AddressingMode,
    encrypted: Vec<Node>,
}

/// A message with its shares.
struct MessageFanout<'a> {
    from: DeviceId,
    stanza: &'a Node,
    chat: &'a Jid,
    seconds: u64,
    payloads: Vec<DevicePayload>,
}

impl<'a> MessageFanout<'a> {
    fn new(hub: &Registry, from: DeviceId, stanza: &'a Node, chat: &'a Jid, seconds: u64) -> Self {
        let mut payloads: Vec<DevicePayload> = Vec::new();
        let participants = stanza.get_optional_child("participants").map(children).unwrap_or_default();
        for participant in participants {
            let Some(to) = jid_attr(participant, "jid") else { continue };
            let encrypted = participant.get_children_by_tag("enc").cloned().collect();
            payloads.extend(DevicePayload::for_device(hub, &to, encrypted));
        }
        let common: Vec<Node> = stanza.get_children_by_tag("enc").cloned().collect();
        let single = jid_attr(stanza, "participant").or_else(|| (!chat.is_group()).then(|| chat.clone()));
        match (common.is_empty(), single) {
            (true, _) => {}
            (false, Some(to)) => payloads.extend(DevicePayload::for_device(hub, &to, common)),
            (false, None) => {
                groups::for_each_member_device(hub, from, chat, &common, |to, naming, encrypted| {
                    match payloads.iter_mut().find(|share| share.to == to) {
                        Some(share) => share.encrypted.extend(encrypted),
                        None => payloads.push(DevicePayload { to, addressing_mode: naming, encrypted }),
                    }
                })
            }
        }
        payloads.retain(|share| share.to != from && hub.directory.has_device(share.to));
        Self { from, stanza, chat, seconds, payloads }
    }

    fn send(self, shared: &ServerState, hub: &mut Registry, mail: &mut Vec<PhoneStanza>) {
        let id = attr(self.stanza, "id");
        for share in &self.payloads {
            // Made again for a device that could not read it: not the same message twice.
            let again = share.encrypted.iter().any(|encrypted| encrypted.attrs.get("count").is_some());
            if !shared.journal.record_delivery(self.from, &id, share.to) && !again {
                continue;
            }
            if !self.chat.is_group() {
                record_contact(hub, self.from.account, share.to.account);
            }
            let message = Arc::new(self.stanza_for(hub, share));
            match trigger_fault(shared, hub, FaultStage::Delivery, share.to) {
                Some(Fault::DeliverTwice) => {
                    hub.deliver(share.to, Arc::clone(&message), mail);
                    hub.deliver(share.to, message, mail);
                }
                Some(Fault::DeliverGarbled) => {
                    hub.deliver(share.to, Arc::new(with_corrupt_ciphertext(&message)), mail);
                }
                Some(Fault::DeliverLate) => {
                    if let Some(device) = hub.directory.device_mut(share.to) {
                        device.queue.push_delayed(message);
                    }
                }
                _ => {
                    if !hub.deliver(share.to, message, mail) {
                        tracing::warn!(to = ?share.to, "a device's line is full: a message for it is lost");
                    }
                }
            }
        }
    }

    /// The message as one device gets it.
    fn stanza_for(&self, hub: &Registry, share: &DevicePayload) -> Node {
        let sender = hub.directory.device_jid(self.from, share.addressing_mode);
        let alias = hub.directory.user_jid(self.from.account, share.addressing_mode.other());
        let mut message = NodeBuilder::new("message")
            .attr("id", attr(self.stanza, "id").as_ref())
            .attr("type", attr(self.stanza, "type").as_ref())
            .attr("t", self.seconds)
            .attr("notify", hub.directory.account(self.from.account).name.as_str());
        let (alias_key, mode) = match (share.addressing_mode, self.chat.is_group()) {
            (AddressingMode::Lid, false) => ("sender_pn", "lid"),
            (AddressingMode::Lid, true) => ("participant_pn", "lid"),
            (AddressingMode::PhoneNumber, false) => ("sender_lid", "pn"),
            (AddressingMode::PhoneNumber, true) => ("participant_lid", "pn"),
        };
        message = message.attr(alias_key, alias).attr("addressing_mode", mode);
        message = if self.chat.is_group() {
            message.attr("from", self.chat).attr("participant", sender)
        } else {
            message.attr("from", sender)
        };
        if share.to.account == self.from.account && !is_peer_message(self.stanza) && !self.chat.is_group() {
            let recipient =
                optional_attr(self.stanza, "recipient").and_then(|recipient| recipient.parse::<Jid>().ok());
            message = message.attr("recipient", recipient.unwrap_or_else(|| self.chat.to_non_ad()));
        }
        for key in ["edit", "category", "push_priority"] {
            if let Some(value) = optional_attr(self.stanza, key) {
                message = message.attr(key, value.as_ref());
            }
        }
        let introduced = share.encrypted.iter().any(|encrypted| attr(encrypted, "type") == "pkmsg");
        let others = children(self.stanza).iter().filter(|child| match child.tag.as_ref() {
            "participants" | "enc" => false,
            "device-identity" => introduced,
            _ => true,
        });
        message.children(share.encrypted.iter().chain(others).cloned()).build()
    }
}

impl DevicePayload {
    fn for_device(hub: &Registry, to: &Jid, encrypted: Vec<Node>) -> Option<Self> {
        Some(Self {
            to: hub.directory.device_of(to)?,
            addressing_mode: AddressingMode::from_jid(to)?,
            encrypted,
        })
    }
}

/// So far from a ciphertext's end lies a byte that its authentication covers, whatever its kind: behind it in a
/// `pkmsg` come at most eleven bytes of numbers.
const CORRUPT_BYTE_OFFSET: usize = 13;

/// A message whose ciphertexts nobody can open.
fn with_corrupt_ciphertext(message: &Node) -> Node {
    let mut message = message.clone();
    if let Some(NodeContent::Nodes(parts)) = &mut message.content {
        for part in parts.iter_mut().filter(|part| part.tag == "enc") {
            if let Some(NodeContent::Bytes(bytes)) = &mut part.content
                && let Some(byte) = bytes.iter_mut().nth_back(CORRUPT_BYTE_OFFSET - 1)
            {
                *byte ^= 0xff;
            }
        }
    }
    message
}

/// Two accounts have to do with each other from now on.
fn record_contact(hub: &mut Registry, one: AccountId, other: AccountId) {
    if one != other {
        hub.directory.account_mut(one).contacts.insert(other);
        hub.directory.account_mut(other).contacts.insert(one);
    }
}

/// Typing and recording: shown to whoever is there, and forgotten.
fn route_chat_state(shared: &ServerState, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let Some(to) = jid_attr(stanza, "to") else { return Vec::new() };
    let mut mail = Vec::new();
    let mut hub = shared.registry();
    let shown = NodeBuilder::new("chatstate").children(children(stanza).to_vec());
    let (shown, accounts) = if to.is_group() {
        let Some(group) = hub.groups.get(to.user.as_str()) else { return Vec::new() };
        let participant = hub.directory.user_jid(from.account, group.addressing_mode);
        (shown.attr("from", to).attr("participant", participant), group.members().collect::<Vec<_>>())
    } else {
        let (Some(account), Some(naming)) = (hub.directory.account_of(&to), AddressingMode::from_jid(&to))
        else {
            return Vec::new();
        };
        (shown.attr("from", hub.directory.user_jid(from.account, naming)), vec![account])
    };
    let shown = Arc::new(shown.build());
    send_transient_to_accounts(
        &mut hub,
        accounts.into_iter().filter(|account| *account != from.account),
        &shown,
        &mut mail,
    );
    mail
}

/// `available`, `unavailable` and `subscribe`. A device that names itself names its account.
fn route_presence(shared: &ServerState, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let mut mail = Vec::new();
    let mut hub = shared.registry();
    match attr(stanza, "type").as_ref() {
        "subscribe" => {
            let subject = jid_attr(stanza, "to").and_then(|to| hub.directory.account_of(&to));
            let Some(subject) = subject else { return mail };
            hub.directory.account_mut(subject).presence_subscribers.insert(from.account);
            let shown = Arc::new(presence_stanza(&hub, subject, shared.seconds()));
            hub.send_transient(from, &shown, &mut mail);
        }
        kind @ ("available" | "unavailable" | "") => {
            if let Some(name) = optional_attr(stanza, "name").filter(|name| !name.is_empty()) {
                hub.directory.account_mut(from.account).name = name.into_owned();
            }
            set_online(shared, &mut hub, from.account, kind != "unavailable", &mut mail);
        }
        _ => {}
    }
    mail
}

fn set_online(
    shared: &ServerState,
    hub: &mut Registry,
    account: AccountId,
    online: bool,
    mail: &mut Vec<PhoneStanza>,
) {
    let known = hub.directory.account_mut(account);
    if std::mem::replace(&mut known.online, online) == online {
        return;
    }
    let watchers: Vec<AccountId> = known.presence_subscribers.iter().copied().collect();
    let shown = Arc::new(presence_stanza(hub, account, shared.seconds()));
    send_transient_to_accounts(hub, watchers.into_iter(), &shown, mail);
}

fn presence_stanza(hub: &Registry, account: AccountId, seconds: u64) -> Node {
    let presence = NodeBuilder::new("presence")
        .attr("from", hub.directory.user_jid(account, AddressingMode::PhoneNumber));
    match hub.directory.account(account).online {
        true => presence.build(),
        false => presence.attr("type", "unavailable").attr("last", seconds).build(),
    }
}

/// A device's last connection ended.
pub fn set_offline(shared: &ServerState, hub: &mut Registry, device: DeviceId, mail: &mut Vec<PhoneStanza>) {
    set_online(shared, hub, device.account, false, mail);
}

fn send_transient_to_accounts(
    hub: &mut Registry,
    accounts: impl Iterator<Item = AccountId>,
    stanza: &Arc<Node>,
    mail: &mut Vec<PhoneStanza>,
) {
    for account in accounts {
        let numbers: Vec<u16> = hub.directory.account(account).device_numbers().collect();
        for number in numbers {
            hub.send_transient(DeviceId { account, number }, stanza, mail);
        }
    }
}
