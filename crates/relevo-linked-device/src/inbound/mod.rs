//! Translation of WhatsApp Web's data to the domain: messages, receipts of sent messages, and other events.
//!
//! Status updates, which people show to all their contacts for a day, become events rather than messages, so that
//! programs that answer messages do not answer them. Posts of newsletters become messages.

mod content;
mod events;
mod poll_votes;

use serde_json::{Map, Value, json};
use whatsapp_rust::Jid;
use whatsapp_rust::types::message::MessageInfo;
use whatsapp_rust::wacore_binary::JidExt as _;
use whatsapp_rust::waproto::whatsapp as wa;

use super::jid::{bare_jid, is_person, is_status_broadcast};
use super::lid_mapping::LidMapping;
use super::message_cache::CachedPoll;
use relevo_domain::{Chat, EventKind, InboundContent, InboundMedia, InboundMessage, Sender, Timestamp};
use relevo_provider::ConnectionEvent;

pub(super) use events::{connection_events, people_in_event};

/// The people whose alternate JIDs are needed to parse a message.
pub(super) fn people_in_message(info: &MessageInfo) -> impl Iterator<Item = &Jid> {
    [&info.source.sender, &info.source.chat].into_iter().filter(|jid| is_person(jid))
}

/// Parses a received message. `None` for status updates and for messages between devices.
///
/// `poll` finds a cached poll by its id.
pub(super) fn parse_message(
    info: &MessageInfo,
    message: &wa::Message,
    names: &LidMapping,
    poll: impl Fn(&str) -> Option<CachedPoll>,
) -> Option<InboundMessage> {
    if is_status_broadcast(&info.source.chat) {
        return None;
    }
    build_message(info, message, names, poll)
}

/// The event of a status update. `None` for other messages and for those of this account.
pub(super) fn status_update(
    info: &MessageInfo,
    message: &wa::Message,
    names: &LidMapping,
) -> Option<ConnectionEvent> {
    if !is_status_broadcast(&info.source.chat) || info.source.is_from_me {
        return None;
    }
    let post = build_message(info, message, names, |_| None)?;
    let mut data = Map::new();
    data.insert("message_id".to_owned(), json!(post.id));
    data.insert("from".to_owned(), json!(post.sender.identity.to_string()));
    let identity = &post.sender.identity;
    let optional = [
        ("phone", identity.phone()),
        ("user_id", identity.user_id()),
        ("sender_name", post.sender.name.as_deref()),
    ];
    data.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))));
    data.insert("message_type".to_owned(), json!(post.content.kind()));
    data.insert("timestamp".to_owned(), json!(post.at.seconds()));
    match &post.content {
        InboundContent::Text(text) => drop(data.insert("text".to_owned(), json!(text))),
        InboundContent::Media(_, media) => drop(data.insert("media".to_owned(), json!(media))),
        InboundContent::Revoke { original } => {
            drop(data.insert("revoked_message_id".to_owned(), json!(original)))
        }
        _ => {}
    }
    Some(ConnectionEvent::Other { kind: EventKind::StatusUpdate, at: post.at, data: data.into() })
}

fn build_message(
    info: &MessageInfo,
    message: &wa::Message,
    names: &LidMapping,
    poll: impl Fn(&str) -> Option<CachedPoll>,
) -> Option<InboundMessage> {
    let content = content::content(message, |update| poll_votes::decrypt_vote(info, update, names, &poll))?;
    let errors = match &content {
        InboundContent::Unsupported => vec![unsupported_error()],
        InboundContent::Media(_, InboundMedia { id, .. }) if id.is_empty() => vec![missing_media_error()],
        _ => Vec::new(),
    };
    Some(InboundMessage {
        id: info.id.parse().ok()?,
        // Senders choose the ids of their messages.
        id_scope: Some(format!("{} {}", info.source.chat, info.source.sender.to_non_ad())),
        sender: sender(info, names)?,
        chat: chat(info, names)?,
        at: timestamp(info),
        context: content::context(message),
        referral: None,
        content,
        errors,
    })
}

fn unsupported_error() -> Value {
    json!({ "title": "WhatsApp shows this message on the phone only" })
}

fn missing_media_error() -> Value {
    json!({ "title": "the sender did not say where the file is" })
}

fn sender(info: &MessageInfo, names: &LidMapping) -> Option<Sender> {
    let business = || info.verified_name.as_ref().and_then(|verified| verified.name.clone());
    let name = Some(info.push_name.clone()).filter(|name| !name.is_empty() && name != "-").or_else(business);
    let identity = names.identity(&info.source.sender, info.source.sender_alt.as_ref())?;
    Some(Sender { identity, name, username: None })
}

fn chat(info: &MessageInfo, names: &LidMapping) -> Option<Chat> {
    let (source, chat) = (&info.source, &info.source.chat);
    Some(if chat.is_group() {
        let group = bare_jid(chat);
        if source.is_from_me { Chat::GroupFromMe(group) } else { Chat::Group(group) }
    } else if chat.is_newsletter() {
        Chat::Newsletter(bare_jid(chat))
    } else if source.is_from_me {
        let named = source.recipient_alt.as_ref().or(info.peer_recipient_pn.as_ref());
        Chat::FromMe(names.identity(chat, named)?)
    } else {
        Chat::Direct
    })
}

fn timestamp(info: &MessageInfo) -> Timestamp {
    Timestamp(u64::try_from(info.timestamp.timestamp_millis()).unwrap_or(0))
}

/// The addresses of the people who become contacts by a message: the sender of a direct message, and the recipient of a
/// message that the account's owner wrote on the phone. Messages in groups and status updates create no contacts.
pub(super) fn contact_addresses(
    info: &MessageInfo,
    names: &LidMapping,
) -> impl Iterator<Item = String> + use<> {
    let source = &info.source;
    let wrote_to_us = is_person(&source.chat) && !source.is_from_me;
    let people = if source.is_from_me {
        let named = source.recipient_alt.as_ref().or(info.peer_recipient_pn.as_ref());
        [Some(&source.chat), names.alternate(&source.chat, named)]
    } else if wrote_to_us {
        [Some(&source.sender), names.alternate(&source.sender, source.sender_alt.as_ref())]
    } else {
        [None; 2]
    };
    let addresses: Vec<_> = people.into_iter().flatten().filter(|jid| is_person(jid)).map(bare_jid).collect();
    addresses.into_iter()
}

#[cfg(test)]
mod tests;
