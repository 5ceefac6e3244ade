//! Routes the stanzas of logged-in devices to other devices: messages, typing and presence; receipts are in
//! `receipts`. Phones use the same functions as linked devices.

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

/// Error code for a sender that is not a member of the group. Source: WhatsApp, `403 forbidden`.
const FORBIDDEN: u16 = 403;

/// Error code for an address without an account or group.
const NOT_FOUND: u16 = 404;

/// Routes a stanza of a device. Returns the stanzas for phones, which the caller delivers.
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
        // Progress of the client with its offline stanzas; all of them are sent in any case.
        "ib" => Vec::new(),
        tag => {
            tracing::debug!(stanza = tag, "unknown stanza; ignoring it");
            Vec::new()
        }
    }
}

/// Handles a message: refuses it, or records, delivers and acknowledges it, with the faults that apply.
fn route_message(shared: &Arc<ServerState>, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let id = attr(stanza, "id");
    let Some(to) = jid_attr(stanza, "to").filter(|_| !id.is_empty()) else {
        tracing::info!("message without id or recipient; ignoring it");
        return Vec::new();
    };
    let mut registry = shared.registry();
    let connection = registry.directory.device(from).and_then(|device| device.connection);
    let fault = trigger_fault(shared, &registry, FaultStage::Message, from);
    match (&fault, connection) {
        (Some(Fault::CutBefore), Some(connection)) => {
            registry.cut(connection);
            return Vec::new();
        }
        (Some(Fault::Mute), Some(connection)) => {
            registry.mute(connection, true);
            return Vec::new();
        }
        _ => {}
    }
    let refused = match fault {
        Some(Fault::Nack { code }) => Some(code),
        _ => refusal_code(&registry, from, &to),
    };
    record_in_journal(shared, &registry, from, stanza, &to, refused);
    let mut phone_stanzas = Vec::new();
    let mut ack = message_ack(stanza, &to, shared.seconds());
    match refused {
        Some(code) => ack = ack.attr("error", code),
        None => {
            ack = groups::with_participant_hash(&registry, from, stanza, &to, ack);
            let envelope = MessageFanout::new(&registry, from, stanza, &to, shared.seconds());
            envelope.send(shared, &mut registry, &mut phone_stanzas);
        }
    }
    if let Some(connection) = connection {
        send_ack(shared, &mut registry, connection, ack.build(), fault);
    }
    phone_stanzas
}

fn refusal_code(registry: &Registry, from: DeviceId, to: &Jid) -> Option<u16> {
    if to.is_group() {
        let Some(group) = registry.groups.get(to.user.as_str()) else { return Some(NOT_FOUND) };
        return (!group.is_member(from.account)).then_some(FORBIDDEN);
    }
    let user = AddressingMode::from_jid(to).is_some();
    (user && registry.directory.account_of(to).is_none()).then_some(NOT_FOUND)
}

/// Whether the message is one that an account's devices exchange without showing it to the user.
fn is_peer_message(stanza: &Node) -> bool {
    optional_attr(stanza, "category").is_some_and(|category| category == "peer")
}

fn record_in_journal(
    shared: &ServerState,
    registry: &Registry,
    sender: DeviceId,
    stanza: &Node,
    to: &Jid,
    refused: Option<u16>,
) {
    let arrival = MessageArrival {
        sender,
        id: &attr(stanza, "id"),
        from: &registry.directory.device_jid(sender, AddressingMode::PhoneNumber).to_string(),
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
    registry: &mut Registry,
    connection: ConnectionId,
    ack: Node,
    fault: Option<Fault>,
) {
    match fault {
        Some(Fault::LoseAck) => {}
        Some(Fault::CutUnacked) => registry.cut(connection),
        Some(Fault::CutAfter) => registry.close(connection, Some(ack)),
        Some(Fault::DelayAck { ms }) => {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(ms)) => shared.registry().reply(connection, ack),
                    () = shared.closing.cancelled() => {}
                }
            });
        }
        _ => registry.reply(connection, ack),
    }
}

/// The fault that applies to a linked device at this stage. Faults do not apply to phones.
fn trigger_fault(
    shared: &ServerState,
    registry: &Registry,
    stage: FaultStage,
    device: DeviceId,
) -> Option<Fault> {
    if device.number == 0 {
        return None;
    }
    shared.faults.trigger(stage, &registry.directory.account(device.account).phone_number, device.number)
}

/// The part of a message for one device.
struct DevicePayload {
    to: DeviceId,
    /// The addressing mode of the sender towards this device.
    addressing_mode: AddressingMode,
    encrypted: Vec<Node>,
}

/// A message with its parts for all devices.
struct MessageFanout<'a> {
    from: DeviceId,
    stanza: &'a Node,
    chat: &'a Jid,
    seconds: u64,
    payloads: Vec<DevicePayload>,
}

impl<'a> MessageFanout<'a> {
    fn new(registry: &Registry, from: DeviceId, stanza: &'a Node, chat: &'a Jid, seconds: u64) -> Self {
        let mut payloads: Vec<DevicePayload> = Vec::new();
        let participants = stanza.get_optional_child("participants").map(children).unwrap_or_default();
        for participant in participants {
            let Some(to) = jid_attr(participant, "jid") else { continue };
            let encrypted = participant.get_children_by_tag("enc").cloned().collect();
            payloads.extend(DevicePayload::for_device(registry, &to, encrypted));
        }
        let common: Vec<Node> = stanza.get_children_by_tag("enc").cloned().collect();
        let single = jid_attr(stanza, "participant").or_else(|| (!chat.is_group()).then(|| chat.clone()));
        match (common.is_empty(), single) {
            (true, _) => {}
            (false, Some(to)) => payloads.extend(DevicePayload::for_device(registry, &to, common)),
            (false, None) => {
                groups::for_each_member_device(registry, from, chat, &common, |to, addressing, encrypted| {
                    match payloads.iter_mut().find(|payload| payload.to == to) {
                        Some(payload) => payload.encrypted.extend(encrypted),
                        None => payloads.push(DevicePayload { to, addressing_mode: addressing, encrypted }),
                    }
                })
            }
        }
        payloads.retain(|payload| payload.to != from && registry.directory.has_device(payload.to));
        Self { from, stanza, chat, seconds, payloads }
    }

    fn send(self, shared: &ServerState, registry: &mut Registry, phone_stanzas: &mut Vec<PhoneStanza>) {
        let id = attr(self.stanza, "id");
        for payload in &self.payloads {
            // A retry for a device that could not decrypt the message is not a duplicate.
            let is_retry = payload.encrypted.iter().any(|encrypted| encrypted.attrs.get("count").is_some());
            if !shared.journal.record_delivery(self.from, &id, payload.to) && !is_retry {
                continue;
            }
            if !self.chat.is_group() {
                record_contact(registry, self.from.account, payload.to.account);
            }
            let message = Arc::new(self.stanza_for(registry, payload));
            match trigger_fault(shared, registry, FaultStage::Delivery, payload.to) {
                Some(Fault::DeliverTwice) => {
                    registry.deliver(payload.to, Arc::clone(&message), phone_stanzas);
                    registry.deliver(payload.to, message, phone_stanzas);
                }
                Some(Fault::DeliverGarbled) => {
                    registry.deliver(payload.to, Arc::new(with_corrupt_ciphertext(&message)), phone_stanzas);
                }
                Some(Fault::DeliverLate) => {
                    if let Some(device) = registry.directory.device_mut(payload.to) {
                        device.queue.push_delayed(message);
                    }
                }
                _ => {
                    if !registry.deliver(payload.to, message, phone_stanzas) {
                        tracing::warn!(to = ?payload.to, "device queue full; message dropped");
                    }
                }
            }
        }
    }

    /// The message stanza for one device.
    fn stanza_for(&self, registry: &Registry, payload: &DevicePayload) -> Node {
        let sender = registry.directory.device_jid(self.from, payload.addressing_mode);
        let alias = registry.directory.user_jid(self.from.account, payload.addressing_mode.other());
        let mut message = NodeBuilder::new("message")
            .attr("id", attr(self.stanza, "id").as_ref())
            .attr("type", attr(self.stanza, "type").as_ref())
            .attr("t", self.seconds)
            .attr("notify", registry.directory.account(self.from.account).name.as_str());
        let (alias_key, mode) = match (payload.addressing_mode, self.chat.is_group()) {
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
        if payload.to.account == self.from.account && !is_peer_message(self.stanza) && !self.chat.is_group() {
            let recipient =
                optional_attr(self.stanza, "recipient").and_then(|recipient| recipient.parse::<Jid>().ok());
            message = message.attr("recipient", recipient.unwrap_or_else(|| self.chat.to_non_ad()));
        }
        for key in ["edit", "category", "push_priority"] {
            if let Some(value) = optional_attr(self.stanza, key) {
                message = message.attr(key, value.as_ref());
            }
        }
        let starts_session = payload.encrypted.iter().any(|encrypted| attr(encrypted, "type") == "pkmsg");
        let others = children(self.stanza).iter().filter(|child| match child.tag.as_ref() {
            "participants" | "enc" => false,
            "device-identity" => starts_session,
            _ => true,
        });
        message.children(payload.encrypted.iter().chain(others).cloned()).build()
    }
}

impl DevicePayload {
    fn for_device(registry: &Registry, to: &Jid, encrypted: Vec<Node>) -> Option<Self> {
        Some(Self {
            to: registry.directory.device_of(to)?,
            addressing_mode: AddressingMode::from_jid(to)?,
            encrypted,
        })
    }
}

/// Distance of the corrupted byte from the end of a ciphertext. The authentication of every type covers this byte: at
/// most eleven bytes of numbers follow the authenticated part in a `pkmsg`.
const CORRUPT_BYTE_OFFSET: usize = 13;

/// A copy of a message whose ciphertexts cannot be decrypted.
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

/// Records that two accounts have exchanged messages.
fn record_contact(registry: &mut Registry, first: AccountId, second: AccountId) {
    if first != second {
        registry.directory.account_mut(first).contacts.insert(second);
        registry.directory.account_mut(second).contacts.insert(first);
    }
}

/// Forwards typing and recording to devices that are online. The server does not store it.
fn route_chat_state(shared: &ServerState, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let Some(to) = jid_attr(stanza, "to") else { return Vec::new() };
    let mut phone_stanzas = Vec::new();
    let mut registry = shared.registry();
    let forwarded = NodeBuilder::new("chatstate").children(children(stanza).to_vec());
    let (forwarded, accounts) = if to.is_group() {
        let Some(group) = registry.groups.get(to.user.as_str()) else { return Vec::new() };
        let participant = registry.directory.user_jid(from.account, group.addressing_mode);
        (forwarded.attr("from", to).attr("participant", participant), group.members().collect::<Vec<_>>())
    } else {
        let (Some(account), Some(addressing)) =
            (registry.directory.account_of(&to), AddressingMode::from_jid(&to))
        else {
            return Vec::new();
        };
        (forwarded.attr("from", registry.directory.user_jid(from.account, addressing)), vec![account])
    };
    let forwarded = Arc::new(forwarded.build());
    send_transient_to_accounts(
        &mut registry,
        accounts.into_iter().filter(|account| *account != from.account),
        &forwarded,
        &mut phone_stanzas,
    );
    phone_stanzas
}

/// Handles `available`, `unavailable` and `subscribe`. A name in the stanza becomes the account's push name.
fn route_presence(shared: &ServerState, from: DeviceId, stanza: &Node) -> Vec<PhoneStanza> {
    let mut phone_stanzas = Vec::new();
    let mut registry = shared.registry();
    match attr(stanza, "type").as_ref() {
        "subscribe" => {
            let subject = jid_attr(stanza, "to").and_then(|to| registry.directory.account_of(&to));
            let Some(subject) = subject else { return phone_stanzas };
            registry.directory.account_mut(subject).presence_subscribers.insert(from.account);
            let presence = Arc::new(presence_stanza(&registry, subject, shared.seconds()));
            registry.send_transient(from, &presence, &mut phone_stanzas);
        }
        kind @ ("available" | "unavailable" | "") => {
            if let Some(name) = optional_attr(stanza, "name").filter(|name| !name.is_empty()) {
                registry.directory.account_mut(from.account).name = name.into_owned();
            }
            set_online(shared, &mut registry, from.account, kind != "unavailable", &mut phone_stanzas);
        }
        _ => {}
    }
    phone_stanzas
}

fn set_online(
    shared: &ServerState,
    registry: &mut Registry,
    account: AccountId,
    online: bool,
    phone_stanzas: &mut Vec<PhoneStanza>,
) {
    let entry = registry.directory.account_mut(account);
    if std::mem::replace(&mut entry.online, online) == online {
        return;
    }
    let subscribers: Vec<AccountId> = entry.presence_subscribers.iter().copied().collect();
    let presence = Arc::new(presence_stanza(registry, account, shared.seconds()));
    send_transient_to_accounts(registry, subscribers.into_iter(), &presence, phone_stanzas);
}

fn presence_stanza(registry: &Registry, account: AccountId, seconds: u64) -> Node {
    let presence = NodeBuilder::new("presence")
        .attr("from", registry.directory.user_jid(account, AddressingMode::PhoneNumber));
    match registry.directory.account(account).online {
        true => presence.build(),
        false => presence.attr("type", "unavailable").attr("last", seconds).build(),
    }
}

/// Marks an account as offline after the last connection of a device has ended.
pub fn set_offline(
    shared: &ServerState,
    registry: &mut Registry,
    device: DeviceId,
    phone_stanzas: &mut Vec<PhoneStanza>,
) {
    set_online(shared, registry, device.account, false, phone_stanzas);
}

fn send_transient_to_accounts(
    registry: &mut Registry,
    accounts: impl Iterator<Item = AccountId>,
    stanza: &Arc<Node>,
    phone_stanzas: &mut Vec<PhoneStanza>,
) {
    for account in accounts {
        let numbers: Vec<u16> = registry.directory.account(account).device_numbers().collect();
        for number in numbers {
            registry.send_transient(DeviceId { account, number }, stanza, phone_stanzas);
        }
    }
}
