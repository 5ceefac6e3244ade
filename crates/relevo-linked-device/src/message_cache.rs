//! The latest messages and polls of a linked device. WhatsApp does not keep them, and they are needed: a quote, a reaction
//! or a read mark must name the chat and the sender of its message, and a vote can only be decrypted with the secret of
//! its poll.
//!
//! Each instance has one ring for messages and one for polls: a new record evicts the oldest, so nothing has to be swept.
//! The first record of an id is kept: a second one is a repeated delivery, or a sender who reuses an id of another.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use whatsapp_rust::types::durability_hook::InboundMessage as Received;
use whatsapp_rust::waproto::codec;
use whatsapp_rust::waproto::whatsapp as wa;

use relevo_domain::InstanceNumber;
use relevo_store::{self as store, Error, Key, Space, Store, Tx};

use super::lid_mapping::LidMapping;
use super::unwrap_message::unwrap_message;

/// The cached messages of an instance.
const MESSAGES: Ring = Ring { table: b'm', slots: 4096 };

/// The cached polls of an instance, whose votes can be decrypted.
const POLLS: Ring = Ring { table: b'p', slots: 256 };

/// Maximum size of the copy of a message that quotes of it show.
const MAX_QUOTE_BYTES: usize = 1000;

/// Length of the text that is kept of a longer message, in characters; phones show three lines.
const SNIPPET_CHARS: usize = 250;

/// Maximum size of a record. Only polls with longer options than WhatsApp permits exceed it; they are not cached.
const MAX_RECORD_BYTES: usize = 4000;

/// Number of records that one commit deletes.
const DELETE_BATCH: usize = 1000;

/// The chat and the sender of a message, and a copy for quotes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CachedMessage {
    /// The JID of the chat, without its device.
    pub chat: String,
    /// The JID of the sender, without its device.
    pub sender: String,
    pub from_me: bool,
    /// The encoded message that quotes show.
    copy: Vec<u8>,
}

/// The data that decrypts the votes of a poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CachedPoll {
    pub secret: Vec<u8>,
    pub options: Vec<String>,
    /// The JIDs under which the voter may have known the author.
    pub authors: Vec<String>,
}

/// The cache entries of one received message.
pub(super) struct MessageCacheEntry {
    id: String,
    message: Option<CachedMessage>,
    poll: Option<CachedPoll>,
}

impl CachedMessage {
    /// `message` is the one that quotes show, shortened.
    pub fn new(chat: &str, sender: &str, from_me: bool, message: &wa::Message) -> Self {
        Self { chat: chat.to_owned(), sender: sender.to_owned(), from_me, copy: encode_quote(message) }
    }

    /// The message that quotes show.
    pub fn quoted_message(&self) -> Option<wa::Message> {
        codec::message_decode(&self.copy).ok()
    }
}

impl MessageCacheEntry {
    /// `None` for messages that cannot be referred to: reactions, votes and protocol messages.
    pub fn from_received(received: &Received, names: &LidMapping) -> Option<Self> {
        let (info, message) = (&received.info, unwrap_message(&received.message));
        let unreferenceable = message.protocol_message.is_set()
            || message.reaction_message.is_set()
            || message.enc_reaction_message.is_set()
            || message.poll_update_message.is_set()
            || message.pin_in_chat_message.is_set()
            || message.keep_in_chat_message.is_set();
        if unreferenceable {
            return None;
        }
        let source = &info.source;
        let (chat, sender) = (source.chat.to_non_ad_string(), source.sender.to_non_ad_string());
        let cached = Some(CachedMessage::new(&chat, &sender, source.is_from_me, message))
            .filter(|cached| !cached.copy.is_empty());
        let authors = [Some(&source.sender), names.alternate(&source.sender, source.sender_alt.as_ref())];
        let authors = authors.into_iter().flatten().map(|author| author.to_non_ad_string()).collect();
        let context =
            received.message.message_context_info.as_option().or(message.message_context_info.as_option());
        let secret = context.and_then(|context| context.message_secret.clone());
        let poll = poll_creation(message).zip(secret).map(|(poll, secret)| CachedPoll {
            secret,
            options: poll.options.iter().filter_map(|option| option.option_name.clone()).collect(),
            authors,
        });
        (cached.is_some() || poll.is_some()).then(|| Self { id: info.id.clone(), message: cached, poll })
    }
}

/// The poll of a message, in any of its versions.
pub(super) fn poll_creation(message: &wa::Message) -> Option<&wa::message::PollCreationMessage> {
    [
        &message.poll_creation_message,
        &message.poll_creation_message_v2,
        &message.poll_creation_message_v3,
        &message.poll_creation_message_v5,
        &message.poll_creation_message_v6,
    ]
    .into_iter()
    .find_map(|poll| poll.as_option())
}

/// Caches received messages. The write is queued when this returns; its commit is not awaited.
pub(super) async fn insert_all(store: &Store, instance: InstanceNumber, entries: Vec<MessageCacheEntry>) {
    if entries.is_empty() {
        return;
    }
    let insert = move |tx: &mut Tx| {
        for MessageCacheEntry { id, message, poll } in entries {
            if let Some(message) = message {
                MESSAGES.insert(tx, instance, &id, &message)?;
            }
            if let Some(poll) = poll {
                POLLS.insert(tx, instance, &id, &poll)?;
            }
        }
        Ok(())
    };
    let done = |outcome: Result<(), Error>| {
        if let Err(cause) = outcome {
            tracing::warn!(%cause, "received messages not cached; quotes of them will have no content");
        }
    };
    store.submit(insert, done).await;
}

/// The cached message with this id, if it is among the latest.
pub(super) fn find_message(
    store: &Store,
    instance: InstanceNumber,
    id: &str,
) -> Result<Option<CachedMessage>, Error> {
    MESSAGES.find(store, instance, id)
}

/// The cached poll with this id, if it is among the latest.
pub(super) fn find_poll(
    store: &Store,
    instance: InstanceNumber,
    id: &str,
) -> Result<Option<CachedPoll>, Error> {
    POLLS.find(store, instance, id)
}

/// Stores a poll before it is sent and returns when it is durable. Returns the poll of an earlier attempt if there is one,
/// because voters may have its secret.
pub(super) async fn insert_poll(
    store: &Store,
    instance: InstanceNumber,
    id: &str,
    poll: CachedPoll,
) -> Result<CachedPoll, Error> {
    let id = id.to_owned();
    store.write(move |tx| POLLS.insert(tx, instance, &id, &poll).map(|earlier| earlier.unwrap_or(poll))).await
}

/// Deletes all records of an instance in this key space, in several commits.
pub(super) async fn delete_all(store: &Store, instance: InstanceNumber, space: Space) -> Result<(), Error> {
    let prefix = Key::new(space).u32(instance.get());
    loop {
        let (start, end) = (prefix.clone(), prefix.clone().after_prefix());
        let delete_batch = move |tx: &mut Tx| {
            let keys: Vec<_> = tx
                .range(&start, &end)
                .take(DELETE_BATCH)
                .map(|entry| entry.map(|(key, _)| key))
                .collect::<Result<_, _>>()?;
            let more = keys.len() == DELETE_BATCH;
            keys.into_iter().try_for_each(|key| tx.delete(key.into()))?;
            Ok(more)
        };
        if !store.write(delete_batch).await? {
            return Ok(());
        }
    }
}

/// Encodes a message for quotes of it: without nested quotes, keys and thumbnails, and shortened to its text when it is
/// too large.
fn encode_quote(message: &wa::Message) -> Vec<u8> {
    use whatsapp_rust::proto_helpers::MessageExt as _;
    let mut copy = message.prepare_for_quote();
    copy.message_context_info = Default::default();
    copy.sender_key_distribution_message = Default::default();
    if let Some(image) = copy.image_message.as_option_mut() {
        image.jpeg_thumbnail = None;
    }
    if let Some(video) = copy.video_message.as_option_mut() {
        video.jpeg_thumbnail = None;
    }
    if let Some(document) = copy.document_message.as_option_mut() {
        document.jpeg_thumbnail = None;
    }
    if codec::message_encoded_len(&copy) <= MAX_QUOTE_BYTES {
        return codec::message_to_vec(&copy);
    }
    let text = copy.text_content().or_else(|| copy.get_caption()).unwrap_or("…");
    let snippet =
        wa::Message { conversation: Some(text.chars().take(SNIPPET_CHARS).collect()), ..Default::default() };
    codec::message_to_vec(&snippet)
}

/// A ring of records by id that keeps the newest ones.
struct Ring {
    table: u8,
    slots: u32,
}

impl Ring {
    /// Inserts a record and evicts the oldest one if the ring is full. An earlier record of the same id is kept and
    /// returned.
    fn insert<T: Serialize + DeserializeOwned>(
        &self,
        tx: &mut Tx,
        instance: InstanceNumber,
        id: &str,
        record: &T,
    ) -> Result<Option<T>, Error> {
        let name = hashed_id(id);
        let key = self.key(instance, b'e').bytes(&name);
        if let Some(earlier) = tx.get(&key)? {
            return store::decode(&earlier).map(Some);
        }
        let record = store::encode(record)?;
        if record.len() > MAX_RECORD_BYTES {
            return Ok(None);
        }
        let counter = self.key(instance, b'n');
        let next =
            tx.get(&counter)?.and_then(|bytes| Some(u32::from_be_bytes(*bytes.first_chunk()?))).unwrap_or(0);
        let slot = self.key(instance, b's').u32(next);
        if let Some(oldest) = tx.get(&slot)? {
            tx.delete(self.key(instance, b'e').bytes(&oldest))?;
        }
        tx.put(slot, name)?;
        tx.put(key, record)?;
        tx.put(counter, ((next + 1) % self.slots).to_be_bytes().to_vec())?;
        Ok(None)
    }

    fn find<T: DeserializeOwned>(
        &self,
        store: &Store,
        instance: InstanceNumber,
        id: &str,
    ) -> Result<Option<T>, Error> {
        let found = store.get(&self.key(instance, b'e').bytes(&hashed_id(id)))?;
        found.map(|bytes| store::decode(&bytes)).transpose()
    }

    fn key(&self, instance: InstanceNumber, part: u8) -> Key {
        Key::new(Space::LinkedMessageCache).u32(instance.get()).u8(self.table).u8(part)
    }
}

/// The key of an id. Senders choose ids, so they may have any length.
fn hashed_id(id: &str) -> Vec<u8> {
    let digest = Sha256::digest(id.as_bytes());
    digest.iter().take(16).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use whatsapp_rust::types::message::{MessageInfo, MessageSource};

    use super::*;
    use relevo_store::TestStore;

    const INSTANCE: InstanceNumber = InstanceNumber::FIRST;
    const SMALL: Ring = Ring { table: b'x', slots: 3 };

    fn received(id: &str, message: wa::Message) -> Received {
        let source = MessageSource {
            chat: "120363025246125486@g.us".parse().unwrap(),
            sender: "573001234567:4@s.whatsapp.net".parse().unwrap(),
            sender_alt: Some("123456789012345:4@lid".parse().unwrap()),
            is_group: true,
            ..MessageSource::default()
        };
        let info = MessageInfo { id: id.to_owned(), source, ..MessageInfo::default() };
        Received::builder().message(Arc::new(message)).info(Arc::new(info)).build()
    }

    fn entry(id: &str, message: wa::Message) -> Option<MessageCacheEntry> {
        MessageCacheEntry::from_received(&received(id, message), &LidMapping::default())
    }

    #[test]
    fn full_ring_evicts_only_the_oldest() {
        let store = TestStore::new();
        for n in 0..5_u32 {
            store.write(|tx| SMALL.insert(tx, INSTANCE, &n.to_string(), &n)).unwrap();
        }
        let found =
            |id: &str| store.write(|tx| tx.get(&SMALL.key(INSTANCE, b'e').bytes(&hashed_id(id)))).unwrap();
        assert_eq!(
            [0, 1, 2, 3, 4].map(|n: u32| found(&n.to_string()).is_some()),
            [false, false, true, true, true]
        );
        assert_eq!(store.entries().len(), 3 + 3 + 1, "records, slots and the counter");
    }

    #[test]
    fn first_record_of_an_id_is_kept() {
        let store = TestStore::new();
        assert_eq!(store.write(|tx| SMALL.insert(tx, INSTANCE, "A", &1_u32)).unwrap(), None);
        assert_eq!(store.write(|tx| SMALL.insert(tx, INSTANCE, "A", &2_u32)).unwrap(), Some(1));
    }

    #[test]
    fn message_is_cached_with_its_quote() {
        let text = wa::Message { conversation: Some("hola".to_owned()), ..Default::default() };
        let cached = entry("A", text.clone()).unwrap().message.unwrap();
        assert_eq!((cached.chat.as_str(), cached.from_me), ("120363025246125486@g.us", false));
        assert_eq!(cached.sender, "573001234567@s.whatsapp.net");
        assert_eq!(cached.quoted_message().unwrap().conversation, text.conversation);
        let long = wa::Message { conversation: Some("ñ".repeat(5000)), ..Default::default() };
        let copy = entry("A", long).unwrap().message.unwrap().quoted_message().unwrap();
        assert_eq!(copy.conversation, Some("ñ".repeat(SNIPPET_CHARS)));
        let image = wa::message::ImageMessage {
            caption: Some("foto".to_owned()),
            jpeg_thumbnail: Some(vec![1; 9000]),
            ..Default::default()
        };
        let image = wa::Message { image_message: wa_field(image), ..Default::default() };
        let copy = entry("A", image).unwrap().message.unwrap().quoted_message().unwrap();
        assert_eq!(copy.image_message.as_option().unwrap().caption.as_deref(), Some("foto"));
    }

    #[test]
    fn unreferenceable_message_is_not_cached() {
        let reaction = wa::Message {
            reaction_message: wa_field(wa::message::ReactionMessage::default()),
            ..Default::default()
        };
        assert!(entry("A", reaction).is_none());
        assert!(entry("A", wa::Message::default()).is_none());
    }

    #[test]
    fn poll_is_cached_with_its_secret() {
        let option = |name: &str| wa::message::poll_creation_message::Option {
            option_name: Some(name.to_owned()),
            ..Default::default()
        };
        let poll = wa::message::PollCreationMessage {
            name: Some("?".to_owned()),
            options: vec![option("sí"), option("no")],
            ..Default::default()
        };
        let context = wa::MessageContextInfo { message_secret: Some(vec![7; 32]), ..Default::default() };
        let message = wa::Message {
            poll_creation_message_v3: wa_field(poll),
            message_context_info: wa_field(context),
            ..Default::default()
        };
        let expected = CachedPoll {
            secret: vec![7; 32],
            options: vec!["sí".to_owned(), "no".to_owned()],
            authors: vec!["573001234567@s.whatsapp.net".to_owned(), "123456789012345@lid".to_owned()],
        };
        assert_eq!(entry("A", message).unwrap().poll, Some(expected));
    }

    fn wa_field<T: Default>(value: T) -> whatsapp_rust::buffa::MessageField<T> {
        whatsapp_rust::buffa::MessageField::some(value)
    }
}
