//! Stanzas of a device that is logged in, on their way to others: messages here, receipts in `receipts`, typing
//! and presence at the end. Phones come through the same door as linked devices.

use std::sync::Arc;
use std::time::Duration;

use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::{Node, NodeContent};
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};

use crate::accounts::{AccountId, DeviceId, Naming};
use crate::faults::{Fault, Moment};
use crate::groups;
use crate::hub::{Hub, LinkId, Mail};
use crate::journal::Arrival;
use crate::receipts;
use crate::shared::Shared;
use crate::stanza::{attr, children, jid, maybe};

/// Code of a refusal to those who write where they do not belong. Source: WhatsApp, `403 forbidden`.
const FORBIDDEN: u16 = 403;

/// Code of a refusal for an address behind which there is nobody.
const NOT_FOUND: u16 = 404;

/// Takes a stanza of a device. What phones get of it is for the caller to hand out.
pub fn accept(shared: &Arc<Shared>, from: DeviceId, stanza: Node) -> Vec<Mail> {
    match stanza.tag.as_ref() {
        "message" => message(shared, from, &stanza),
        "receipt" => receipts::accept(shared, from, &stanza),
        "ack" => {
            if let Some(device) = shared.hub().directory.device_mut(from) {
                device.queue.acknowledged(&stanza);
            }
            Vec::new()
        }
        "chatstate" => chat_state(shared, from, &stanza),
        "presence" => presence(shared, from, &stanza),
        // How far the client is with what had waited; all of that is sent anyway.
        "ib" => Vec::new(),
        tag => {
            tracing::debug!(stanza = tag, "the sandbox's WhatsApp Web does not know this stanza");
            Vec::new()
        }
    }
}

/// A message: refused, or journaled, delivered and acknowledged, with whatever faults strike it.
fn message(shared: &Arc<Shared>, from: DeviceId, stanza: &Node) -> Vec<Mail> {
    let id = attr(stanza, "id");
    let Some(to) = jid(stanza, "to").filter(|_| !id.is_empty()) else {
        tracing::info!("a message without id or recipient is passed over");
        return Vec::new();
    };
    let mut hub = shared.hub();
    let link = hub.directory.device(from).and_then(|device| device.link);
    let fault = strike(shared, &hub, Moment::Message, from);
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
        _ => refusal(&hub, from, &to),
    };
    journal(shared, &hub, from, stanza, &to, refused);
    let mut mail = Vec::new();
    let mut ack = acknowledgement(stanza, &to, shared.seconds());
    match refused {
        Some(code) => ack = ack.attr("error", code),
        None => {
            ack = groups::with_hash(&hub, from, stanza, &to, ack);
            let envelope = Envelope::new(&hub, from, stanza, &to, shared.seconds());
            envelope.send(shared, &mut hub, &mut mail);
        }
    }
    if let Some(link) = link {
        acknowledge(shared, &mut hub, link, ack.build(), fault);
    }
    mail
}

fn refusal(hub: &Hub, from: DeviceId, to: &Jid) -> Option<u16> {
    if to.is_group() {
        let Some(group) = hub.groups.get(to.user.as_str()) else { return Some(NOT_FOUND) };
        return (!group.has(from.account)).then_some(FORBIDDEN);
    }
    let user = Naming::of(to).is_some();
    (user && hub.directory.account_of(to).is_none()).then_some(NOT_FOUND)
}

/// Whether a message is one of those that an account's devices exchange without their user.
fn is_of_peers(stanza: &Node) -> bool {
    maybe(stanza, "category").is_some_and(|category| category == "peer")
}

fn journal(shared: &Shared, hub: &Hub, sender: DeviceId, stanza: &Node, to: &Jid, refused: Option<u16>) {
    let arrival = Arrival {
        sender,
        id: &attr(stanza, "id"),
        from: &hub.directory.jid(sender, Naming::PhoneNumber).to_string(),
        to: &to.to_non_ad_string(),
        kind: &attr(stanza, "type"),
        edit: &attr(stanza, "edit"),
        at: shared.clock.now(),
    };
    shared.journal.received(arrival, refused);
}

fn acknowledgement(stanza: &Node, to: &Jid, seconds: u64) -> NodeBuilder {
    let ack = NodeBuilder::new("ack")
        .attr("class", "message")
        .attr("id", attr(stanza, "id").as_ref())
        .attr("from", to)
        .attr("t", seconds);
    match maybe(stanza, "participant") {
        Some(participant) => ack.attr("participant", participant.as_ref()),
        None => ack,
    }
}

fn acknowledge(shared: &Arc<Shared>, hub: &mut Hub, link: LinkId, ack: Node, fault: Option<Fault>) {
    match fault {
        Some(Fault::LoseAck) => {}
        Some(Fault::CutUnacked) => hub.cut(link),
        Some(Fault::CutAfter) => hub.close(link, Some(ack)),
        Some(Fault::DelayAck { ms }) => {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(ms)) => shared.hub().reply(link, ack),
                    () = shared.closing.cancelled() => {}
                }
            });
        }
        _ => hub.reply(link, ack),
    }
}

/// The fault that strikes a linked device now; phones are spared.
fn strike(shared: &Shared, hub: &Hub, moment: Moment, device: DeviceId) -> Option<Fault> {
    if device.number == 0 {
        return None;
    }
    shared.faults.strike(moment, &hub.directory.account(device.account).phone_number, device.number)
}

/// One device's share of a message.
struct Share {
    to: DeviceId,
    /// How the sender is called towards this device.
    naming: Naming,
    encrypted: Vec<Node>,
}

/// A message with its shares.
struct Envelope<'a> {
    from: DeviceId,
    stanza: &'a Node,
    chat: &'a Jid,
    seconds: u64,
    shares: Vec<Share>,
}

impl<'a> Envelope<'a> {
    fn new(hub: &Hub, from: DeviceId, stanza: &'a Node, chat: &'a Jid, seconds: u64) -> Self {
        let mut shares: Vec<Share> = Vec::new();
        let participants = stanza.get_optional_child("participants").map(children).unwrap_or_default();
        for participant in participants {
            let Some(to) = jid(participant, "jid") else { continue };
            let encrypted = participant.get_children_by_tag("enc").cloned().collect();
            shares.extend(Share::for_device(hub, &to, encrypted));
        }
        let common: Vec<Node> = stanza.get_children_by_tag("enc").cloned().collect();
        let single = jid(stanza, "participant").or_else(|| (!chat.is_group()).then(|| chat.clone()));
        match (common.is_empty(), single) {
            (true, _) => {}
            (false, Some(to)) => shares.extend(Share::for_device(hub, &to, common)),
            (false, None) => groups::share_with_all(hub, from, chat, &common, |to, naming, encrypted| {
                match shares.iter_mut().find(|share| share.to == to) {
                    Some(share) => share.encrypted.extend(encrypted),
                    None => shares.push(Share { to, naming, encrypted }),
                }
            }),
        }
        shares.retain(|share| share.to != from && hub.directory.has(share.to));
        Self { from, stanza, chat, seconds, shares }
    }

    fn send(self, shared: &Shared, hub: &mut Hub, mail: &mut Vec<Mail>) {
        let id = attr(self.stanza, "id");
        for share in &self.shares {
            // Made again for a device that could not read it: not the same message twice.
            let again = share.encrypted.iter().any(|encrypted| encrypted.attrs.get("count").is_some());
            if !shared.journal.goes_to(self.from, &id, share.to) && !again {
                continue;
            }
            if !self.chat.is_group() {
                acquaint(hub, self.from.account, share.to.account);
            }
            let message = Arc::new(self.for_share(hub, share));
            match strike(shared, hub, Moment::Delivery, share.to) {
                Some(Fault::DeliverTwice) => {
                    hub.deliver(share.to, Arc::clone(&message), mail);
                    hub.deliver(share.to, message, mail);
                }
                Some(Fault::DeliverGarbled) => {
                    hub.deliver(share.to, Arc::new(garbled(&message)), mail);
                }
                Some(Fault::DeliverLate) => {
                    if let Some(device) = hub.directory.device_mut(share.to) {
                        device.queue.hold(message);
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
    fn for_share(&self, hub: &Hub, share: &Share) -> Node {
        let sender = hub.directory.jid(self.from, share.naming);
        let alias = hub.directory.user(self.from.account, share.naming.other());
        let mut message = NodeBuilder::new("message")
            .attr("id", attr(self.stanza, "id").as_ref())
            .attr("type", attr(self.stanza, "type").as_ref())
            .attr("t", self.seconds)
            .attr("notify", hub.directory.account(self.from.account).name.as_str());
        let (alias_key, mode) = match (share.naming, self.chat.is_group()) {
            (Naming::Lid, false) => ("sender_pn", "lid"),
            (Naming::Lid, true) => ("participant_pn", "lid"),
            (Naming::PhoneNumber, false) => ("sender_lid", "pn"),
            (Naming::PhoneNumber, true) => ("participant_lid", "pn"),
        };
        message = message.attr(alias_key, alias).attr("addressing_mode", mode);
        message = if self.chat.is_group() {
            message.attr("from", self.chat).attr("participant", sender)
        } else {
            message.attr("from", sender)
        };
        if share.to.account == self.from.account && !is_of_peers(self.stanza) && !self.chat.is_group() {
            let recipient =
                maybe(self.stanza, "recipient").and_then(|recipient| recipient.parse::<Jid>().ok());
            message = message.attr("recipient", recipient.unwrap_or_else(|| self.chat.to_non_ad()));
        }
        for key in ["edit", "category", "push_priority"] {
            if let Some(value) = maybe(self.stanza, key) {
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

impl Share {
    fn for_device(hub: &Hub, to: &Jid, encrypted: Vec<Node>) -> Option<Self> {
        Some(Self { to: hub.directory.device_of(to)?, naming: Naming::of(to)?, encrypted })
    }
}

/// So far from a ciphertext's end lies a byte that its authentication covers, whatever its kind: behind it in a
/// `pkmsg` come at most eleven bytes of numbers.
const AUTHENTICATED: usize = 13;

/// A message whose ciphertexts nobody can open.
fn garbled(message: &Node) -> Node {
    let mut message = message.clone();
    if let Some(NodeContent::Nodes(parts)) = &mut message.content {
        for part in parts.iter_mut().filter(|part| part.tag == "enc") {
            if let Some(NodeContent::Bytes(bytes)) = &mut part.content
                && let Some(byte) = bytes.iter_mut().nth_back(AUTHENTICATED - 1)
            {
                *byte ^= 0xff;
            }
        }
    }
    message
}

/// Two accounts have to do with each other from now on.
fn acquaint(hub: &mut Hub, one: AccountId, other: AccountId) {
    if one != other {
        hub.directory.account_mut(one).peers.insert(other);
        hub.directory.account_mut(other).peers.insert(one);
    }
}

/// Typing and recording: shown to whoever is there, and forgotten.
fn chat_state(shared: &Shared, from: DeviceId, stanza: &Node) -> Vec<Mail> {
    let Some(to) = jid(stanza, "to") else { return Vec::new() };
    let mut mail = Vec::new();
    let mut hub = shared.hub();
    let shown = NodeBuilder::new("chatstate").children(children(stanza).to_vec());
    let (shown, accounts) = if to.is_group() {
        let Some(group) = hub.groups.get(to.user.as_str()) else { return Vec::new() };
        let participant = hub.directory.user(from.account, group.naming);
        (shown.attr("from", to).attr("participant", participant), group.members().collect::<Vec<_>>())
    } else {
        let (Some(account), Some(naming)) = (hub.directory.account_of(&to), Naming::of(&to)) else {
            return Vec::new();
        };
        (shown.attr("from", hub.directory.user(from.account, naming)), vec![account])
    };
    let shown = Arc::new(shown.build());
    show_to_all(&mut hub, accounts.into_iter().filter(|account| *account != from.account), &shown, &mut mail);
    mail
}

/// `available`, `unavailable` and `subscribe`. A device that names itself names its account.
fn presence(shared: &Shared, from: DeviceId, stanza: &Node) -> Vec<Mail> {
    let mut mail = Vec::new();
    let mut hub = shared.hub();
    match attr(stanza, "type").as_ref() {
        "subscribe" => {
            let subject = jid(stanza, "to").and_then(|to| hub.directory.account_of(&to));
            let Some(subject) = subject else { return mail };
            hub.directory.account_mut(subject).watchers.insert(from.account);
            let shown = Arc::new(presence_of(&hub, subject, shared.seconds()));
            hub.show(from, &shown, &mut mail);
        }
        kind @ ("available" | "unavailable" | "") => {
            if let Some(name) = maybe(stanza, "name").filter(|name| !name.is_empty()) {
                hub.directory.account_mut(from.account).name = name.into_owned();
            }
            set_online(shared, &mut hub, from.account, kind != "unavailable", &mut mail);
        }
        _ => {}
    }
    mail
}

fn set_online(shared: &Shared, hub: &mut Hub, account: AccountId, online: bool, mail: &mut Vec<Mail>) {
    let known = hub.directory.account_mut(account);
    if std::mem::replace(&mut known.online, online) == online {
        return;
    }
    let watchers: Vec<AccountId> = known.watchers.iter().copied().collect();
    let shown = Arc::new(presence_of(hub, account, shared.seconds()));
    show_to_all(hub, watchers.into_iter(), &shown, mail);
}

fn presence_of(hub: &Hub, account: AccountId, seconds: u64) -> Node {
    let presence =
        NodeBuilder::new("presence").attr("from", hub.directory.user(account, Naming::PhoneNumber));
    match hub.directory.account(account).online {
        true => presence.build(),
        false => presence.attr("type", "unavailable").attr("last", seconds).build(),
    }
}

/// A device's last connection ended.
pub fn absent(shared: &Shared, hub: &mut Hub, device: DeviceId, mail: &mut Vec<Mail>) {
    set_online(shared, hub, device.account, false, mail);
}

fn show_to_all(
    hub: &mut Hub,
    accounts: impl Iterator<Item = AccountId>,
    stanza: &Arc<Node>,
    mail: &mut Vec<Mail>,
) {
    for account in accounts {
        let numbers: Vec<u16> = hub.directory.account(account).numbers().collect();
        for number in numbers {
            hub.show(DeviceId { account, number }, stanza, mail);
        }
    }
}
