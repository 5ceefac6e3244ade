//! Messages of users, and messages that the number's owner wrote on the phone.
//!
//! A message without an id, a time or a sender is malformed. Content that does not match its type is kept unchanged as
//! unknown content, so that no message is lost.

use serde::Deserialize;
use serde_json::Value;

use relevo_domain::{
    ButtonReply, Chat, Identity, InboundContent, InboundLocation, InboundMedia, InboundMediaKind,
    InboundMessage, InteractiveReply, MessageContext, Order, Reaction, Sender, SystemNotice, ValidationError,
};

use super::{text, timestamp};

/// Parses a message of a user. `contact` is the webhook's entry about that user.
pub(super) fn parse_message(message: &Value, contact: Option<&Value>) -> Result<InboundMessage, String> {
    let field = |name: &str| message.get(name).and_then(text);
    let contact_field = |path: &str| contact.and_then(|contact| contact.pointer(path)).and_then(text);
    let phone = field("from").or_else(|| contact_field("/wa_id"));
    let user_id = field("from_user_id").or_else(|| contact_field("/user_id"));
    let parent = field("from_parent_user_id").or_else(|| contact_field("/parent_user_id"));
    // A notice of a changed number or id may name the user in itself alone.
    let noticed = || {
        let paths = ["/system/user_id", "/system/parent_user_id", "/system/wa_id"];
        paths.iter().find_map(|path| message.pointer(path).and_then(text))
    };
    let phone = phone.or_else(|| noticed().filter(|_| user_id.is_none() && parent.is_none()));
    let identity = identity(phone.as_deref(), user_id.as_deref().or(parent.as_deref()), "from")?;
    let sender = Sender {
        identity: identity.with_parent(parent.as_deref()),
        name: contact_field("/profile/name"),
        username: contact_field("/profile/username"),
    };
    let chat = field("group_id").map_or(Chat::Direct, Chat::Group);
    build_message(message, sender, chat)
}

/// Parses a message that the number's owner wrote with the application on the phone.
pub(super) fn parse_echo(message: &Value, contact: Option<&Value>) -> Result<InboundMessage, String> {
    let field = |name: &str| message.get(name).and_then(text);
    let contact_field = |name: &str| contact.and_then(|contact| contact.get(name)).and_then(text);
    let sender = Sender {
        identity: identity(field("from").as_deref(), field("from_user_id").as_deref(), "from")?,
        name: None,
        username: None,
    };
    let user_id = field("to_user_id").or_else(|| contact_field("user_id"));
    let to = identity(field("to").as_deref(), user_id.as_deref(), "to")?;
    build_message(message, sender, Chat::FromMe(to))
}

/// The index of the contact that is the author of a message. `alone`: the webhook has one message and one contact.
pub(super) fn find_contact(message: &Value, contacts: &[Value], alone: bool) -> Option<usize> {
    let same = |contact: &Value, contact_field: &str, message_field: &str| {
        let value = contact.get(contact_field);
        value.is_some() && value == message.get(message_field)
    };
    let author = contacts.iter().position(|contact| {
        same(contact, "wa_id", "from")
            || same(contact, "user_id", "from_user_id")
            || same(contact, "wa_id", "to")
    });
    author.or_else(|| alone.then_some(0))
}

fn identity(phone: Option<&str>, user_id: Option<&str>, field: &str) -> Result<Identity, String> {
    Identity::new(phone, user_id)
        .ok_or_else(|| format!("has neither a phone number nor a user id in {field}"))
}

fn build_message(message: &Value, sender: Sender, chat: Chat) -> Result<InboundMessage, String> {
    let id = message.get("id").and_then(text).ok_or("has no id")?;
    let list = |name: &str| message.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(InboundMessage {
        id_scope: None,
        id: id.parse().map_err(|invalid: ValidationError| invalid.to_string())?,
        sender,
        chat,
        at: message.get("timestamp").and_then(timestamp).ok_or("has no timestamp")?,
        context: message.get("context").and_then(parse_as::<MessageContext>),
        referral: message.get("referral").filter(|referral| referral.is_object()).cloned(),
        content: content(message, true),
        errors: list("errors"),
    })
}

/// Parses the content of a message. `outermost` is `false` for the message within an edit, which cannot be an edit.
fn content(message: &Value, outermost: bool) -> InboundContent {
    let kind = message.get("type").and_then(Value::as_str).unwrap_or_default();
    let body = message.get(kind).unwrap_or(&Value::Null);
    let original = || body.get("original_message_id").and_then(text);
    let known = match kind {
        "text" => body.get("body").and_then(Value::as_str).map(|body| InboundContent::Text(body.to_owned())),
        "location" => parse_as::<InboundLocation>(body).map(InboundContent::Location),
        "contacts" => body.as_array().cloned().map(InboundContent::Contacts),
        "interactive" => parse_as::<InteractiveReply>(body).map(InboundContent::Interactive),
        "button" => parse_as::<ButtonReply>(body).map(InboundContent::Button),
        "order" => parse_as::<Order>(body).map(InboundContent::Order),
        "reaction" => parse_as::<Reaction>(body).map(reaction),
        "system" => parse_as::<SystemNotice>(body).map(InboundContent::System),
        "revoke" => original().map(|original| InboundContent::Revoke { original }),
        "edit" if outermost => original().zip(body.get("message")).map(|(original, message)| {
            InboundContent::Edit { original, now: Box::new(content(message, false)) }
        }),
        "unsupported" | "unknown" => Some(InboundContent::Unsupported),
        _ => media_kind(kind)
            .and_then(|kind| Some(InboundContent::Media(kind, parse_as::<InboundMedia>(body)?))),
    };
    known.unwrap_or_else(|| InboundContent::Unknown(message.clone()))
}

/// An empty emoji means that the reaction was removed.
fn reaction(mut reaction: Reaction) -> InboundContent {
    reaction.emoji = reaction.emoji.filter(|emoji| !emoji.is_empty());
    InboundContent::Reaction(reaction)
}

fn media_kind(name: &str) -> Option<InboundMediaKind> {
    InboundMediaKind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

fn parse_as<'a, T: Deserialize<'a>>(value: &'a Value) -> Option<T> {
    T::deserialize(value).ok()
}
