//! What arrives, understood: messages become the domain's, receipts become facts about messages that were sent, and
//! what else happens becomes events.
//!
//! Status updates (what people show to all their contacts for a day) are written to nobody: they are events of their own,
//! so that whoever answers messages does not answer them. Posts of newsletters are messages.

mod content;
mod events;
mod votes;

use serde_json::{Map, Value, json};
use whatsapp_rust::Jid;
use whatsapp_rust::types::message::MessageInfo;
use whatsapp_rust::wacore_binary::JidExt as _;
use whatsapp_rust::waproto::whatsapp as wa;

use super::address::{is_person, is_status, shown};
use super::index::PollNote;
use super::names::Names;
use relevo_domain::{Chat, InboundContent, InboundMedia, InboundMessage, Sender, Timestamp};
use relevo_provider::Happening;

pub(super) use events::{happenings, people};

/// The people whose other names are worth knowing before a message is read.
pub(super) fn people_of(info: &MessageInfo) -> impl Iterator<Item = &Jid> {
    [&info.source.sender, &info.source.chat].into_iter().filter(|jid| is_person(jid))
}

/// A received message. `None` for what is none: status updates, and what devices tell each other.
///
/// `poll` finds what opens the votes of a poll.
pub(super) fn message(
    info: &MessageInfo,
    message: &wa::Message,
    names: &Names,
    poll: impl Fn(&str) -> Option<PollNote>,
) -> Option<InboundMessage> {
    if is_status(&info.source.chat) {
        return None;
    }
    understood(info, message, names, poll)
}

/// A status update that somebody posted. `None` for all other messages.
pub(super) fn status_update(info: &MessageInfo, message: &wa::Message, names: &Names) -> Option<Happening> {
    if !is_status(&info.source.chat) || info.source.is_from_me {
        return None;
    }
    let post = understood(info, message, names, |_| None)?;
    let mut data = Map::new();
    data.insert("message_id".to_owned(), json!(post.id));
    data.insert("from".to_owned(), json!(post.sender.identity.to_string()));
    let identity = &post.sender.identity;
    let named = [
        ("phone", identity.phone()),
        ("user_id", identity.user_id()),
        ("sender_name", post.sender.name.as_deref()),
    ];
    data.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))));
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
    Some(Happening::News { kind: "status_update", at: post.at, data: data.into() })
}

fn understood(
    info: &MessageInfo,
    message: &wa::Message,
    names: &Names,
    poll: impl Fn(&str) -> Option<PollNote>,
) -> Option<InboundMessage> {
    let content = content::content(message, |update| votes::open(info, update, names, &poll))?;
    let errors = match &content {
        InboundContent::Unsupported => vec![only_on_the_phone()],
        InboundContent::Media(_, InboundMedia { id, .. }) if id.is_empty() => vec![cannot_be_fetched()],
        _ => Vec::new(),
    };
    Some(InboundMessage {
        id: info.id.parse().ok()?,
        // Whoever writes chooses the id.
        scope: Some(format!("{} {}", info.source.chat, info.source.sender.to_non_ad())),
        sender: sender(info, names)?,
        chat: chat(info, names)?,
        at: at(info),
        context: content::context(message),
        referral: None,
        content,
        errors,
    })
}

fn only_on_the_phone() -> Value {
    json!({ "title": "WhatsApp shows this message on the phone only" })
}

fn cannot_be_fetched() -> Value {
    json!({ "title": "the sender did not say where the file is" })
}

fn sender(info: &MessageInfo, names: &Names) -> Option<Sender> {
    let business = || info.verified_name.as_ref().and_then(|verified| verified.name.clone());
    let name = Some(info.push_name.clone()).filter(|name| !name.is_empty() && name != "-").or_else(business);
    let identity = names.identity(&info.source.sender, info.source.sender_alt.as_ref())?;
    Some(Sender { identity, name, username: None })
}

fn chat(info: &MessageInfo, names: &Names) -> Option<Chat> {
    let (source, chat) = (&info.source, &info.source.chat);
    Some(if chat.is_group() {
        let group = shown(chat);
        if source.is_from_me { Chat::GroupFromMe(group) } else { Chat::Group(group) }
    } else if chat.is_newsletter() {
        Chat::Newsletter(shown(chat))
    } else if source.is_from_me {
        let other = source.recipient_alt.as_ref().or(info.peer_recipient_pn.as_ref());
        Chat::FromMe(names.identity(chat, other)?)
    } else {
        Chat::Direct
    })
}

fn at(info: &MessageInfo) -> Timestamp {
    Timestamp(u64::try_from(info.timestamp.timestamp_millis()).unwrap_or(0))
}

/// Under which addresses whoever wrote a message can be written to; those who write to everybody are not met by it.
pub(super) fn addresses(info: &MessageInfo, names: &Names) -> impl Iterator<Item = String> + use<> {
    let source = &info.source;
    let wrote_to_us = is_person(&source.chat) && !source.is_from_me;
    // Whom the account's owner wrote to on the phone is no stranger either.
    let people = if source.is_from_me {
        let told = source.recipient_alt.as_ref().or(info.peer_recipient_pn.as_ref());
        [Some(&source.chat), names.other(&source.chat, told)]
    } else if wrote_to_us {
        [Some(&source.sender), names.other(&source.sender, source.sender_alt.as_ref())]
    } else {
        [None; 2]
    };
    let addresses: Vec<_> = people.into_iter().flatten().filter(|jid| is_person(jid)).map(shown).collect();
    addresses.into_iter()
}

#[cfg(test)]
mod tests;
