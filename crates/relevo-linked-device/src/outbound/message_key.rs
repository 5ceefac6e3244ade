//! Naming earlier messages: quotes, reactions, edits, revocations and read marks.

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

/// Who refers to messages of which chat.
pub(super) struct MessageKeyBuilder<'a> {
    pub client: &'a Client,
    pub store: &'a Store,
    pub instance: InstanceNumber,
    pub chat: &'a Jid,
}

impl MessageKeyBuilder<'_> {
    /// What a message says beside its content: what it quotes and whom it names.
    pub async fn context_info(&self, message: &OutboundMessage) -> Result<Option<wa::ContextInfo>, Failure> {
        let mentions: Vec<_> = message
            .options
            .mentions
            .iter()
            .filter_map(jid_from_recipient)
            .map(|jid| jid.to_string())
            .collect();
        let Some(quote) = &message.quote else {
            let named = wa::ContextInfo { mentioned_jid: mentions, ..Default::default() };
            return Ok((!named.mentioned_jid.is_empty()).then_some(named));
        };
        let id = quote.as_str();
        let note = message_cache::find_message(self.store, self.instance, id)
            .map_err(|cause| store_failure(&cause))?;
        let own = self.own_jid().await?;
        Ok(Some(wa::ContextInfo {
            mentioned_jid: mentions,
            ..quote_context(id, note.as_ref(), self.chat, &own)
        }))
    }

    /// The message that a reaction is to.
    pub async fn reaction_key(&self, id: &str) -> Result<wa::MessageKey, Failure> {
        if self.chat.is_group() {
            let group = self
                .client
                .groups()
                .query_info(self.chat)
                .await
                .map_err(|cause| group_query_failure(&cause))?;
            if group.is_community_announce == Some(true) {
                let said = "reactions in the announcement group of a community are encrypted in a way that is not \
                            supported; answer with a text";
                return Err(Failure::permanent(said));
            }
        }
        let note = message_cache::find_message(self.store, self.instance, id)
            .map_err(|cause| store_failure(&cause))?;
        message_key(id, note.as_ref(), self.chat)
    }

    /// The message of ours that is edited. In groups it names us as the group knows us.
    pub async fn edit_key(&self, id: &str) -> Result<wa::MessageKey, Failure> {
        let participant = if self.chat.is_group() { Some(self.own_jid().await?) } else { None };
        Ok(wa::MessageKey { participant, ..self.revoke_key(id) })
    }

    /// The message of ours that is taken back.
    pub fn revoke_key(&self, id: &str) -> wa::MessageKey {
        own_key(id, self.chat)
    }

    /// This account as the chat knows it.
    async fn own_jid(&self) -> Result<String, Failure> {
        let by_hidden_id = if self.chat.is_group() {
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
        let (phone, hidden) = (self.client.pn(), self.client.lid());
        let own = if by_hidden_id { hidden.or(phone) } else { phone };
        own.map(|jid| jid.to_non_ad_string())
            .ok_or_else(|| Failure::transient("the device has no account yet"))
    }
}

/// Where a received message was written, and by whom where WhatsApp wants to know.
pub(crate) fn mark_read_target(
    store: &Store,
    instance: InstanceNumber,
    read: &MarkReadRequest,
) -> Result<(Jid, Option<Jid>), Failure> {
    let note = message_cache::find_message(store, instance, read.message.as_str())
        .map_err(|cause| store_failure(&cause))?;
    resolve_target(read, note.as_ref())
}

/// What was noted of a message counts more than what somebody says of it, but for a chat that is said to be another.
fn resolve_target(
    read: &MarkReadRequest,
    note: Option<&CachedMessage>,
) -> Result<(Jid, Option<Jid>), Failure> {
    let (said_chat, said_sender) =
        (read.chat.as_ref().and_then(jid_from_recipient), read.sender.as_ref().and_then(jid_from_recipient));
    let noted =
        note.and_then(|note| Some((note.chat.parse::<Jid>().ok()?, note.sender.parse::<Jid>().ok()?)));
    let (chat, sender) = match (noted, said_chat) {
        (Some((chat, sender)), None) => (chat, Some(sender)),
        (Some((chat, sender)), Some(said)) if is_same_chat(&chat, &said) => (chat, Some(sender)),
        (_, Some(said)) => (said, said_sender),
        (None, None) => {
            let said = "the message is not among the latest that this instance received; name chat_jid and, in a \
                        group, sender_jid";
            return Err(Failure::permanent(said));
        }
    };
    if !is_person(&chat) && !chat.is_newsletter() && sender.is_none() {
        return Err(Failure::permanent("name sender_jid: whoever wrote the message in the group"));
    }
    let sender = sender.filter(|_| !is_person(&chat) && !chat.is_newsletter());
    Ok((chat, sender))
}

/// People have two names, and whoever asks may know the other one.
fn is_same_chat(noted: &Jid, said: &Jid) -> bool {
    noted.is_same_chat_as(said) || (is_person(noted) && is_person(said))
}

fn quote_context(id: &str, note: Option<&CachedMessage>, chat: &Jid, own: &str) -> wa::ContextInfo {
    let from_me = note.map_or_else(|| is_our_stanza(id), |note| note.from_me);
    let participant = match note {
        _ if from_me => Some(own.to_owned()),
        Some(note) => Some(note.sender.clone()),
        // In a direct chat it can only be the other one.
        None => is_person(chat).then(|| chat.to_string()),
    };
    let elsewhere =
        note.and_then(|note| note.chat.parse::<Jid>().ok()).filter(|noted| !is_same_chat(noted, chat));
    // Phones show no quote without content, and find the message itself by its id.
    let copy = note
        .and_then(CachedMessage::quoted_message)
        .unwrap_or_else(|| wa::Message { conversation: Some(String::new()), ..Default::default() });
    wa::ContextInfo {
        stanza_id: Some(id.to_owned()),
        participant,
        remote_jid: elsewhere.map(|jid| jid.to_string()),
        quoted_message: MessageField::some(copy),
        ..Default::default()
    }
}

fn message_key(id: &str, note: Option<&CachedMessage>, chat: &Jid) -> Result<wa::MessageKey, Failure> {
    let noted = note.filter(|note| note.chat.parse().is_ok_and(|noted| is_same_chat(&noted, chat)));
    match noted {
        Some(note) if !note.from_me => Ok(wa::MessageKey {
            remote_jid: Some(note.chat.clone()),
            from_me: Some(false),
            id: Some(id.to_owned()),
            participant: (!is_person(chat)).then(|| note.sender.clone()),
        }),
        Some(_) => Ok(own_key(id, chat)),
        None if is_our_stanza(id) => Ok(own_key(id, chat)),
        None if is_person(chat) => Ok(wa::MessageKey { from_me: Some(false), ..own_key(id, chat) }),
        None => {
            let said = format!(
                "the message {id} is not among the latest that this instance received in {chat}, so its author is not \
                 known"
            );
            Err(Failure::permanent(said))
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
    Failure::new(kind, FailureScope::Recipient, format!("WhatsApp did not describe the group: {cause}"))
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
        let of = |id, note: Option<CachedMessage>, chat| {
            let key = message_key(id, note.as_ref(), &jid(chat)).ok()?;
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
        // The chat is known under its other name.
        assert_eq!(
            of("A", Some(cached("99@lid", "99@lid", false)), ANA),
            Some(("99@lid".to_owned(), false, None))
        );
        // Somebody else's message under the same id.
        assert_eq!(of("A", Some(cached(ANA, ANA, false)), GROUP), None);
    }

    #[test]
    fn mark_read_resolves_chat_and_sender() {
        let of = |note: Option<CachedMessage>, chat: Option<&str>, sender: Option<&str>| {
            let name = |name: Option<&str>| name.map(|name| name.parse().unwrap());
            let read =
                MarkReadRequest { message: "A".parse().unwrap(), chat: name(chat), sender: name(sender) };
            let (chat, sender) = resolve_target(&read, note.as_ref()).ok()?;
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
