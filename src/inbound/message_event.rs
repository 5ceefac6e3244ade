//! The data of the event `message`: the documented fields, and further fields of this node.

use serde::Serialize;
use serde_json::Value;

use relevo_domain::{
    ButtonReply, Chat, InboundContent, InboundMedia, InboundMediaKind, InboundMessage, InboundPoll,
    InstanceId, InteractiveReply, MessageContext, Order, PollVote, Reaction, SystemNotice,
};
use relevo_store::Error;

/// The data of the event. The first block contains the documented fields: seven of them are always present, the others
/// are omitted when they are empty. The second block contains the further fields of this node.
#[derive(Debug, Default, Serialize)]
struct MessageEvent<'a> {
    message_id: &'a str,
    from: String,
    to: String,
    is_group: bool,
    message_type: &'static str,
    timestamp: u64,
    is_from_me: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    caption: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mime_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latitude: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longitude: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location_address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_name: Option<&'a str>,

    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media: Option<&'a InboundMedia>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interactive: Option<&'a InteractiveReply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    button: Option<&'a ButtonReply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<&'a Order>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reaction: Option<&'a Reaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    poll: Option<&'a InboundPoll>,
    #[serde(skip_serializing_if = "Option::is_none")]
    poll_vote: Option<&'a PollVote>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contacts: Option<&'a [Value]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a MessageContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referral: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edit: Option<Edit<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoke: Option<Revoke<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<&'a SystemNotice>,
    #[serde(skip_serializing_if = "<[Value]>::is_empty")]
    errors: &'a [Value],
    /// The message in Meta's form, if its type is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a Value>,
}

/// An edit; the other fields of the event contain the new content.
#[derive(Debug, Serialize)]
struct Edit<'a> {
    original_message_id: &'a str,
    /// The type of the new content.
    message_type: &'static str,
}

#[derive(Debug, Serialize)]
struct Revoke<'a> {
    original_message_id: &'a str,
}

/// The data of the event `message`. `instance` is part of the URL of media.
///
/// # Errors
///
/// The event cannot be encoded as JSON.
pub(super) fn data(message: &InboundMessage, instance: &InstanceId) -> Result<Value, Error> {
    let mut event = base_event(message);
    fill_content(&mut event, &message.content);
    if message.media().is_some() {
        let id = path_segment(message.id.as_str());
        event.media_url = Some(format!("/instances/{instance}/messages/{id}/media"));
    }
    serde_json::to_value(&event).map_err(|cause| Error::Codec(cause.to_string()))
}

fn base_event(message: &InboundMessage) -> MessageEvent<'_> {
    let identity = &message.sender.identity;
    let (to, group_id) = match &message.chat {
        Chat::Direct => (identity.to_string(), None),
        Chat::Group(id) | Chat::GroupFromMe(id) if id.contains('@') => (id.clone(), Some(id.as_str())),
        Chat::Group(id) | Chat::GroupFromMe(id) => (format!("{id}@g.us"), Some(id.as_str())),
        Chat::FromMe(to) => (to.to_string(), None),
        Chat::Newsletter(address) => (address.clone(), None),
    };
    MessageEvent {
        message_id: message.id.as_str(),
        from: identity.to_string(),
        to,
        is_group: group_id.is_some(),
        message_type: message.content.kind(),
        timestamp: message.at.seconds(),
        is_from_me: message.is_from_me(),
        sender_name: message.sender.name.as_deref(),
        phone: identity.phone(),
        user_id: identity.user_id(),
        parent_user_id: identity.parent_user_id(),
        username: message.sender.username.as_deref(),
        group_id,
        context: message.context.as_ref(),
        referral: message.referral.as_ref(),
        errors: &message.errors,
        ..MessageEvent::default()
    }
}

fn fill_content<'a>(event: &mut MessageEvent<'a>, content: &'a InboundContent) {
    match content {
        InboundContent::Text(text) => event.text = text,
        InboundContent::Media(kind, media) => fill_media(event, *kind, media),
        InboundContent::Location(location) => {
            event.text = "[Ubicación]";
            event.latitude = Some(format!("{:.6}", location.latitude));
            event.longitude = Some(format!("{:.6}", location.longitude));
            event.location_name = location.name.as_deref();
            event.location_address = location.address.as_deref();
            event.location_url = location.url.as_deref();
        }
        InboundContent::Contacts(cards) => event.contacts = Some(cards),
        InboundContent::Interactive(reply) => {
            event.interactive = Some(reply);
            event.text = match reply {
                InteractiveReply::ButtonReply { button_reply: choice }
                | InteractiveReply::ListReply { list_reply: choice } => &choice.title,
                InteractiveReply::NfmReply { nfm_reply } => nfm_reply.body.as_deref().unwrap_or_default(),
                InteractiveReply::CallPermissionReply { .. } => "",
            };
        }
        InboundContent::Button(button) => {
            event.text = &button.text;
            event.button = Some(button);
        }
        InboundContent::Order(order) => {
            event.text = order.text.as_deref().unwrap_or_default();
            event.order = Some(order);
        }
        InboundContent::Reaction(reaction) => event.reaction = Some(reaction),
        InboundContent::Poll(poll) => {
            event.text = &poll.question;
            event.poll = Some(poll);
        }
        InboundContent::PollVote(vote) => event.poll_vote = Some(vote),
        InboundContent::Edit { original, now } => {
            event.edit = Some(Edit { original_message_id: original, message_type: now.kind() });
            fill_content(event, now);
        }
        InboundContent::Revoke { original } => {
            event.revoke = Some(Revoke { original_message_id: original });
        }
        InboundContent::System(notice) => {
            event.text = notice.body.as_deref().unwrap_or_default();
            event.system = Some(notice);
        }
        InboundContent::Unsupported => {}
        InboundContent::Unknown(raw) => event.raw = Some(raw),
    }
}

/// Fills the fields of a file, with the documented placeholder texts and file names; stickers have none.
fn fill_media<'a>(event: &mut MessageEvent<'a>, kind: InboundMediaKind, media: &'a InboundMedia) {
    let (placeholder, usual_name) = match kind {
        InboundMediaKind::Image => ("[Imagen]", "image.jpg"),
        InboundMediaKind::Video => ("[Video]", "video.mp4"),
        InboundMediaKind::Audio => ("[Audio]", "audio.ogg"),
        InboundMediaKind::Document => ("[Documento]", ""),
        InboundMediaKind::Sticker => ("", ""),
    };
    event.caption = media.caption.as_deref().unwrap_or_default();
    event.text = if event.caption.is_empty() { placeholder } else { event.caption };
    event.file_name = media.filename.as_deref().unwrap_or(usual_name);
    event.mime_type = &media.mime_type;
    event.media = Some(media);
}

/// Escapes a text as one segment of a path (RFC 3986 §3.3). Message ids are base64 and can contain slashes.
fn path_segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut segment, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~=:@".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            // `write!` to a `String` does not fail.
            let _ = write!(segment, "%{byte:02X}");
        }
        segment
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use relevo_domain::{Identity, Sender, Timestamp};

    const GROUP: &str = "120363025246125486@g.us";

    fn event_data(chat: Chat, content: InboundContent) -> Value {
        let identity = Identity::new(Some("573001234567"), None).unwrap();
        let message = InboundMessage {
            id_scope: None,
            id: "A".parse().unwrap(),
            sender: Sender { identity, name: None, username: None },
            chat,
            at: Timestamp(1_763_800_000_000),
            context: None,
            referral: None,
            content,
            errors: Vec::new(),
        };
        data(&message, &"shop".parse().unwrap()).unwrap()
    }

    #[test]
    fn polls_and_votes_are_in_the_event() {
        let options = || vec!["sí".to_owned(), "no".to_owned()];
        let poll = InboundPoll { question: "¿Sí?".to_owned(), options: options(), selectable: 1 };
        let event = event_data(Chat::Direct, InboundContent::Poll(poll));
        assert_eq!((&event["message_type"], &event["text"]), (&json!("poll"), &json!("¿Sí?")));
        assert_eq!(event["poll"], json!({ "question": "¿Sí?", "options": ["sí", "no"], "selectable": 1 }));
        let vote = |options| PollVote { poll_message_id: "POLL".to_owned(), options };
        let event = event_data(Chat::Direct, InboundContent::PollVote(vote(Some(options()))));
        assert_eq!(event["message_type"], "poll_vote");
        assert_eq!(event["poll_vote"], json!({ "poll_message_id": "POLL", "options": ["sí", "no"] }));
        let event = event_data(Chat::Direct, InboundContent::PollVote(vote(None)));
        assert_eq!(event["poll_vote"], json!({ "poll_message_id": "POLL" }));
    }

    #[test]
    fn chat_of_a_message_is_in_the_event() {
        let place = |chat| {
            let event = event_data(chat, InboundContent::Text("hola".to_owned()));
            (event["to"].clone(), event["is_group"] == true, event["is_from_me"] == true)
        };
        let newsletter = "120363025246125486@newsletter";
        assert_eq!(place(Chat::Direct), (json!("573001234567@s.whatsapp.net"), false, false));
        assert_eq!(place(Chat::Group(GROUP.to_owned())), (json!(GROUP), true, false));
        assert_eq!(place(Chat::GroupFromMe(GROUP.to_owned())), (json!(GROUP), true, true));
        assert_eq!(place(Chat::Newsletter(newsletter.to_owned())), (json!(newsletter), false, false));
    }
}
