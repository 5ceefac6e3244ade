//! Incoming stanzas of a virtual phone: it decrypts messages, sends receipts, and requests a message again that it
//! cannot decrypt.

use std::sync::Arc;

use relevo_linked_device::client::wacore::messages::{decode_plaintext, unwrap_device_sent};
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};
use relevo_linked_device::client::waproto::whatsapp::Message;
use relevo_linked_device::client::waproto::whatsapp::message::protocol_message::Type;

use crate::accounts::DeviceId;
use crate::keys::{DeviceKeyBundle, parse_one_time_pre_key, parse_signed_pre_key};
use crate::phone::Phone;
use crate::phone_events::{PhoneEvent, PhoneMessage};
use crate::phone_send::take_bundle;
use crate::server_state::ServerState;
use crate::signal;
use crate::stanza::{
    attr, bytes_node, child_bytes, children, content_bytes, jid_attr, optional_attr, parse_be_u32,
};

/// Maximum number of retries of a message, as requester or sender. Source: WhatsApp Web, `MAX_RETRY`.
const MAX_RETRIES: u8 = 5;

/// Maximum number of messages whose retries are counted.
const MAX_TRACKED_RETRIES: usize = 1000;

/// Result of a decryption.
enum DecryptResult {
    /// The content; `None` for a message with keys only.
    Content(Option<Box<Message>>),
    /// The message was decrypted before.
    Duplicate,
    Failed(String),
}

impl Phone {
    /// Handles a stanza and returns the phone's answers.
    pub(super) fn handle_stanza(&self, shared: &Arc<ServerState>, stanza: &Node) -> Vec<Node> {
        match stanza.tag.as_ref() {
            "message" => self.handle_message(shared, stanza),
            "receipt" => self.handle_receipt(shared, stanza),
            "chatstate" => {
                if let (Some(from), Some(state)) = (jid_attr(stanza, "from"), children(stanza).first()) {
                    self.event_log.write(PhoneEvent::Typing {
                        sender: jid_attr(stanza, "participant").unwrap_or_else(|| from.clone()),
                        chat: from,
                        state: state.tag.to_string(),
                        media: attr(state, "media").into_owned(),
                    });
                }
                Vec::new()
            }
            "presence" => {
                if let Some(who) = jid_attr(stanza, "from") {
                    let available = attr(stanza, "type") != "unavailable";
                    self.event_log.write(PhoneEvent::Presence { who, available });
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn handle_message(&self, shared: &Arc<ServerState>, stanza: &Node) -> Vec<Node> {
        let Some(from) = jid_attr(stanza, "from") else { return Vec::new() };
        let sender = jid_attr(stanza, "participant").unwrap_or_else(|| from.clone());
        let Some(device) = shared.registry().directory.device_of(&sender) else { return Vec::new() };
        match self.decrypt_message(stanza, &from, device) {
            DecryptResult::Content(content) => {
                self.state().retry_counts.remove(attr(stanza, "id").as_ref());
                let is_peer_message =
                    optional_attr(stanza, "category").is_some_and(|category| category == "peer");
                let mut answers = vec![self.delivery_receipt(stanza, &from, &sender, device)];
                match content {
                    Some(message) if is_peer_message => {
                        answers.extend(self.handle_peer_message(shared, device, &message))
                    }
                    Some(message) => self.record_message(stanza, from, sender, device, message),
                    None => {}
                }
                answers
            }
            DecryptResult::Duplicate => vec![self.delivery_receipt(stanza, &from, &sender, device)],
            DecryptResult::Failed(why) => self.request_retry(stanza, &from, &sender, why),
        }
    }

    fn decrypt_message(&self, stanza: &Node, from: &Jid, device: DeviceId) -> DecryptResult {
        let mut content = None;
        let group = from.to_non_ad_string();
        for encrypted in stanza.get_children_by_tag("enc") {
            let kind = attr(encrypted, "type");
            let sealed = content_bytes(encrypted).unwrap_or_default();
            let mut state = self.state();
            let opened = match kind.as_ref() {
                "skmsg" => state.signal.decrypt_from_group(&group, device, sealed),
                kind => state.signal.decrypt(device, kind, sealed),
            };
            let message = match opened {
                Ok(plaintext) => decode_plaintext(&plaintext, 2),
                Err(error) if error.is_duplicate() => return DecryptResult::Duplicate,
                Err(error) => return DecryptResult::Failed(error.to_string()),
            };
            let message = match message {
                Ok(message) => unwrap_device_sent(message),
                Err(error) => return DecryptResult::Failed(error.to_string()),
            };
            match process_sender_key_distribution(&mut state.signal, &group, device, &message) {
                Ok(true) if kind != "skmsg" && stanza.get_children_by_tag("enc").count() > 1 => {}
                Ok(_) => content = Some(Box::new(message)),
                Err(error) => return DecryptResult::Failed(error.to_string()),
            }
        }
        DecryptResult::Content(content)
    }

    fn record_message(&self, stanza: &Node, from: Jid, sender: Jid, device: DeviceId, message: Box<Message>) {
        let from_me = device.account == self.account();
        let chat = match jid_attr(stanza, "recipient") {
            Some(recipient) if from_me => recipient,
            _ => from.to_non_ad(),
        };
        self.event_log.write(PhoneEvent::Message(PhoneMessage {
            id: attr(stanza, "id").into_owned(),
            chat,
            sender,
            from_me,
            edit: attr(stanza, "edit").into_owned(),
            message,
        }));
    }

    /// The receipt for a decrypted message.
    fn delivery_receipt(&self, stanza: &Node, from: &Jid, sender: &Jid, device: DeviceId) -> Node {
        let receipt = NodeBuilder::new("receipt").attr("id", attr(stanza, "id").as_ref()).attr("to", from);
        if from.is_group() {
            return receipt.attr("participant", sender).build();
        }
        match optional_attr(stanza, "recipient") {
            Some(recipient) if device.account == self.account() => {
                receipt.attr("type", "sender").attr("recipient", recipient.as_ref()).build()
            }
            _ if device.account == self.account() => receipt.attr("type", "peer_msg").build(),
            _ => receipt.build(),
        }
    }

    /// Records that a message could not be decrypted and requests it again. The sender starts a new session when a
    /// message is requested twice.
    fn request_retry(&self, stanza: &Node, from: &Jid, sender: &Jid, why: String) -> Vec<Node> {
        let id = attr(stanza, "id").into_owned();
        let count = {
            let mut state = self.state();
            if state.retry_counts.len() >= MAX_TRACKED_RETRIES {
                state.retry_counts.clear();
            }
            let count = state.retry_counts.entry(id.clone()).or_default();
            *count += 1;
            *count
        };
        self.event_log.write(PhoneEvent::Undecryptable { id: id.clone(), sender: sender.clone(), why });
        if count >= MAX_RETRIES {
            return Vec::new();
        }
        let registration = bytes_node("registration", self.bundle().registration.to_be_bytes());
        let retry = NodeBuilder::new("retry")
            .attr("v", "1")
            .attr("id", id.as_str())
            .attr("t", attr(stanza, "t").as_ref())
            .attr("count", count)
            .build();
        let receipt = NodeBuilder::new("receipt").attr("id", id).attr("to", from).attr("type", "retry");
        let receipt = if from.is_group() { receipt.attr("participant", sender) } else { receipt };
        let receipt = match optional_attr(stanza, "recipient") {
            Some(recipient) => receipt.attr("recipient", recipient.as_ref()),
            None => receipt,
        };
        vec![receipt.children([retry, registration]).build()]
    }

    fn handle_receipt(&self, shared: &Arc<ServerState>, stanza: &Node) -> Vec<Node> {
        let Some(from) = jid_attr(stanza, "from") else { return Vec::new() };
        let reader = jid_attr(stanza, "participant").unwrap_or_else(|| from.clone());
        let kind = attr(stanza, "type");
        if kind == "retry" {
            return self.resend(shared, stanza, &reader).into_iter().collect();
        }
        let items = stanza.get_optional_child("list").map(children).unwrap_or_default();
        let ids = std::iter::once(stanza).chain(items).map(|item| attr(item, "id").into_owned()).collect();
        let kind = if kind.is_empty() { "delivered".to_owned() } else { kind.into_owned() };
        self.event_log.write(PhoneEvent::Receipt { ids, kind, chat: from.to_non_ad(), reader });
        Vec::new()
    }

    /// Encrypts a message again for a device that could not decrypt it.
    fn resend(&self, shared: &Arc<ServerState>, stanza: &Node, reader: &Jid) -> Option<Node> {
        let device = shared.registry().directory.device_of(reader)?;
        let id = attr(stanza, "id");
        let retry = stanza.get_optional_child("retry");
        let count: u8 = retry.and_then(|retry| attr(retry, "count").parse().ok()).unwrap_or(1);
        if count >= MAX_RETRIES {
            return None;
        }
        let (chat, message) = {
            let mut state = self.state();
            let bundle = match stanza.get_optional_child("keys") {
                Some(keys) => bundle_from_retry(stanza, keys)?,
                None => take_bundle(&mut shared.registry(), device)?,
            };
            if let Err(error) = state.signal.start_session(device, &bundle) {
                tracing::info!(%error, "retry failed: no session with the device");
                return None;
            }
            for recipients in state.sender_key_recipients.values_mut() {
                recipients.remove(&device);
            }
            let sent = state.sent.iter().find(|sent| sent.id == id)?;
            (sent.chat.clone(), sent.message.clone())
        };
        match self.encrypt_retry(shared, device, &chat, &id, &message, count) {
            Ok(stanza) => Some(stanza),
            Err(error) => {
                tracing::info!(%error, "retry failed: message not encrypted");
                None
            }
        }
    }

    /// Handles a message of a linked device that is not shown to the user.
    fn handle_peer_message(
        &self,
        shared: &Arc<ServerState>,
        device: DeviceId,
        message: &Message,
    ) -> Option<Node> {
        let protocol = message.protocol_message.as_option()?;
        match protocol.r#type? {
            Type::APP_STATE_SYNC_KEY_REQUEST => {
                let share = self.app_state_key_share(shared);
                self.peer_message(shared, device, &share).ok()
            }
            kind => {
                tracing::debug!(?kind, "unknown peer message; ignoring it");
                None
            }
        }
    }
}

/// Stores the sender key in a message. Returns whether there was one.
fn process_sender_key_distribution(
    signal_state: &mut signal::SignalState,
    group: &str,
    device: DeviceId,
    message: &Message,
) -> signal::Result<bool> {
    let Some(distribution) = message.sender_key_distribution_message.as_option() else { return Ok(false) };
    let group = distribution.group_id.as_deref().unwrap_or(group);
    let Some(key) = distribution.axolotl_sender_key_distribution_message.as_deref() else { return Ok(false) };
    signal_state.process_sender_key(group, device, key)?;
    Ok(true)
}

/// The keys in a retry request.
fn bundle_from_retry(receipt: &Node, keys: &Node) -> Option<DeviceKeyBundle> {
    Some(DeviceKeyBundle {
        registration: parse_be_u32(child_bytes(receipt, "registration")?)?,
        identity: child_bytes(keys, "identity")?.try_into().ok()?,
        signed: parse_signed_pre_key(keys.get_optional_child("skey")?)?,
        one_time: keys.get_optional_child("key").and_then(parse_one_time_pre_key),
    })
}
