//! References to earlier messages in quotes, reactions, edits, revocations and read marks.

use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::types::message::AddressingMode;
use whatsapp_rust::wacore_binary::JidExt as _;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::{Client, Jid};

use crate::client_state::is_our_stanza;
use crate::jid::{is_person, jid_from_recipient};
use crate::message_cache::{self, CachedMessage};
use relevo_domain::{Failure, FailureKind, FailureScope, InstanceNumber, OutboundMessage};
use relevo_provider::MarkReadRequest;
use relevo_store::{self as store, Store};

/// Builds references to messages of one chat.
pub(super) struct MessageKeyBuilder<'a> {
    pub client: &'a Client,
    pub store: &'a Store,
    pub instance: InstanceNumber,
    pub chat: &'a Jid,
}

impl MessageKeyBuilder<'_> {
    /// The context of a message: its quote and its mentions.
    pub async fn context_info(&self, message: &OutboundMessage) -> Result<Option<wa::ContextInfo>, Failure> {
        let mentions: Vec<_> = message
            .options
            .mentions
            .iter()
            .filter_map(jid_from_recipient)
            .map(|jid| jid.to_string())
            .collect();
        let Some(quote) = &message.quote else {
            let context = wa::ContextInfo { mentioned_jid: mentions, ..Default::default() };
            return Ok((!context.mentioned_jid.is_empty()).then_some(context));
        };
        let id = quote.as_str();
        let cached = self.find_message(id)?;
        let own = self.own_jid().await?;
        Ok(Some(wa::ContextInfo {
            mentioned_jid: mentions,
            ..quote_context(id, cached.as_ref(), self.chat, &own)
        }))
    }

    fn find_message(&self, id: &str) -> Result<Option<CachedMessage>, Failure> {
        message_cache::find_message(self.store, self.instance, id).map_err(|cause| store_failure(&cause))
    }

    /// The key of the message that a reaction refers to.
    pub async fn reaction_key(&self, id: &str) -> Result<wa::MessageKey, Failure> {
        if self.chat.is_group() {
            let group = self
                .client
                .groups()
                .query_info(self.chat)
                .await
                .map_err(|cause| group_query_failure(&cause))?;
            if group.is_community_announce == Some(true) {
                let text = "reactions in the announcement group of a community use an encryption that is not supported; \
                            answer with a text";
                return Err(Failure::permanent(text));
            }
        }
        message_key(id, self.find_message(id)?.as_ref(), self.chat)
    }

    /// The key of the own message that is edited. In groups it contains this account's JID in the group.
    pub async fn edit_key(&self, id: &str) -> Result<wa::MessageKey, Failure> {
        let participant = if self.chat.is_group() { Some(self.own_jid().await?) } else { None };
        Ok(wa::MessageKey { participant, ..self.revoke_key(id) })
    }

    /// The key of the own message that is revoked.
    pub fn revoke_key(&self, id: &str) -> wa::MessageKey {
        own_key(id, self.chat)
    }

    /// The JID of this account in the chat.
    async fn own_jid(&self) -> Result<String, Failure> {
        let uses_lid = if self.chat.is_group() {
            let group = self
                .client
                .groups()
                .query_info(self.chat)
                .await
                .map_err(|cause| group_query_failure(&cause))?;
            group.addressing_mode == AddressingMode::Lid
        } else {
            self.chat.is_lid()
        };
        let (phone, lid) = (self.client.pn(), self.client.lid());
        let own = if uses_lid { lid.or(phone) } else { phone };
        own.map(|jid| jid.to_non_ad_string())
            .ok_or_else(|| Failure::transient("the device has no account yet"))
    }
}

/// The chat of a received message, and its sender if WhatsApp requires it.
pub(crate) fn mark_read_target(
    store: &Store,
    instance: InstanceNumber,
    read: &MarkReadRequest,
) -> Result<(Jid, Option<Jid>), Failure> {
    let cached = message_cache::find_message(store, instance, read.message.as_str())
        .map_err(|cause| store_failure(&cause))?;
    resolve_target(read, cached.as_ref())
}

/// The chat and the sender of the message cache take precedence over those of the request, unless the request names
/// another chat.
fn resolve_target(
    read: &MarkReadRequest,
    cached: Option<&CachedMessage>,
) -> Result<(Jid, Option<Jid>), Failure> {
    let requested_chat = read.chat.as_ref().and_then(jid_from_recipient);
    let requested_sender = read.sender.as_ref().and_then(jid_from_recipient);
    let cached = cached
        .and_then(|cached| Some((cached.chat.parse::<Jid>().ok()?, cached.sender.parse::<Jid>().ok()?)));
    let (chat, sender) = match (cached, requested_chat) {
        (Some((chat, sender)), None) => (chat, Some(sender)),
        (Some((chat, sender)), Some(requested)) if is_same_chat(&chat, &requested) => (chat, Some(sender)),
        (_, Some(requested)) => (requested, requested_sender),
        (None, None) => {
            let text = "the message is not among the latest that this instance received; set chat_jid and, in a group, \
                        sender_jid";
            return Err(Failure::permanent(text));
        }
    };
    let needs_sender = !is_person(&chat) && !chat.is_newsletter();
    if needs_sender && sender.is_none() {
        return Err(Failure::permanent("set sender_jid to the sender of the message in the group"));
    }
    Ok((chat, sender.filter(|_| needs_sender)))
}

/// Whether two JIDs may name the same chat. A person has two JIDs, so the chats of any two persons count as the same.
fn is_same_chat(cached: &Jid, requested: &Jid) -> bool {
    cached.is_same_chat_as(requested) || (is_person(cached) && is_person(requested))
}

fn quote_context(id: &str, cached: Option<&CachedMessage>, chat: &Jid, own: &str) -> wa::ContextInfo {
    let from_me = cached.map_or_else(|| is_our_stanza(id), |cached| cached.from_me);
    let participant = match cached {
        _ if from_me => Some(own.to_owned()),
        Some(cached) => Some(cached.sender.clone()),
        // In a direct chat, a received message is from the other person.
        None => is_person(chat).then(|| chat.to_string()),
    };
    let other_chat =
        cached.and_then(|cached| cached.chat.parse::<Jid>().ok()).filter(|jid| !is_same_chat(jid, chat));
    // Phones do not show a quote without content. They find the quoted message itself by its id.
    let copy = cached
        .and_then(CachedMessage::quoted_message)
        .unwrap_or_else(|| wa::Message { conversation: Some(String::new()), ..Default::default() });
    wa::ContextInfo {
        stanza_id: Some(id.to_owned()),
        participant,
        remote_jid: other_chat.map(|jid| jid.to_string()),
        quoted_message: MessageField::some(copy),
        ..Default::default()
    }
}

fn message_key(id: &str, cached: Option<&CachedMessage>, chat: &Jid) -> Result<wa::MessageKey, Failure> {
    let cached = cached.filter(|cached| cached.chat.parse().is_ok_and(|jid| is_same_chat(&jid, chat)));
    match cached {
        Some(cached) if !cached.from_me => Ok(wa::MessageKey {
            remote_jid: Some(cached.chat.clone()),
            from_me: Some(false),
            id: Some(id.to_owned()),
            participant: (!is_person(chat)).then(|| cached.sender.clone()),
        }),
        Some(_) => Ok(own_key(id, chat)),
        None if is_our_stanza(id) => Ok(own_key(id, chat)),
        None if is_person(chat) => Ok(wa::MessageKey { from_me: Some(false), ..own_key(id, chat) }),
        None => {
            let text = format!(
                "the message {id} is not among the latest that this instance received in {chat}, so its author is unknown"
            );
            Err(Failure::permanent(text))
        }
    }
}

fn own_key(id: &str, chat: &Jid) -> wa::MessageKey {
    wa::MessageKey {
        remote_jid: Some(chat.to_string()),
        from_me: Some(true),
        id: Some(id.to_owned()),
        participant: None,
    }
}

fn store_failure(cause: &store::Error) -> Failure {
    Failure::transient(format!("the data folder failed: {cause}"))
}

fn group_query_failure(cause: &impl std::fmt::Display) -> Failure {
    let kind = FailureKind::Transient { max_attempts: Some(3) };
    Failure::new(kind, FailureScope::Recipient, format!("the group could not be queried: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "120363025246125486@g.us";
    const ANA: &str = "573001234567@s.whatsapp.net";
    const OURS: &str = "3EB0C2FE7A4B5C8D9E0F12";

    fn jid(text: &str) -> Jid {
        text.parse().unwrap()
    }

    fn cached(chat: &str, sender: &str, from_me: bool) -> CachedMessage {
        let text = wa::Message { conversation: Some("hola".to_owned()), ..Default::default() };
        CachedMessage::new(chat, sender, from_me, &text)
    }

    #[test]
    fn quote_carries_author_and_content() {
        let quote = quote_context("A", Some(&cached(GROUP, ANA, false)), &jid(GROUP), "own@lid");
        assert_eq!((quote.stanza_id.as_deref(), quote.participant.as_deref()), (Some("A"), Some(ANA)));
        assert_eq!(quote.quoted_message.as_option().unwrap().conversation.as_deref(), Some("hola"));
        assert_eq!(quote.remote_jid, None);
        let privately = quote_context("A", Some(&cached(GROUP, ANA, false)), &jid(ANA), "own@lid");
        assert_eq!(privately.remote_jid.as_deref(), Some(GROUP));
        let own = quote_context("A", Some(&cached(ANA, "me@lid", true)), &jid("1234567890@lid"), "own@lid");
        assert_eq!((own.participant.as_deref(), own.remote_jid), (Some("own@lid"), None));
    }

    #[test]
    fn uncached_message_is_quoted_without_content() {
        let author = |id, chat| quote_context(id, None, &jid(chat), "own@lid").participant;
        assert_eq!(author("A", ANA).as_deref(), Some(ANA));
        assert_eq!(author(OURS, ANA).as_deref(), Some("own@lid"));
        assert_eq!(author("A", GROUP), None);
        assert!(quote_context("A", None, &jid(GROUP), "own@lid").quoted_message.is_set());
    }

    #[test]
    fn reaction_key_names_the_author() {
        let of = |id, cached: Option<CachedMessage>, chat| {
            let key = message_key(id, cached.as_ref(), &jid(chat)).ok()?;
            Some((key.remote_jid.unwrap(), key.from_me.unwrap(), key.participant))
        };
        let (group, ana) = (GROUP.to_owned(), ANA.to_owned());
        assert_eq!(
            of("A", Some(cached(GROUP, ANA, false)), GROUP),
            Some((group.clone(), false, Some(ana.clone())))
        );
        assert_eq!(of("A", Some(cached(GROUP, ANA, true)), GROUP), Some((group.clone(), true, None)));
        assert_eq!(of(OURS, None, GROUP), Some((group, true, None)));
        assert_eq!(of("A", None, ANA), Some((ana, false, None)));
        assert_eq!(of("A", None, GROUP), None);
        // The chat is cached under its other JID.
        assert_eq!(
            of("A", Some(cached("99@lid", "99@lid", false)), ANA),
            Some(("99@lid".to_owned(), false, None))
        );
        // The cached message with this id is in another chat.
        assert_eq!(of("A", Some(cached(ANA, ANA, false)), GROUP), None);
    }

    #[test]
    fn mark_read_resolves_chat_and_sender() {
        let of = |cached: Option<CachedMessage>, chat: Option<&str>, sender: Option<&str>| {
            let parse = |jid: Option<&str>| jid.map(|jid| jid.parse().unwrap());
            let read =
                MarkReadRequest { message: "A".parse().unwrap(), chat: parse(chat), sender: parse(sender) };
            let (chat, sender) = resolve_target(&read, cached.as_ref()).ok()?;
            Some((chat.to_string(), sender.map(|jid| jid.to_string())))
        };
        let (group, ana) = (GROUP.to_owned(), ANA.to_owned());
        assert_eq!(of(Some(cached(GROUP, ANA, false)), None, None), Some((group.clone(), Some(ana.clone()))));
        assert_eq!(of(Some(cached(ANA, ANA, false)), None, None), Some((ana.clone(), None)));
        assert_eq!(
            of(Some(cached("99@lid", "99@lid", false)), Some(ANA), None),
            Some(("99@lid".to_owned(), None))
        );
        assert_eq!(of(None, Some(GROUP), Some(ANA)), Some((group, Some(ana.clone()))));
        assert_eq!(of(None, Some(ANA), None), Some((ana, None)));
        assert_eq!(of(None, Some(GROUP), None), None);
        assert_eq!(of(None, None, None), None);
    }
}
