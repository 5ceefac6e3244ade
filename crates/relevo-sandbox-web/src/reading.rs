//! What a virtual phone gets: it opens messages, says that it has them, and asks again for those it cannot open.

use std::sync::Arc;

use relevo_linked_device::client::wacore::messages::{decode_plaintext, unwrap_device_sent};
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};
use relevo_linked_device::client::waproto::whatsapp::Message;
use relevo_linked_device::client::waproto::whatsapp::message::protocol_message::Type;

use crate::accounts::DeviceId;
use crate::inbox::{Received, Seen};
use crate::keys::{Bundle, one_time_key, signed_key};
use crate::phone::Phone;
use crate::ratchets;
use crate::shared::Shared;
use crate::stanza::{attr, bytes, child_bytes, children, jid, leaf, maybe, number};
use crate::writing::bundle_of;

/// How often a phone asks for, or gives, the same message again. Source: WhatsApp Web, `MAX_RETRY`.
const MOST_RETRIES: u8 = 5;

/// Messages whose retries are counted at once.
const COUNTED: usize = 1000;

/// How a message went.
enum Opened {
    /// It holds this; keys alone leave nothing.
    Content(Option<Box<Message>>),
    /// It was opened before.
    Again,
    Failed(String),
}

impl Phone {
    /// Takes a stanza, and returns what the phone answers.
    pub(super) fn receive(&self, shared: &Arc<Shared>, stanza: &Node) -> Vec<Node> {
        match stanza.tag.as_ref() {
            "message" => self.read_message(shared, stanza),
            "receipt" => self.read_receipt(shared, stanza),
            "chatstate" => {
                if let (Some(from), Some(state)) = (jid(stanza, "from"), children(stanza).first()) {
                    self.inbox.write(Seen::Typing {
                        sender: jid(stanza, "participant").unwrap_or_else(|| from.clone()),
                        chat: from,
                        state: state.tag.to_string(),
                        media: attr(state, "media").into_owned(),
                    });
                }
                Vec::new()
            }
            "presence" => {
                if let Some(who) = jid(stanza, "from") {
                    let available = attr(stanza, "type") != "unavailable";
                    self.inbox.write(Seen::Presence { who, available });
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn read_message(&self, shared: &Arc<Shared>, stanza: &Node) -> Vec<Node> {
        let Some(from) = jid(stanza, "from") else { return Vec::new() };
        let sender = jid(stanza, "participant").unwrap_or_else(|| from.clone());
        let Some(device) = shared.hub().directory.device_of(&sender) else { return Vec::new() };
        match self.open_message(stanza, &from, device) {
            Opened::Content(content) => {
                self.state().asked.remove(attr(stanza, "id").as_ref());
                let of_peers = maybe(stanza, "category").is_some_and(|category| category == "peer");
                let mut answers = vec![self.delivery(stanza, &from, &sender, device)];
                match content {
                    Some(message) if of_peers => answers.extend(self.serve_peer(shared, device, &message)),
                    Some(message) => self.show(stanza, from, sender, device, message),
                    None => {}
                }
                answers
            }
            Opened::Again => vec![self.delivery(stanza, &from, &sender, device)],
            Opened::Failed(why) => self.ask_again(stanza, &from, &sender, why),
        }
    }

    fn open_message(&self, stanza: &Node, from: &Jid, device: DeviceId) -> Opened {
        let mut content = None;
        let group = from.to_non_ad_string();
        for encrypted in stanza.get_children_by_tag("enc") {
            let kind = attr(encrypted, "type");
            let sealed = bytes(encrypted).unwrap_or_default();
            let mut state = self.state();
            let opened = match kind.as_ref() {
                "skmsg" => state.ratchets.unseal_from_group(&group, device, sealed),
                kind => state.ratchets.unseal(device, kind, sealed),
            };
            let message = match opened {
                Ok(plaintext) => decode_plaintext(&plaintext, 2),
                Err(error) if error.is_duplicate() => return Opened::Again,
                Err(error) => return Opened::Failed(error.to_string()),
            };
            let message = match message {
                Ok(message) => unwrap_device_sent(message),
                Err(error) => return Opened::Failed(error.to_string()),
            };
            match learn(&mut state.ratchets, &group, device, &message) {
                Ok(true) if kind != "skmsg" && stanza.get_children_by_tag("enc").count() > 1 => {}
                Ok(_) => content = Some(Box::new(message)),
                Err(error) => return Opened::Failed(error.to_string()),
            }
        }
        Opened::Content(content)
    }

    fn show(&self, stanza: &Node, from: Jid, sender: Jid, device: DeviceId, message: Box<Message>) {
        let from_me = device.account == self.account();
        let chat = match jid(stanza, "recipient") {
            Some(recipient) if from_me => recipient,
            _ => from.to_non_ad(),
        };
        self.inbox.write(Seen::Message(Received {
            id: attr(stanza, "id").into_owned(),
            chat,
            sender,
            from_me,
            edit: attr(stanza, "edit").into_owned(),
            message,
        }));
    }

    /// The receipt for a message that the phone has.
    fn delivery(&self, stanza: &Node, from: &Jid, sender: &Jid, device: DeviceId) -> Node {
        let receipt = NodeBuilder::new("receipt").attr("id", attr(stanza, "id").as_ref()).attr("to", from);
        if from.is_group() {
            return receipt.attr("participant", sender).build();
        }
        match maybe(stanza, "recipient") {
            Some(recipient) if device.account == self.account() => {
                receipt.attr("type", "sender").attr("recipient", recipient.as_ref()).build()
            }
            _ if device.account == self.account() => receipt.attr("type", "peer_msg").build(),
            _ => receipt.build(),
        }
    }

    /// Notes that a message could not be opened, and asks its sender for it. A sender who is asked
    /// twice opens a new session.
    fn ask_again(&self, stanza: &Node, from: &Jid, sender: &Jid, why: String) -> Vec<Node> {
        let id = attr(stanza, "id").into_owned();
        let count = {
            let mut state = self.state();
            if state.asked.len() >= COUNTED {
                state.asked.clear();
            }
            let count = state.asked.entry(id.clone()).or_default();
            *count += 1;
            *count
        };
        self.inbox.write(Seen::Unreadable { id: id.clone(), sender: sender.clone(), why });
        if count >= MOST_RETRIES {
            return Vec::new();
        }
        let registration = leaf("registration", self.bundle().registration.to_be_bytes());
        let retry = NodeBuilder::new("retry")
            .attr("v", "1")
            .attr("id", id.as_str())
            .attr("t", attr(stanza, "t").as_ref())
            .attr("count", count)
            .build();
        let receipt = NodeBuilder::new("receipt").attr("id", id).attr("to", from).attr("type", "retry");
        let receipt = if from.is_group() { receipt.attr("participant", sender) } else { receipt };
        let receipt = match maybe(stanza, "recipient") {
            Some(recipient) => receipt.attr("recipient", recipient.as_ref()),
            None => receipt,
        };
        vec![receipt.children([retry, registration]).build()]
    }

    fn read_receipt(&self, shared: &Arc<Shared>, stanza: &Node) -> Vec<Node> {
        let Some(from) = jid(stanza, "from") else { return Vec::new() };
        let reader = jid(stanza, "participant").unwrap_or_else(|| from.clone());
        let kind = attr(stanza, "type");
        if kind == "retry" {
            return self.give_again(shared, stanza, &reader).into_iter().collect();
        }
        let items = stanza.get_optional_child("list").map(children).unwrap_or_default();
        let ids = std::iter::once(stanza).chain(items).map(|item| attr(item, "id").into_owned()).collect();
        let kind = if kind.is_empty() { "delivered".to_owned() } else { kind.into_owned() };
        self.inbox.write(Seen::Receipt { ids, kind, chat: from.to_non_ad(), reader });
        Vec::new()
    }

    /// Seals a message anew for the device that could not read it.
    fn give_again(&self, shared: &Arc<Shared>, stanza: &Node, reader: &Jid) -> Option<Node> {
        let device = shared.hub().directory.device_of(reader)?;
        let id = attr(stanza, "id");
        let retry = stanza.get_optional_child("retry");
        let count: u8 = retry.and_then(|retry| attr(retry, "count").parse().ok()).unwrap_or(1);
        if count >= MOST_RETRIES {
            return None;
        }
        let (chat, message) = {
            let mut state = self.state();
            let bundle = match stanza.get_optional_child("keys") {
                Some(keys) => bundle_in(stanza, keys)?,
                None => bundle_of(&mut shared.hub(), device)?,
            };
            if let Err(error) = state.ratchets.open(device, &bundle) {
                tracing::info!(%error, "a virtual phone cannot open the session it was asked for");
                return None;
            }
            for told in state.told.values_mut() {
                told.remove(&device);
            }
            let sent = state.sent.iter().find(|sent| sent.id == id)?;
            (sent.chat.clone(), sent.message.clone())
        };
        match self.sealed_again(shared, device, &chat, &id, &message, count) {
            Ok(stanza) => Some(stanza),
            Err(error) => {
                tracing::info!(%error, "a virtual phone cannot send again what it was asked for");
                None
            }
        }
    }

    /// What a phone does for its linked devices without its user noticing.
    fn serve_peer(&self, shared: &Arc<Shared>, device: DeviceId, message: &Message) -> Option<Node> {
        let protocol = message.protocol_message.as_option()?;
        match protocol.r#type? {
            Type::APP_STATE_SYNC_KEY_REQUEST => {
                let share = self.settings_key_share(shared);
                self.peer_message(shared, device, &share).ok()
            }
            kind => {
                tracing::debug!(?kind, "a virtual phone does not serve this request of its device");
                None
            }
        }
    }
}

/// Learns the sender key in a message, where there is one; says whether there was.
fn learn(
    ratchets: &mut ratchets::Ratchets,
    group: &str,
    device: DeviceId,
    message: &Message,
) -> ratchets::Result<bool> {
    let Some(distribution) = message.sender_key_distribution_message.as_option() else { return Ok(false) };
    let group = distribution.group_id.as_deref().unwrap_or(group);
    let Some(key) = distribution.axolotl_sender_key_distribution_message.as_deref() else { return Ok(false) };
    ratchets.learn_sender_key(group, device, key)?;
    Ok(true)
}

/// The keys in a request to send again.
fn bundle_in(receipt: &Node, keys: &Node) -> Option<Bundle> {
    Some(Bundle {
        registration: number(child_bytes(receipt, "registration")?)?,
        identity: child_bytes(keys, "identity")?.try_into().ok()?,
        signed: signed_key(keys.get_optional_child("skey")?)?,
        one_time: keys.get_optional_child("key").and_then(one_time_key),
    })
}
