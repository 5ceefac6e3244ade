//! Outgoing stanzas of a virtual phone: messages encrypted for each device, receipts, typing and presence.

use bytes::Bytes;
use relevo_linked_device::client::wacore::download::{DownloadUtils, Downloadable, MediaType};
use relevo_linked_device::client::wacore::messages::{MessageUtils, wrap_device_sent};
use relevo_linked_device::client::wacore::upload::encrypt_media;
use relevo_linked_device::client::wacore_binary::builder::NodeBuilder;
use relevo_linked_device::client::wacore_binary::node::Node;
use relevo_linked_device::client::wacore_binary::{Jid, JidExt as _};
use relevo_linked_device::client::waproto::buffa::MessageField;
use relevo_linked_device::client::waproto::whatsapp::message::protocol_message::Type;
use relevo_linked_device::client::waproto::whatsapp::message::{
    ImageMessage, ProtocolMessage, ReactionMessage, SenderKeyDistributionMessage,
};
use relevo_linked_device::client::waproto::whatsapp::{Message, MessageKey};

use crate::accounts::{AddressingMode, DeviceId};
use crate::keys::DeviceKeyBundle;
use crate::media;
use crate::phone::{Error, Phone, PhoneSentMessage, Result};
use crate::phone_events::PhoneMessage;
use crate::registry::Registry;
use crate::server_state::ServerState;
use crate::signal::Ciphertext;

/// Attributes of a message stanza.
#[derive(Debug, Clone, Copy)]
struct StanzaAttributes<'a> {
    kind: &'a str,
    /// The attribute `edit`; empty for a new message.
    edit: &'a str,
}

impl StanzaAttributes<'_> {
    fn from_message(message: &Message) -> Self {
        let kind = if message.reaction_message.is_set() {
            "reaction"
        } else if message.image_message.is_set() {
            "media"
        } else {
            "text"
        };
        let edit = match message.protocol_message.as_option().and_then(|protocol| protocol.r#type) {
            Some(Type::MESSAGE_EDIT) => "1",
            Some(Type::REVOKE) => "7",
            _ => "",
        };
        Self { kind, edit }
    }

    fn apply_to(self, message: NodeBuilder) -> NodeBuilder {
        let message = message.attr("type", self.kind);
        if self.edit.is_empty() { message } else { message.attr("edit", self.edit) }
    }
}

impl Phone {
    /// Sends a text to a user or a group. Returns the message's id.
    ///
    /// # Errors
    /// The recipient does not exist, or the server has stopped.
    pub fn send_text(&self, to: &Jid, text: &str) -> Result<String> {
        self.send(to, Message { conversation: Some(text.to_owned()), ..Default::default() })
    }

    /// Reacts to a received message; an empty emoji removes the reaction.
    ///
    /// # Errors
    /// As [`Phone::send_text`].
    pub fn react(&self, received: &PhoneMessage, emoji: &str) -> Result<String> {
        let reaction = ReactionMessage {
            key: MessageField::some(message_key(received)),
            text: Some(emoji.to_owned()),
            sender_timestamp_ms: self.now_millis(),
            ..Default::default()
        };
        let message = Message { reaction_message: MessageField::some(reaction), ..Default::default() };
        self.send(&received.chat, message)
    }

    /// Replaces the text of a message that the phone sent.
    ///
    /// # Errors
    /// As [`Phone::send_text`].
    pub fn edit(&self, chat: &Jid, id: &str, text: &str) -> Result<String> {
        let edited = Message { conversation: Some(text.to_owned()), ..Default::default() };
        let protocol = ProtocolMessage {
            key: MessageField::some(own_message_key(chat, id)),
            r#type: Some(Type::MESSAGE_EDIT),
            edited_message: MessageField::some(edited),
            timestamp_ms: self.now_millis(),
            ..Default::default()
        };
        self.send(chat, Message { protocol_message: MessageField::some(protocol), ..Default::default() })
    }

    /// Revokes a message that the phone sent.
    ///
    /// # Errors
    /// As [`Phone::send_text`].
    pub fn revoke(&self, chat: &Jid, id: &str) -> Result<String> {
        let protocol = ProtocolMessage {
            key: MessageField::some(own_message_key(chat, id)),
            r#type: Some(Type::REVOKE),
            ..Default::default()
        };
        self.send(chat, Message { protocol_message: MessageField::some(protocol), ..Default::default() })
    }

    /// Uploads and sends an image.
    ///
    /// # Errors
    /// As [`Phone::send_text`], and when the image is larger than the media store.
    pub fn send_image(&self, to: &Jid, image: &[u8], caption: &str) -> Result<String> {
        let shared = self.server()?;
        let sealed =
            encrypt_media(image, MediaType::Image).map_err(|error| Error::Media(error.to_string()))?;
        let direct_path =
            media::direct_path(MediaType::Image.mms_type(), &media::token(&sealed.file_enc_sha256));
        if !shared.media.put(&direct_path, Bytes::from(sealed.data_to_upload)) {
            return Err(Error::Media("it is larger than the media store".into()));
        }
        let image = ImageMessage {
            url: Some(format!("https://{}{direct_path}", shared.address)),
            mimetype: Some("image/jpeg".into()),
            caption: (!caption.is_empty()).then(|| caption.to_owned()),
            file_sha256: Some(sealed.file_sha256.to_vec()),
            file_length: Some(image.len() as u64),
            media_key: Some(sealed.media_key.to_vec()),
            file_enc_sha256: Some(sealed.file_enc_sha256.to_vec()),
            direct_path: Some(direct_path),
            media_key_timestamp: i64::try_from(shared.seconds()).ok(),
            ..Default::default()
        };
        self.send(to, Message { image_message: MessageField::some(image), ..Default::default() })
    }

    /// Downloads and decrypts the media of a message.
    ///
    /// # Errors
    /// The file does not exist, or it differs from the message's description.
    pub fn download_media(&self, media: &dyn Downloadable) -> Result<Vec<u8>> {
        let missing = || Error::Media("the server has no such file".into());
        let file = media.direct_path().and_then(|path| self.server().ok()?.media.get(path));
        let (file, key) = (file.ok_or_else(missing)?, media.media_key().ok_or_else(missing)?);
        DownloadUtils::verify_and_decrypt(&file, key, media.app_info())
            .map_err(|error| Error::Media(error.to_string()))
    }

    /// Sends a message to a user or a group, and to the phone's own linked devices. Returns its id.
    ///
    /// # Errors
    /// As [`Phone::send_text`].
    pub fn send(&self, to: &Jid, message: Message) -> Result<String> {
        let shared = self.server()?;
        let id = format!("3EB0{:016X}{:04X}", shared.random.value::<u64>(), shared.random.value::<u16>());
        let stanza = if to.is_group() {
            self.encrypt_for_group(&shared, to, &id, &message)?
        } else {
            self.encrypt_for_user(&shared, to, &id, &message)?
        };
        self.state().record_sent(PhoneSentMessage {
            id: id.clone(),
            chat: to.clone(),
            message: Box::new(message),
        });
        self.send_stanza(&shared, stanza);
        Ok(id)
    }

    fn encrypt_for_user(&self, shared: &ServerState, to: &Jid, id: &str, message: &Message) -> Result<Node> {
        let addressing = AddressingMode::from_jid(to).ok_or_else(|| Error::UnknownRecipient(to.clone()))?;
        let (theirs, ours) = {
            let registry = shared.registry();
            let account =
                registry.directory.account_of(to).ok_or_else(|| Error::UnknownRecipient(to.clone()))?;
            let devices_of = |account| {
                let numbers = registry.directory.account(account).device_numbers();
                numbers.map(move |number| DeviceId { account, number }).collect::<Vec<_>>()
            };
            let theirs = if account == self.account() { Vec::new() } else { devices_of(account) };
            (theirs, devices_of(self.account()))
        };
        let wrapped = wrap_device_sent(message.clone(), to.to_non_ad_string());
        let mut participants = Vec::new();
        for device in theirs {
            participants.push(self.participant_node(shared, device, addressing, message)?);
        }
        for device in ours.into_iter().filter(|device| device.number != 0) {
            participants.push(self.participant_node(shared, device, addressing, &wrapped)?);
        }
        let stanza = NodeBuilder::new("message").attr("to", to.to_non_ad()).attr("id", id);
        let list = NodeBuilder::new("participants").children(participants).build();
        Ok(StanzaAttributes::from_message(message).apply_to(stanza).children([list]).build())
    }

    fn participant_node(
        &self,
        shared: &ServerState,
        device: DeviceId,
        addressing: AddressingMode,
        message: &Message,
    ) -> Result<Node> {
        let sealed = self.encrypt_for_device(shared, device, message)?;
        let jid = shared.registry().directory.device_jid(device, addressing);
        Ok(NodeBuilder::new("to").attr("jid", jid).children([sealed]).build())
    }

    /// `<enc>` for one device. Starts a session if there is none.
    pub(super) fn encrypt_for_device(
        &self,
        shared: &ServerState,
        device: DeviceId,
        message: &Message,
    ) -> Result<Node> {
        let mut state = self.state();
        if !state.signal.has_session(device) {
            let bundle = take_bundle(&mut shared.registry(), device).ok_or(Error::NoDevice(device.number))?;
            state.signal.start_session(device, &bundle)?;
        }
        Ok(enc_node(state.signal.encrypt(device, &MessageUtils::encode_and_pad(message))?))
    }

    fn encrypt_for_group(&self, shared: &ServerState, to: &Jid, id: &str, message: &Message) -> Result<Node> {
        let (addressing, devices) = {
            let registry = shared.registry();
            let group = registry.groups.get(to.user.as_str()).filter(|group| group.is_member(self.account()));
            let group = group.ok_or_else(|| Error::UnknownRecipient(to.clone()))?;
            (
                group.addressing_mode,
                group.devices(&registry).filter(|device| *device != self.device()).collect::<Vec<_>>(),
            )
        };
        let group = to.to_non_ad_string();
        let key = self.state().signal.own_sender_key(&group, self.device())?;
        let recipients = self.state().sender_key_recipients.get(&group).cloned().unwrap_or_default();
        let mut participants = Vec::new();
        for device in devices.iter().filter(|device| !recipients.contains(device)) {
            let distribution = SenderKeyDistributionMessage {
                group_id: Some(group.clone()),
                axolotl_sender_key_distribution_message: Some(key.clone()),
            };
            let key_message = Message {
                sender_key_distribution_message: MessageField::some(distribution),
                ..Default::default()
            };
            participants.push(self.participant_node(shared, *device, addressing, &key_message)?);
        }
        let mut state = self.state();
        state.sender_key_recipients.entry(group.clone()).or_default().extend(devices);
        let padded = MessageUtils::encode_and_pad(message);
        let sealed = enc_node(state.signal.encrypt_for_group(&group, self.device(), &padded)?);
        drop(state);
        let mut parts = Vec::new();
        if !participants.is_empty() {
            parts.push(NodeBuilder::new("participants").children(participants).build());
        }
        parts.push(sealed);
        let stanza = NodeBuilder::new("message").attr("to", to).attr("id", id);
        Ok(StanzaAttributes::from_message(message).apply_to(stanza).children(parts).build())
    }

    /// A repeated message for one device that could not decrypt it.
    pub(super) fn encrypt_retry(
        &self,
        shared: &ServerState,
        device: DeviceId,
        chat: &Jid,
        id: &str,
        message: &Message,
        count: u8,
    ) -> Result<Node> {
        let own = device.account == self.account() && !chat.is_group();
        let sealed = if own {
            self.encrypt_for_device(
                shared,
                device,
                &wrap_device_sent(message.clone(), chat.to_non_ad_string()),
            )?
        } else {
            self.encrypt_for_device(shared, device, message)?
        };
        let mut sealed = sealed;
        sealed.attrs.insert("count", count);
        let registry = shared.registry();
        let addressing = if chat.is_group() {
            registry.groups.get(chat.user.as_str()).map(|group| group.addressing_mode)
        } else {
            AddressingMode::from_jid(chat)
        };
        let jid = registry.directory.device_jid(device, addressing.unwrap_or(AddressingMode::Lid));
        let stanza = NodeBuilder::new("message").attr("id", id);
        let stanza = if chat.is_group() {
            stanza.attr("to", chat).attr("participant", jid)
        } else if own {
            stanza.attr("to", jid).attr("recipient", chat.to_non_ad())
        } else {
            stanza.attr("to", jid)
        };
        Ok(StanzaAttributes::from_message(message).apply_to(stanza).children([sealed]).build())
    }

    /// Sends a read receipt for messages of one sender in one chat.
    ///
    /// # Errors
    /// The server has stopped.
    pub fn mark_read(&self, received: &[&PhoneMessage]) -> Result<()> {
        let shared = self.server()?;
        let Some((first, others)) = received.split_first() else { return Ok(()) };
        let mut receipt = NodeBuilder::new("receipt").attr("id", first.id.as_str()).attr("type", "read");
        receipt = if first.chat.is_group() {
            receipt.attr("to", &first.chat).attr("participant", &first.sender)
        } else {
            receipt.attr("to", &first.sender)
        };
        if !others.is_empty() {
            let items =
                others.iter().map(|other| NodeBuilder::new("item").attr("id", other.id.as_str()).build());
            receipt = receipt.children([NodeBuilder::new("list").children(items).build()]);
        }
        self.send_stanza(&shared, receipt.build());
        Ok(())
    }

    /// Sends the start or the end of typing to the other side.
    ///
    /// # Errors
    /// The server has stopped.
    pub fn send_typing(&self, chat: &Jid, typing: bool) -> Result<()> {
        let state = NodeBuilder::new(if typing { "composing" } else { "paused" }).build();
        let stanza = NodeBuilder::new("chatstate").attr("to", chat).children([state]).build();
        self.send_stanza(&self.server()?, stanza);
        Ok(())
    }

    /// Sends the presence `available` or `unavailable`.
    ///
    /// # Errors
    /// The server has stopped.
    pub fn send_presence(&self, available: bool) -> Result<()> {
        let kind = if available { "available" } else { "unavailable" };
        let stanza = NodeBuilder::new("presence").attr("type", kind).build();
        self.send_stanza(&self.server()?, stanza);
        Ok(())
    }

    fn now_millis(&self) -> Option<i64> {
        i64::try_from(self.server().ok()?.clock.now().millis()).ok()
    }
}

/// The keys to start a session with a device. A linked device's one-time key is consumed.
pub(super) fn take_bundle(registry: &mut Registry, device: DeviceId) -> Option<DeviceKeyBundle> {
    if device.number == 0 {
        return Some(registry.directory.account(device.account).phone.bundle());
    }
    Some(registry.directory.device_mut(device)?.keys.take_bundle())
}

fn enc_node(sealed: Ciphertext) -> Node {
    NodeBuilder::new("enc").attr("v", "2").attr("type", sealed.kind).bytes(sealed.bytes).build()
}

fn message_key(received: &PhoneMessage) -> MessageKey {
    MessageKey {
        remote_jid: Some(received.chat.to_non_ad_string()),
        from_me: Some(received.from_me),
        id: Some(received.id.clone()),
        participant: received.chat.is_group().then(|| received.sender.to_non_ad_string()),
    }
}

fn own_message_key(chat: &Jid, id: &str) -> MessageKey {
    MessageKey {
        remote_jid: Some(chat.to_non_ad_string()),
        from_me: Some(true),
        id: Some(id.to_owned()),
        participant: None,
    }
}
