//! The content of received messages.

use serde_json::{Value, json};
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::waproto::codec;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type as ProtocolType;

use crate::jid::bare_jid;
use crate::media::MediaReference;
use crate::message_cache::poll_creation;
use crate::unwrap_message::unwrap_message;
use relevo_domain::{
    ButtonReply, Choice, FormReply, InboundContent, InboundLocation, InboundMedia, InboundMediaKind,
    InboundPoll, InteractiveReply, MediaKind, MessageContext, PollVote, Reaction,
};

/// Number of forwards from which a message counts as frequently forwarded; WhatsApp then shows two arrows.
const FREQUENTLY_FORWARDED_SCORE: u32 = 5;

/// Maximum encoded size of a message of unknown type that is passed on unchanged.
const MAX_UNKNOWN_BYTES: usize = 2048;

/// The content of a message. `None` for messages without content for people: keys, settings and the like between
/// devices.
///
/// `vote` decrypts a vote to its selected options; `None` for unknown polls.
pub(super) fn content(
    message: &wa::Message,
    vote: impl Fn(&wa::message::PollUpdateMessage) -> Option<Vec<String>>,
) -> Option<InboundContent> {
    let message = unwrap_message(message);
    if let Some(protocol) = message.protocol_message.as_option() {
        return protocol_content(protocol);
    }
    if let Some(update) = message.poll_update_message.as_option() {
        let poll_message_id = message_id(&update.poll_creation_message_key)?;
        return Some(InboundContent::PollVote(PollVote { poll_message_id, options: vote(update) }));
    }
    plain_content(message)
}

/// The content of a message that does not refer to another one, or the new content of an edit.
fn plain_content(message: &wa::Message) -> Option<InboundContent> {
    let found = text_content(message)
        .or_else(|| media_content(message))
        .or_else(|| location_content(message))
        .or_else(|| contacts_content(message))
        .or_else(|| reply_content(message))
        .or_else(|| reaction_content(message))
        .or_else(|| poll_content(message));
    found.or_else(|| unknown_content(message))
}

fn text_content(message: &wa::Message) -> Option<InboundContent> {
    let extended = message.extended_text_message.as_option().and_then(|text| text.text.as_ref());
    message.conversation.as_ref().or(extended).map(|text| InboundContent::Text(text.clone()))
}

fn media_content(message: &wa::Message) -> Option<InboundContent> {
    // The fields that all kinds of files share.
    macro_rules! file {
        ($file:expr, $kind:ident, $default_mime:literal) => {{
            let file = $file;
            let mime = file
                .mimetype
                .clone()
                .filter(|mime| !mime.is_empty())
                .unwrap_or_else(|| $default_mime.to_owned());
            let reference = MediaReference {
                kind: MediaKind::$kind,
                path: file.direct_path.clone().unwrap_or_default(),
                key: file.media_key.clone(),
                encrypted_sha256: file.media_key.as_ref().and(file.file_enc_sha256.clone()),
                sha256: file.file_sha256.clone().unwrap_or_default(),
                length: file.file_length.unwrap_or_default(),
                mime,
                key_timestamp: file.media_key_timestamp,
            };
            inbound_media(InboundMediaKind::$kind, reference)
        }};
    }
    if let Some(image) = message.image_message.as_option() {
        return Some(with_caption(file!(image, Image, "image/jpeg"), image.caption.as_deref()));
    }
    let video = message.video_message.as_option().or(message.ptv_message.as_option());
    if let Some(video) = video {
        return Some(with_caption(file!(video, Video, "video/mp4"), video.caption.as_deref()));
    }
    if let Some(audio) = message.audio_message.as_option() {
        let (kind, media) = file!(audio, Audio, "audio/ogg");
        return Some(InboundContent::Media(
            kind,
            InboundMedia { voice: Some(audio.ptt == Some(true)), ..media },
        ));
    }
    if let Some(document) = message.document_message.as_option() {
        let (kind, media) = file!(document, Document, "application/octet-stream");
        let name = document.file_name.as_ref().or(document.title.as_ref());
        let media = InboundMedia { filename: name.cloned().filter(|name| !name.is_empty()), ..media };
        return Some(with_caption((kind, media), document.caption.as_deref()));
    }
    let sticker = message.sticker_message.as_option()?;
    let (kind, media) = file!(sticker, Sticker, "image/webp");
    let animated = Some(sticker.is_animated == Some(true) || sticker.is_lottie == Some(true));
    Some(InboundContent::Media(kind, InboundMedia { animated, ..media }))
}

fn inbound_media(kind: InboundMediaKind, reference: MediaReference) -> (InboundMediaKind, InboundMedia) {
    use base64::Engine as _;
    let sha256 = base64::engine::general_purpose::STANDARD.encode(&reference.sha256);
    let media = InboundMedia {
        // A file without a valid reference is reported with an empty id.
        id: reference.id().unwrap_or_default(),
        mime_type: reference.mime,
        sha256: Some(sha256).filter(|digest| !digest.is_empty()),
        caption: None,
        filename: None,
        voice: None,
        animated: None,
    };
    (kind, media)
}

fn with_caption((kind, media): (InboundMediaKind, InboundMedia), caption: Option<&str>) -> InboundContent {
    let caption = caption.filter(|caption| !caption.is_empty()).map(str::to_owned);
    InboundContent::Media(kind, InboundMedia { caption, ..media })
}

fn location_content(message: &wa::Message) -> Option<InboundContent> {
    if let Some(place) = message.location_message.as_option() {
        return Some(InboundContent::Location(InboundLocation {
            latitude: place.degrees_latitude?,
            longitude: place.degrees_longitude?,
            name: place.name.clone().filter(|name| !name.is_empty()),
            address: place.address.clone().filter(|address| !address.is_empty()),
            url: place.url.clone().filter(|url| !url.is_empty()),
        }));
    }
    let live = message.live_location_message.as_option()?;
    Some(InboundContent::Location(InboundLocation {
        latitude: live.degrees_latitude?,
        longitude: live.degrees_longitude?,
        name: live.caption.clone().filter(|caption| !caption.is_empty()),
        address: None,
        url: None,
    }))
}

fn contacts_content(message: &wa::Message) -> Option<InboundContent> {
    let card = |card: &wa::message::ContactMessage| json!({ "name": { "formatted_name": card.display_name }, "vcard": card.vcard });
    if let Some(one) = message.contact_message.as_option() {
        return Some(InboundContent::Contacts(vec![card(one)]));
    }
    let list = message.contacts_array_message.as_option()?;
    Some(InboundContent::Contacts(list.contacts.iter().map(card).collect()))
}

fn reply_content(message: &wa::Message) -> Option<InboundContent> {
    use wa::message::buttons_response_message::Response;
    use wa::message::interactive_response_message::InteractiveResponseMessage as Interactive;
    if let Some(pressed) = message.buttons_response_message.as_option() {
        let title = match &pressed.response {
            Some(Response::SelectedDisplayText(text)) => text.clone(),
            None => String::new(),
        };
        let id = pressed.selected_button_id.clone().unwrap_or_default();
        let button_reply = Choice { id, title, description: None };
        return Some(InboundContent::Interactive(InteractiveReply::ButtonReply { button_reply }));
    }
    if let Some(picked) = message.list_response_message.as_option() {
        let row = picked.single_select_reply.as_option().and_then(|row| row.selected_row_id.clone());
        let (title, description) = (picked.title.clone().unwrap_or_default(), picked.description.clone());
        let list_reply = Choice { id: row.unwrap_or_default(), title, description };
        return Some(InboundContent::Interactive(InteractiveReply::ListReply { list_reply }));
    }
    if let Some(tapped) = message.template_button_reply_message.as_option() {
        return Some(InboundContent::Button(ButtonReply {
            payload: tapped.selected_id.clone().unwrap_or_default(),
            text: tapped.selected_display_text.clone().unwrap_or_default(),
        }));
    }
    let answer = message.interactive_response_message.as_option()?;
    let Some(Interactive::NativeFlowResponseMessage(flow)) = &answer.interactive_response_message else {
        return None;
    };
    let nfm_reply = FormReply {
        name: flow.name.clone(),
        body: answer.body.as_option().and_then(|body| body.text.clone()),
        response_json: flow.params_json.clone().unwrap_or_default(),
    };
    Some(InboundContent::Interactive(InteractiveReply::NfmReply { nfm_reply }))
}

fn reaction_content(message: &wa::Message) -> Option<InboundContent> {
    let reaction = message.reaction_message.as_option()?;
    Some(InboundContent::Reaction(Reaction {
        message_id: message_id(&reaction.key)?,
        emoji: reaction.text.clone().filter(|emoji| !emoji.is_empty()),
    }))
}

fn poll_content(message: &wa::Message) -> Option<InboundContent> {
    let poll = poll_creation(message)?;
    Some(InboundContent::Poll(InboundPoll {
        question: poll.name.clone().unwrap_or_default(),
        options: poll.options.iter().filter_map(|option| option.option_name.clone()).collect(),
        selectable: poll.selectable_options_count.unwrap_or_default(),
    }))
}

/// The content of edits and revocations; other protocol messages are between devices.
fn protocol_content(protocol: &wa::message::ProtocolMessage) -> Option<InboundContent> {
    match protocol.r#type {
        Some(ProtocolType::REVOKE) => Some(InboundContent::Revoke { original: message_id(&protocol.key)? }),
        Some(ProtocolType::MESSAGE_EDIT) => {
            let now = plain_content(unwrap_message(protocol.edited_message.as_option()?))?;
            Some(InboundContent::Edit { original: message_id(&protocol.key)?, now: Box::new(now) })
        }
        _ => None,
    }
}

fn message_id(key: &MessageField<wa::MessageKey>) -> Option<String> {
    key.as_option()?.id.clone().filter(|id| !id.is_empty())
}

/// A message of unknown type, unchanged. `None` for a message that only contains data between devices.
fn unknown_content(message: &wa::Message) -> Option<InboundContent> {
    if message.placeholder_message.is_set() {
        return Some(InboundContent::Unsupported);
    }
    let mut rest = message.clone();
    rest.message_context_info = MessageField::none();
    rest.sender_key_distribution_message = MessageField::none();
    rest.fast_ratchet_key_sender_key_distribution_message = MessageField::none();
    rest.sticker_sync_rmr_message = MessageField::none();
    let size = codec::message_encoded_len(&rest);
    if size == 0 {
        return None;
    }
    // Dynamic dispatch: monomorphized serializers for hundreds of message types would double the build time of this
    // crate.
    let rest: &dyn erased_serde::Serialize = &rest;
    let to_json = || erased_serde::serialize(rest, serde_json::value::Serializer).ok().map(strip_nulls);
    let json = if size <= MAX_UNKNOWN_BYTES { to_json() } else { None };
    Some(InboundContent::Unknown(json.unwrap_or_else(|| json!({ "bytes": size }))))
}

fn strip_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, strip_nulls(value)));
            fields.filter(|(_, value)| !is_empty_value(value)).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(values) => values.into_iter().map(strip_nulls).collect(),
        other => other,
    }
}

fn is_empty_value(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The context of a message: its quote, its mentions, and whether it was forwarded.
pub(super) fn context(message: &wa::Message) -> Option<MessageContext> {
    let info = context_info(unwrap_message(message))?;
    let score = info.forwarding_score.unwrap_or_default();
    let address = |text: &String| text.parse().map_or_else(|_| text.clone(), |jid| bare_jid(&jid));
    let context = MessageContext {
        from: info.participant.as_ref().filter(|_| info.stanza_id.is_some()).map(address),
        id: info.stanza_id.clone(),
        forwarded: info.is_forwarded == Some(true) || score > 0,
        frequently_forwarded: score >= FREQUENTLY_FORWARDED_SCORE,
        mentions: info.mentioned_jid.iter().map(address).collect(),
        referred_product: None,
    };
    (context != MessageContext::default()).then_some(context)
}

fn context_info(message: &wa::Message) -> Option<&wa::ContextInfo> {
    macro_rules! first {
        ($($field:ident),* $(,)?) => {
            [$(message.$field.as_option().and_then(|inner| inner.context_info.as_option())),*].into_iter().flatten().next()
        };
    }
    let poll_context = || poll_creation(message).and_then(|poll| poll.context_info.as_option());
    first!(
        extended_text_message,
        image_message,
        video_message,
        ptv_message,
        audio_message,
        document_message,
        sticker_message,
        location_message,
        live_location_message,
        contact_message,
        contacts_array_message,
        buttons_response_message,
        list_response_message,
        template_button_reply_message,
        interactive_response_message,
        group_invite_message,
        product_message,
        order_message,
    )
    .or_else(poll_context)
}

#[cfg(test)]
mod tests;
