//! Pure constructors of WhatsApp Web messages.

use serde_json::Value;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::protocol_message::Type as ProtocolType;

use super::upload::UploadedMedia;
use super::vcard;
use relevo_domain::{Location, Media, MediaKind, Poll};

/// The file name of a document without one.
const DEFAULT_FILE_NAME: &str = "document";

/// A text. With `preview`, its first URL is marked as a link. The page is not fetched, so phones show neither title nor
/// picture.
pub(super) fn text(body: &str, preview: bool) -> wa::Message {
    let link = if preview { first_link(body) } else { None };
    let Some(link) = link else {
        return wa::Message { conversation: Some(body.to_owned()), ..Default::default() };
    };
    let text = wa::message::ExtendedTextMessage {
        text: Some(body.to_owned()),
        matched_text: Some(link.to_owned()),
        ..Default::default()
    };
    wa::Message { extended_text_message: MessageField::some(text), ..Default::default() }
}

fn first_link(body: &str) -> Option<&str> {
    let word =
        body.split_whitespace().find(|word| word.starts_with("https://") || word.starts_with("http://"))?;
    Some(word.trim_end_matches(['.', ',', ';', ':', '!', '?', ')']))
}

/// A message with an uploaded file.
pub(super) fn media(media: &Media, uploaded: &UploadedMedia) -> wa::Message {
    let UploadedMedia { file, sidecar } = uploaded;
    let caption = media.caption.clone().filter(|caption| !caption.is_empty());
    // The fields that all kinds of files share.
    macro_rules! file {
        ($kind:ident { $($field:ident: $value:expr),* $(,)? }) => {
            MessageField::some(wa::message::$kind {
                url: Some(file.url()),
                direct_path: Some(file.path.clone()),
                media_key: file.key.clone(),
                file_enc_sha256: file.encrypted_sha256.clone(),
                file_sha256: Some(file.sha256.clone()),
                file_length: Some(file.length),
                media_key_timestamp: file.key_timestamp,
                mimetype: Some(file.mime.clone()),
                $($field: $value,)*
                ..Default::default()
            })
        };
    }
    match media.kind {
        MediaKind::Image => {
            wa::Message { image_message: file!(ImageMessage { caption: caption }), ..Default::default() }
        }
        MediaKind::Video => {
            let video = file!(VideoMessage { caption: caption, streaming_sidecar: sidecar.clone() });
            wa::Message { video_message: video, ..Default::default() }
        }
        MediaKind::Audio => {
            let ptt = Some(media.voice);
            let audio = file!(AudioMessage { ptt: ptt, streaming_sidecar: sidecar.clone() });
            wa::Message { audio_message: audio, ..Default::default() }
        }
        MediaKind::Document => {
            let name = media.file_name.clone().unwrap_or_else(|| DEFAULT_FILE_NAME.to_owned());
            let document =
                file!(DocumentMessage { caption: caption, title: Some(name.clone()), file_name: Some(name) });
            wa::Message { document_message: document, ..Default::default() }
        }
        MediaKind::Sticker => wa::Message { sticker_message: file!(StickerMessage {}), ..Default::default() },
    }
}

pub(super) fn location(location: &Location) -> wa::Message {
    let location = wa::message::LocationMessage {
        degrees_latitude: Some(location.latitude),
        degrees_longitude: Some(location.longitude),
        name: location.name.clone(),
        address: location.address.clone(),
        ..Default::default()
    };
    wa::Message { location_message: MessageField::some(location), ..Default::default() }
}

/// Contacts in Meta's format: a single one is a contact message, several are a list.
pub(super) fn contacts(contacts: &[Value]) -> wa::Message {
    let cards: Vec<_> = contacts
        .iter()
        .map(|contact| {
            let (name, card) = vcard::to_vcard(contact);
            wa::message::ContactMessage { display_name: Some(name), vcard: Some(card), ..Default::default() }
        })
        .collect();
    match <[_; 1]>::try_from(cards) {
        Ok([card]) => wa::Message { contact_message: MessageField::some(card), ..Default::default() },
        Err(cards) => {
            let list = wa::message::ContactsArrayMessage {
                display_name: Some(format!("{} contacts", cards.len())),
                contacts: cards,
                ..Default::default()
            };
            wa::Message { contacts_array_message: MessageField::some(list), ..Default::default() }
        }
    }
}

/// A poll; `secret` decrypts its votes. WhatsApp Web sends polls with a single choice in version 3 and all others in
/// version 1.
pub(super) fn poll(poll: &Poll, secret: Vec<u8>) -> wa::Message {
    let option = |name: &String| wa::message::poll_creation_message::Option {
        option_name: Some(name.clone()),
        ..Default::default()
    };
    let creation = MessageField::some(wa::message::PollCreationMessage {
        name: Some(poll.question.clone()),
        options: poll.options.iter().map(option).collect(),
        selectable_options_count: Some(poll.selectable),
        ..Default::default()
    });
    let context = wa::MessageContextInfo { message_secret: Some(secret), ..Default::default() };
    let message = wa::Message { message_context_info: MessageField::some(context), ..Default::default() };
    match poll.selectable {
        1 => wa::Message { poll_creation_message_v3: creation, ..message },
        _ => wa::Message { poll_creation_message: creation, ..message },
    }
}

/// A reaction; an empty `emoji` removes it.
pub(super) fn reaction(key: wa::MessageKey, emoji: &str, now_millis: i64) -> wa::Message {
    whatsapp_rust::proto_helpers::build_reaction_message(key, emoji, now_millis)
}

/// An edit that replaces the text of the own message `key`.
pub(super) fn edit(key: wa::MessageKey, body: &str, now_millis: i64) -> wa::Message {
    protocol_message(wa::message::ProtocolMessage {
        key: MessageField::some(key),
        r#type: Some(ProtocolType::MESSAGE_EDIT),
        edited_message: MessageField::some(text(body, false)),
        timestamp_ms: Some(now_millis),
        ..Default::default()
    })
}

/// A revocation of the own message `key`.
pub(super) fn revoke(key: wa::MessageKey) -> wa::Message {
    protocol_message(wa::message::ProtocolMessage {
        key: MessageField::some(key),
        r#type: Some(ProtocolType::REVOKE),
        ..Default::default()
    })
}

fn protocol_message(message: wa::message::ProtocolMessage) -> wa::Message {
    wa::Message { protocol_message: MessageField::some(message), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use whatsapp_rust::waproto::codec;

    use super::*;
    use crate::media::MediaReference;
    use relevo_domain::MediaSource;

    /// The message as the recipient decodes it.
    fn round_trip(message: &wa::Message) -> wa::Message {
        codec::message_decode(&codec::message_to_vec(message)).unwrap()
    }

    fn uploaded(kind: MediaKind, mime: &str) -> UploadedMedia {
        let file = MediaReference {
            kind,
            path: "/v/1.enc?oe=1".to_owned(),
            key: Some(vec![1; 32]),
            encrypted_sha256: Some(vec![2; 32]),
            sha256: vec![3; 32],
            length: 4096,
            mime: mime.to_owned(),
            key_timestamp: Some(1_763_800_000),
        };
        UploadedMedia { file, sidecar: Some(vec![9; 10]) }
    }

    fn media_of_kind(kind: MediaKind, voice: bool) -> Media {
        let source = MediaSource::ProviderId("x".to_owned());
        let (caption, file_name) = (Some("pie".to_owned()), Some("informe.pdf".to_owned()));
        Media { kind, source, caption, file_name, voice }
    }

    #[test]
    fn link_is_marked_only_with_preview() {
        let plain = round_trip(&text("mira https://example.com/a.", false));
        assert_eq!(plain.conversation.as_deref(), Some("mira https://example.com/a."));
        let marked = round_trip(&text("mira https://example.com/a.", true));
        let extended = marked.extended_text_message.as_option().unwrap();
        assert_eq!(extended.text.as_deref(), Some("mira https://example.com/a."));
        assert_eq!(extended.matched_text.as_deref(), Some("https://example.com/a"));
        assert!(round_trip(&text("sin enlace", true)).conversation.is_some());
    }

    #[test]
    fn every_kind_of_file_carries_its_reference() {
        macro_rules! holds {
            ($kind:ident, $mime:literal, $field:ident) => {{
                let message = round_trip(&media(
                    &media_of_kind(MediaKind::$kind, true),
                    &uploaded(MediaKind::$kind, $mime),
                ));
                let file = message.$field.as_option().unwrap().clone();
                assert_eq!(file.url.as_deref(), Some("https://mmg.whatsapp.net/v/1.enc?oe=1"));
                assert_eq!(file.direct_path.as_deref(), Some("/v/1.enc?oe=1"));
                assert_eq!(file.media_key, Some(vec![1; 32]));
                assert_eq!(file.file_enc_sha256, Some(vec![2; 32]));
                assert_eq!(file.file_sha256, Some(vec![3; 32]));
                assert_eq!(file.file_length, Some(4096));
                assert_eq!(file.media_key_timestamp, Some(1_763_800_000));
                assert_eq!(file.mimetype.as_deref(), Some($mime));
                file
            }};
        }
        assert_eq!(holds!(Image, "image/jpeg", image_message).caption.as_deref(), Some("pie"));
        let video = holds!(Video, "video/mp4", video_message);
        assert_eq!((video.caption.as_deref(), video.streaming_sidecar), (Some("pie"), Some(vec![9; 10])));
        let audio = holds!(Audio, "audio/ogg; codecs=opus", audio_message);
        assert_eq!((audio.ptt, audio.streaming_sidecar), (Some(true), Some(vec![9; 10])));
        let document = holds!(Document, "application/pdf", document_message);
        assert_eq!(
            (document.file_name.as_deref(), document.caption.as_deref()),
            (Some("informe.pdf"), Some("pie"))
        );
        holds!(Sticker, "image/webp", sticker_message);
    }

    #[test]
    fn audio_is_a_voice_note_only_when_requested() {
        let message =
            media(&media_of_kind(MediaKind::Audio, false), &uploaded(MediaKind::Audio, "audio/mpeg"));
        assert_eq!(round_trip(&message).audio_message.as_option().unwrap().ptt, Some(false));
    }

    #[test]
    fn location_has_coordinates_and_name() {
        let (name, address) = (Some("Casa".to_owned()), Some("Calle 1".to_owned()));
        let message = round_trip(&location(&Location { latitude: 4.6, longitude: -74.1, name, address }));
        let place = message.location_message.as_option().unwrap();
        assert_eq!((place.degrees_latitude, place.degrees_longitude), (Some(4.6), Some(-74.1)));
        assert_eq!((place.name.as_deref(), place.address.as_deref()), (Some("Casa"), Some("Calle 1")));
    }

    #[test]
    fn single_contact_is_sent_alone_and_several_as_a_list() {
        let ana = json!({ "name": { "formatted_name": "Ana" }, "phones": [{ "phone": "+57 300 123 4567" }] });
        let one = round_trip(&contacts(std::slice::from_ref(&ana)));
        let card = one.contact_message.as_option().unwrap();
        assert_eq!(card.display_name.as_deref(), Some("Ana"));
        assert!(card.vcard.as_deref().unwrap().contains("waid=573001234567"), "{card:?}");
        let two = round_trip(&contacts(&[ana.clone(), ana]));
        let list = two.contacts_array_message.as_option().unwrap();
        assert_eq!((list.contacts.len(), list.display_name.as_deref()), (2, Some("2 contacts")));
    }

    #[test]
    fn poll_has_its_secret_and_version() {
        let asked = |selectable| Poll {
            question: "¿Sí?".to_owned(),
            options: vec!["sí".to_owned(), "no".to_owned()],
            selectable,
        };
        let single = round_trip(&poll(&asked(1), vec![7; 32]));
        let creation = single.poll_creation_message_v3.as_option().unwrap();
        let options: Vec<_> =
            creation.options.iter().filter_map(|option| option.option_name.as_deref()).collect();
        assert_eq!((creation.name.as_deref(), options), (Some("¿Sí?"), vec!["sí", "no"]));
        assert_eq!(creation.selectable_options_count, Some(1));
        let context = single.message_context_info.as_option().unwrap();
        assert_eq!(context.message_secret, Some(vec![7; 32]));
        assert!(round_trip(&poll(&asked(0), vec![7; 32])).poll_creation_message.is_set());
    }

    #[test]
    fn reactions_edits_and_revocations_name_their_message() {
        let key = || wa::MessageKey { id: Some("A".to_owned()), from_me: Some(true), ..Default::default() };
        let reaction = round_trip(&reaction(key(), "👍", 5));
        let reaction = reaction.reaction_message.as_option().unwrap();
        assert_eq!((reaction.text.as_deref(), reaction.sender_timestamp_ms), (Some("👍"), Some(5)));
        assert_eq!(reaction.key.as_option(), Some(&key()));
        let edit = round_trip(&edit(key(), "ahora", 5));
        let edit = edit.protocol_message.as_option().unwrap();
        assert_eq!((edit.r#type, edit.timestamp_ms), (Some(ProtocolType::MESSAGE_EDIT), Some(5)));
        assert_eq!(edit.edited_message.as_option().unwrap().conversation.as_deref(), Some("ahora"));
        let revoke = round_trip(&revoke(key()));
        let revoke = revoke.protocol_message.as_option().unwrap();
        assert_eq!((revoke.r#type, revoke.key.as_option()), (Some(ProtocolType::REVOKE), Some(&key())));
    }
}
