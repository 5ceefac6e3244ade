//! History sync: messages from before the pairing that a phone sends to a linked device.

use bytes::Bytes;
use relevo_linked_device::client::wacore::download::MediaType;
use relevo_linked_device::client::wacore::upload::encrypt_media;
use relevo_linked_device::client::wacore_binary::Jid;
use relevo_linked_device::client::waproto::buffa::{Message as _, MessageField};
use relevo_linked_device::client::waproto::whatsapp::message::protocol_message::Type;
use relevo_linked_device::client::waproto::whatsapp::message::{
    HistorySyncNotification, HistorySyncType, ProtocolMessage,
};
use relevo_linked_device::client::waproto::whatsapp::{
    Conversation, HistorySync, HistorySyncMsg, Message, MessageKey, WebMessageInfo, history_sync,
};

use crate::accounts::DeviceId;
use crate::media;
use crate::phone::{Error, Phone, Result};

/// Maximum size of an uncompressed zlib block, in bytes. Source: RFC 1951, 3.2.4.
const MAX_STORED_BLOCK_BYTES: usize = 0xffff;

impl Phone {
    /// Sends past texts to a linked device, each from the user of its chat: uploads them as a file and announces
    /// the file as the first part of the history.
    ///
    /// # Errors
    /// The account has no such device, or the server has stopped.
    pub fn send_history(&self, device: u16, texts: &[(Jid, &str)]) -> Result<()> {
        let shared = self.server()?;
        let seconds = shared.seconds();
        let conversations =
            texts.iter().enumerate().map(|(n, (chat, text))| conversation(chat, n, text, seconds));
        let history = HistorySync {
            sync_type: history_sync::HistorySyncType::INITIAL_BOOTSTRAP,
            conversations: conversations.collect(),
            chunk_order: Some(0),
            progress: Some(100),
            ..Default::default()
        };
        let failed = |error: &dyn std::fmt::Display| Error::Media(error.to_string());
        let sealed = encrypt_media(&zlib_stored(&history.encode_to_vec()), MediaType::History)
            .map_err(|error| failed(&error))?;
        let path = media::direct_path(MediaType::History.mms_type(), &media::token(&sealed.file_enc_sha256));
        let length = sealed.data_to_upload.len() as u64;
        if !shared.media.put(&path, Bytes::from(sealed.data_to_upload)) {
            return Err(failed(&"it is larger than the media store"));
        }
        let notification = HistorySyncNotification {
            file_sha256: Some(sealed.file_sha256.to_vec()),
            file_length: Some(length),
            media_key: Some(sealed.media_key.to_vec()),
            file_enc_sha256: Some(sealed.file_enc_sha256.to_vec()),
            direct_path: Some(path),
            sync_type: Some(HistorySyncType::INITIAL_BOOTSTRAP),
            chunk_order: Some(0),
            progress: Some(100),
            ..Default::default()
        };
        let protocol = ProtocolMessage {
            r#type: Some(Type::HISTORY_SYNC_NOTIFICATION),
            history_sync_notification: MessageField::some(notification),
            ..Default::default()
        };
        let message = Message { protocol_message: MessageField::some(protocol), ..Default::default() };
        let to = DeviceId { account: self.account(), number: device };
        let stanza = self.peer_message(&shared, to, &message)?;
        self.send_stanza(&shared, stanza);
        Ok(())
    }
}

fn conversation(chat: &Jid, number: usize, text: &str, seconds: u64) -> Conversation {
    let key = MessageKey {
        remote_jid: Some(chat.to_non_ad_string()),
        from_me: Some(false),
        id: Some(format!("3EB0HISTORY{number:08}")),
        participant: None,
    };
    let message = WebMessageInfo {
        key: MessageField::some(key),
        message: MessageField::some(Message { conversation: Some(text.to_owned()), ..Default::default() }),
        message_timestamp: Some(seconds),
        ..Default::default()
    };
    Conversation {
        id: chat.to_non_ad_string(),
        messages: vec![HistorySyncMsg { message: MessageField::some(message), msg_order_id: Some(1) }],
        ..Default::default()
    }
}

/// A zlib stream without compression. Source: RFC 1950 and 1951.
fn zlib_stored(plain: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = plain.chunks(MAX_STORED_BLOCK_BYTES);
    let last = blocks.len().saturating_sub(1);
    for (n, block) in blocks.enumerate() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        stream.push(u8::from(n == last));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in plain {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}
