//! The limits of a linked device: those of WhatsApp's own applications, so that a message that phones would not show is
//! rejected before it is accepted.

use std::time::Duration;

use serde_json::Value;

use super::media::MediaReference;
use relevo_domain::{
    BlobRef, Content, Jid, Media, MediaKind, MediaSource, OutboundMessage, Poll, ProviderKind, Recipient,
    ValidationError, mime_essence,
};
use relevo_provider::CheckError;
use relevo_provider::limits::{check_location, check_max_length, check_required};

/// Maximum length of a text, in characters; WhatsApp's applications cut longer ones.
const TEXT: usize = 65_536;
const CAPTION: usize = 1024;
const FILE_NAME: usize = 240;
/// Maximum length of a poll's question, in characters, as in WhatsApp's applications.
const QUESTION: usize = 255;
const OPTION: usize = 100;
const OPTIONS: usize = 12;
const CONTACTS: usize = 257;
/// Maximum number of code points of an emoji; a family, for example, has several.
const EMOJI: usize = 16;
const MENTIONS: usize = 1024;
/// Maximum duration of the typing indicator. It is part of the attempt, which has a timeout.
const MAX_TYPING: Duration = Duration::from_secs(60);

const MB: u64 = 1 << 20;

/// The formats that phones show and the maximum size, in bytes, of each kind of file. Source: WhatsApp, "Sending media":
/// photos, videos and audio up to 16 MB. WhatsApp permits documents of 2 GB; this node stores files of up to 100 MB.
const fn formats(kind: MediaKind) -> (&'static [&'static str], u64) {
    match kind {
        MediaKind::Image => (&["image/jpeg", "image/png", "image/webp"], 16 * MB),
        MediaKind::Video => (&["video/mp4", "video/3gpp"], 16 * MB),
        MediaKind::Audio => {
            (&["audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg", "audio/opus"], 16 * MB)
        }
        MediaKind::Document => (&[], 100 * MB),
        MediaKind::Sticker => (&["image/webp"], MB),
    }
}

/// Maximum size of a file of this kind, in bytes.
pub(super) const fn max_size(kind: MediaKind) -> u64 {
    formats(kind).1
}

/// Checks whether a linked device can send this message.
pub(super) fn check(message: &OutboundMessage) -> Result<(), CheckError> {
    if matches!(message.to, Recipient::User(_)) {
        return Err(unsupported("to the user ids of the Cloud API; use a phone number or a JID"));
    }
    if matches!(&message.to, Recipient::Jid(Jid::Group(id)) if id.bytes().any(|b| b.is_ascii_alphabetic())) {
        return Err(unsupported("to the groups of the Cloud API"));
    }
    if matches!(message.to, Recipient::Jid(Jid::Newsletter(_))) {
        check_for_newsletter(message)?;
    }
    check_options(message)?;
    match &message.content {
        Content::Template(_) => {
            Err(unsupported("templates, which only the Cloud API has; send a text instead"))
        }
        Content::Interactive(_) => {
            Err(unsupported("buttons and lists, which only the Cloud API has; send a text or a poll instead"))
        }
        content => Ok(check_content(content)?),
    }
}

/// Checks a message to a newsletter. Newsletters are not encrypted, and their files are uploaded in another way.
fn check_for_newsletter(message: &OutboundMessage) -> Result<(), CheckError> {
    if message.quote.is_some() || !message.options.is_default() {
        return Err(unsupported("quotes, mentions and typing to newsletters"));
    }
    match &message.content {
        Content::Text { .. } | Content::Poll(_) => Ok(()),
        content => {
            Err(unsupported(&format!("messages of type {} to newsletters; send a text", content.kind())))
        }
    }
}

fn unsupported(what: &str) -> CheckError {
    CheckError::Unsupported { provider: ProviderKind::LinkedDevice, what: what.to_owned() }
}

fn check_options(message: &OutboundMessage) -> Result<(), CheckError> {
    let options = &message.options;
    if options.typing > MAX_TYPING {
        let reason = format!("is longer than {} seconds", MAX_TYPING.as_secs());
        return Err(ValidationError::new("typing_duration", reason).into());
    }
    if options.mentions.len() > MENTIONS {
        return Err(ValidationError::new("mentions", format!("has more than {MENTIONS} people")).into());
    }
    let is_person =
        |recipient: &Recipient| matches!(recipient, Recipient::Phone(_) | Recipient::Jid(Jid::Lid(_)));
    match options.mentions.iter().position(|mention| !is_person(mention)) {
        Some(n) => Err(ValidationError::new(
            format!("mentions[{n}]"),
            "must be a phone number or a hidden id (@lid)",
        )
        .into()),
        None => Ok(()),
    }
}

fn check_content(content: &Content) -> Result<(), ValidationError> {
    match content {
        Content::Text { body, .. } => check_required("body", body, TEXT),
        Content::Media(media) => check_media(media),
        Content::Location(location) => check_location(location),
        Content::Contacts { contacts } => check_contacts(contacts),
        Content::Reaction { message_id, emoji } => {
            check_required("message_id", message_id, usize::MAX)?;
            check_max_length("emoji", emoji, EMOJI)
        }
        Content::Poll(poll) => check_poll(poll),
        Content::Edit { message_id, body } => {
            check_required("message_id", message_id, usize::MAX)?;
            check_required("body", body, TEXT)
        }
        Content::Revoke { message_id } => check_required("message_id", message_id, usize::MAX),
        // `check` rejects these.
        Content::Template(_) | Content::Interactive(_) => Ok(()),
    }
}

fn check_media(media: &Media) -> Result<(), ValidationError> {
    let kind = media.kind;
    let may_have_caption = matches!(kind, MediaKind::Image | MediaKind::Video | MediaKind::Document);
    if !may_have_caption && media.caption.as_ref().is_some_and(|caption| !caption.is_empty()) {
        return Err(ValidationError::new(
            "caption",
            format!("{} messages have none; leave it out", kind.as_str()),
        ));
    }
    check_max_length("caption", media.caption.as_deref().unwrap_or_default(), CAPTION)?;
    check_max_length("file_name", media.file_name.as_deref().unwrap_or_default(), FILE_NAME)?;
    match &media.source {
        MediaSource::Blob(blob) => check_file(kind, media.voice, blob),
        // Checked after the download.
        MediaSource::Link(_) => Ok(()),
        MediaSource::ProviderId(id) => check_reference(kind, id),
    }
}

fn check_file(kind: MediaKind, voice: bool, blob: &BlobRef) -> Result<(), ValidationError> {
    let format = mime_essence(&blob.mime);
    check_format(kind, voice, &format).map_err(|reason| ValidationError::new("media", reason))?;
    let max_size = max_size(kind);
    if blob.size == 0 || blob.size > max_size {
        let kind = kind.as_str();
        let reason = format!("has {} bytes; WhatsApp accepts as {kind} 1 to {max_size} bytes", blob.size);
        return Err(ValidationError::new("media", reason));
    }
    Ok(())
}

/// Checks whether phones show a file of media type `format` (without parameters) as a message of this kind.
pub(super) fn check_format(kind: MediaKind, voice: bool, format: &str) -> Result<(), String> {
    let formats = formats(kind).0;
    if voice && kind == MediaKind::Audio && format != "audio/ogg" {
        return Err(format!("a voice note must be audio/ogg (Opus), not {format}"));
    }
    if formats.is_empty() || formats.contains(&format) {
        return Ok(());
    }
    Err(format!("is {format}; WhatsApp accepts as {} only {}", kind.as_str(), formats.join(", ")))
}

/// Checks that a file at WhatsApp is sent as the kind that it was received as, because its key depends on the kind.
fn check_reference(kind: MediaKind, id: &str) -> Result<(), ValidationError> {
    let invalid = |reason: String| ValidationError::new("media_id", reason);
    let reference = MediaReference::parse(id).map_err(|failure| invalid(failure.message))?;
    if reference.kind != kind {
        let (actual, requested) = (reference.kind.as_str(), kind.as_str());
        return Err(invalid(format!("is of type {actual} and cannot be sent as {requested}")));
    }
    Ok(())
}

fn check_contacts(contacts: &[Value]) -> Result<(), ValidationError> {
    if contacts.is_empty() || contacts.len() > CONTACTS {
        return Err(ValidationError::new(
            "contacts",
            format!("has {}; it must have 1 to {CONTACTS}", contacts.len()),
        ));
    }
    for (n, contact) in contacts.iter().enumerate() {
        let name = contact.pointer("/name/formatted_name").and_then(Value::as_str);
        check_required(
            format_args!("contacts[{n}].name.formatted_name"),
            name.unwrap_or_default(),
            usize::MAX,
        )?;
    }
    Ok(())
}

fn check_poll(poll: &Poll) -> Result<(), ValidationError> {
    check_required("question", &poll.question, QUESTION)?;
    let count = poll.options.len();
    if !(2..=OPTIONS).contains(&count) {
        return Err(ValidationError::new("options", format!("has {count}; a poll has 2 to {OPTIONS}")));
    }
    for (n, option) in poll.options.iter().enumerate() {
        check_required(format_args!("options[{n}]"), option, OPTION)?;
        if poll.options.iter().take(n).any(|earlier| earlier == option) {
            return Err(ValidationError::new(format!("options[{n}]"), "is an earlier option"));
        }
    }
    if usize::try_from(poll.selectable).map_or(true, |selectable| selectable > count) {
        let reason = format!("is {}; at most all {count} options can be selected", poll.selectable);
        return Err(ValidationError::new("selectable_count", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use relevo_domain::{Interactive, Location, MessageOptions, Template};

    fn to(recipient: &str, content: Content) -> OutboundMessage {
        OutboundMessage {
            to: recipient.parse().unwrap(),
            content,
            quote: None,
            options: MessageOptions::default(),
        }
    }

    fn text(body: &str) -> Content {
        Content::Text { body: body.to_owned(), preview_url: false }
    }

    fn media(kind: MediaKind, mime: &str, size: u64, voice: bool) -> Content {
        let source = MediaSource::Blob(BlobRef { sha256: "ab".repeat(32), size, mime: mime.to_owned() });
        Content::Media(Media { kind, source, caption: None, file_name: None, voice })
    }

    fn poll(options: &[&str], selectable: u32) -> Content {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Content::Poll(Poll { question: "¿Cuándo?".to_owned(), options, selectable })
    }

    fn rejection_reason(content: Content) -> Option<String> {
        check(&to("573001234567", content)).err().map(|error| error.to_string())
    }

    #[test]
    fn users_groups_and_newsletters_are_accepted() {
        for recipient in
            ["573001234567", "120363025246125486@g.us", "120363025246125486@newsletter", "1234567890@lid"]
        {
            assert_eq!(check(&to(recipient, text("hola"))), Ok(()), "{recipient}");
        }
        let error = check(&to("US.13491208655302741918", text("hola"))).unwrap_err();
        assert!(matches!(error, CheckError::Unsupported { .. }), "{error}");
    }

    #[test]
    fn cloud_api_content_is_unsupported() {
        let template =
            Template { name: "hola".to_owned(), language: "es".to_owned(), components: Vec::new() };
        let interactive = Interactive::LocationRequest { body: "¿Dónde?".to_owned() };
        for content in [Content::Template(template), Content::Interactive(interactive)] {
            let error = check(&to("573001234567", content)).unwrap_err();
            assert!(matches!(&error, CheckError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("linked_device cannot send"), "{error}");
        }
    }

    #[test]
    fn newsletters_accept_texts_and_polls() {
        let newsletter = "120363025246125486@newsletter";
        assert_eq!(check(&to(newsletter, poll(&["a", "b"], 1))), Ok(()));
        for content in
            [media(MediaKind::Image, "image/png", 1, false), Content::Revoke { message_id: "A".to_owned() }]
        {
            assert!(matches!(check(&to(newsletter, content)), Err(CheckError::Unsupported { .. })));
        }
        let quoting = OutboundMessage { quote: Some("A".parse().unwrap()), ..to(newsletter, text("hola")) };
        assert!(matches!(check(&quoting), Err(CheckError::Unsupported { .. })));
    }

    #[test]
    fn file_formats_are_limited_to_what_phones_show() {
        assert_eq!(rejection_reason(media(MediaKind::Image, "image/jpeg; q=1", 16 * MB, false)), None);
        assert_eq!(
            rejection_reason(media(MediaKind::Document, "application/x-anything", 100 * MB, false)),
            None
        );
        assert_eq!(rejection_reason(media(MediaKind::Audio, "audio/ogg", 1, true)), None);
        for (content, says) in [
            (media(MediaKind::Image, "image/tiff", 1, false), "image/tiff"),
            (media(MediaKind::Video, "video/mp4", 16 * MB + 1, false), "bytes"),
            (media(MediaKind::Document, "application/pdf", 0, false), "bytes"),
            (media(MediaKind::Audio, "audio/mpeg", 1, true), "voice note"),
            (media(MediaKind::Sticker, "image/png", 1, false), "image/webp"),
        ] {
            let reason = rejection_reason(content).unwrap();
            assert!(reason.contains(says), "{reason}");
        }
    }

    #[test]
    fn media_reference_keeps_its_kind() {
        let reference = MediaReference {
            kind: MediaKind::Image,
            path: "/v/1".to_owned(),
            key: Some(vec![1; 32]),
            encrypted_sha256: Some(vec![2; 32]),
            sha256: vec![3; 32],
            length: 1,
            mime: "image/jpeg".to_owned(),
            key_timestamp: None,
        };
        let content = |kind, id: String| {
            let source = MediaSource::ProviderId(id);
            Content::Media(Media { kind, source, caption: None, file_name: None, voice: false })
        };
        let id = reference.id().unwrap();
        assert_eq!(rejection_reason(content(MediaKind::Image, id.clone())), None);
        assert!(rejection_reason(content(MediaKind::Document, id)).unwrap().contains("type image"));
        assert!(
            rejection_reason(content(MediaKind::Image, "1037543291543636".to_owned()))
                .unwrap()
                .contains("media id")
        );
    }

    #[test]
    fn poll_has_two_to_twelve_different_options() {
        assert_eq!(rejection_reason(poll(&["a", "b"], 0)), None);
        assert_eq!(rejection_reason(poll(&["a", "b"], 2)), None);
        for (content, says) in [
            (poll(&["a"], 1), "2 to 12"),
            (poll(&["a"; 13], 1), "2 to 12"),
            (poll(&["a", "b", "a"], 1), "options[2]"),
            (poll(&["a", " "], 1), "options[1]"),
            (poll(&["a", "b"], 3), "at most all 2"),
            (poll(&["a", &"ñ".repeat(101)], 1), "101 characters"),
        ] {
            let reason = rejection_reason(content).unwrap();
            assert!(reason.contains(says), "{reason}");
        }
    }

    #[test]
    fn required_fields_are_checked() {
        let empty = String::new;
        for content in [
            text(" "),
            Content::Edit { message_id: empty(), body: "x".to_owned() },
            Content::Edit { message_id: "A".to_owned(), body: empty() },
            Content::Revoke { message_id: empty() },
            Content::Reaction { message_id: empty(), emoji: "👍".to_owned() },
            Content::Reaction { message_id: "A".to_owned(), emoji: "no emoji but a sentence".to_owned() },
            Content::Contacts { contacts: Vec::new() },
            Content::Contacts { contacts: vec![json!({ "name": {} })] },
            Content::Location(Location { latitude: f64::NAN, longitude: 0.0, name: None, address: None }),
        ] {
            assert!(rejection_reason(content.clone()).is_some(), "{content:?}");
        }
        assert_eq!(rejection_reason(Content::Reaction { message_id: "A".to_owned(), emoji: empty() }), None);
    }

    #[test]
    fn mentions_are_users_and_typing_is_limited() {
        let with =
            |options| check(&OutboundMessage { options, ..to("573001234567", text("hola @573009999999")) });
        let mentions = |recipient: &str| MessageOptions {
            mentions: vec![recipient.parse().unwrap()],
            ..MessageOptions::default()
        };
        assert_eq!(with(mentions("573009999999")), Ok(()));
        assert!(with(mentions("120363025246125486@g.us")).is_err());
        assert!(with(MessageOptions { typing: MAX_TYPING * 2, ..MessageOptions::default() }).is_err());
    }
}
