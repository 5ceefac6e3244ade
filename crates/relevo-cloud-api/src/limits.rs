//! The limits of the Cloud API, from Meta's reference of the `messages` and `media` edges. They count Unicode code
//! points. A message that Meta would reject is rejected here before it is accepted.

use serde_json::Value;

use relevo_domain::{
    Button, Content, Header, Interactive, Jid, ListSection, Media, MediaKind, MediaSource, OutboundMessage,
    ProviderKind, Recipient, Template, ValidationError, mime_essence,
};
use relevo_provider::CheckError;
use relevo_provider::limits::{check_location, check_max_length, check_required};

const TEXT_BODY: usize = 4096;
const CAPTION: usize = 1024;
const FILE_NAME: usize = 240;
const INTERACTIVE_BODY: usize = 1024;
const LIST_BODY: usize = 4096;
const HEADER_TEXT: usize = 60;
const FOOTER: usize = 60;
const BUTTONS: usize = 3;
const BUTTON_TITLE: usize = 20;
const BUTTON_ID: usize = 256;
const SECTIONS: usize = 10;
const SECTION_TITLE: usize = 24;
/// Of all sections together.
const ROWS: usize = 10;
const ROW_ID: usize = 200;
const ROW_TITLE: usize = 24;
const ROW_DESCRIPTION: usize = 72;
const FLOW_CTA: usize = 30;
const CONTACTS: usize = 5;
const TEMPLATE_NAME: usize = 512;

const MB: u64 = 1 << 20;

/// The permitted formats and the maximum size, in bytes, of each kind of uploaded media.
const fn formats(kind: MediaKind) -> (&'static [&'static str], u64) {
    match kind {
        MediaKind::Image => (&["image/jpeg", "image/png"], 5 * MB),
        MediaKind::Video => (&["video/mp4", "video/3gpp"], 16 * MB),
        MediaKind::Audio => {
            (&["audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg", "audio/opus"], 16 * MB)
        }
        MediaKind::Document => (DOCUMENTS, 100 * MB),
        // 500 KB is the limit of animated stickers. Static ones have a limit of 100 KB, but only decoding could tell
        // them apart.
        MediaKind::Sticker => (&["image/webp"], 500 << 10),
    }
}

const DOCUMENTS: &[&str] = &[
    "application/pdf",
    "text/plain",
    "application/msword",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.ms-excel",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.ms-powerpoint",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
];

/// Checks whether the Cloud API can send this message.
pub(super) fn check(message: &OutboundMessage) -> Result<(), CheckError> {
    match &message.to {
        Recipient::Phone(_) | Recipient::User(_) | Recipient::Jid(Jid::Group(_)) => {}
        Recipient::Jid(Jid::Newsletter(_)) => return Err(unsupported("to newsletters")),
        Recipient::Jid(Jid::Lid(_)) => return Err(unsupported("to hidden ids (@lid)")),
    }
    if !message.options.typing.is_zero() {
        return Err(unsupported("a typing indicator without a received message"));
    }
    if !message.options.mentions.is_empty() {
        return Err(unsupported("mentions"));
    }
    match &message.content {
        Content::Poll(_) => Err(unsupported("polls")),
        Content::Edit { .. } => Err(unsupported("edits of earlier messages")),
        Content::Revoke { .. } => Err(unsupported("revocations of earlier messages")),
        content => Ok(check_content(content)?),
    }
}

fn unsupported(what: &str) -> CheckError {
    CheckError::Unsupported { provider: ProviderKind::CloudApi, what: what.to_owned() }
}

fn check_content(content: &Content) -> Result<(), ValidationError> {
    match content {
        Content::Text { body, .. } => check_required("body", body, TEXT_BODY),
        Content::Media(media) => check_media(media),
        Content::Location(location) => check_location(location),
        Content::Contacts { contacts } => check_contacts(contacts),
        Content::Reaction { message_id, .. } => check_required("message_id", message_id, usize::MAX),
        Content::Template(template) => check_template(template),
        Content::Interactive(interactive) => check_interactive(interactive),
        // `check` rejects these.
        Content::Poll(_) | Content::Edit { .. } | Content::Revoke { .. } => Ok(()),
    }
}

fn check_media(media: &Media) -> Result<(), ValidationError> {
    let kind = media.kind;
    check_source("media", kind, &media.source)?;
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
        MediaSource::Blob(blob)
            if media.voice && kind == MediaKind::Audio && mime_essence(&blob.mime) != "audio/ogg" =>
        {
            let reason = format!("a voice note must be audio/ogg (Opus), not {}", blob.mime);
            Err(ValidationError::new("media", reason))
        }
        _ => Ok(()),
    }
}

fn check_source(field: &str, kind: MediaKind, source: &MediaSource) -> Result<(), ValidationError> {
    let blob = match source {
        MediaSource::Blob(blob) => blob,
        MediaSource::ProviderId(id) => return check_required(field, id, usize::MAX),
        // Meta downloads the file and checks it.
        MediaSource::Link(_) => return Ok(()),
    };
    let (mimes, max_size) = formats(kind);
    let kind = kind.as_str();
    if !mimes.contains(&mime_essence(&blob.mime).as_str()) {
        let reason = format!("is {}; WhatsApp accepts as {kind} only {}", blob.mime, mimes.join(", "));
        return Err(ValidationError::new(field, reason));
    }
    if blob.size == 0 || blob.size > max_size {
        let reason = format!("has {} bytes; WhatsApp accepts as {kind} 1 to {max_size} bytes", blob.size);
        return Err(ValidationError::new(field, reason));
    }
    Ok(())
}

fn check_contacts(contacts: &[Value]) -> Result<(), ValidationError> {
    check_count("contacts", contacts.len(), CONTACTS)?;
    for (n, contact) in contacts.iter().enumerate() {
        let name = contact.get("name").and_then(|name| name.get("formatted_name")).and_then(Value::as_str);
        check_required(
            format_args!("contacts[{n}].name.formatted_name"),
            name.unwrap_or_default(),
            usize::MAX,
        )?;
    }
    Ok(())
}

fn check_template(template: &Template) -> Result<(), ValidationError> {
    check_required("template.name", &template.name, TEMPLATE_NAME)?;
    check_required("template.language", &template.language, usize::MAX)?;
    match template.components.iter().position(|component| !component.is_object()) {
        Some(n) => Err(ValidationError::new(format!("template.components[{n}]"), "must be an object")),
        None => Ok(()),
    }
}

fn check_interactive(interactive: &Interactive) -> Result<(), ValidationError> {
    match interactive {
        Interactive::Buttons { header, body, footer, buttons } => {
            check_header_body_footer(header.as_ref(), body, INTERACTIVE_BODY, footer.as_deref())?;
            check_buttons(buttons)
        }
        Interactive::List { header, body, footer, button, sections } => {
            check_max_length("header", header.as_deref().unwrap_or_default(), HEADER_TEXT)?;
            check_header_body_footer(None, body, LIST_BODY, footer.as_deref())?;
            check_required("button", button, BUTTON_TITLE)?;
            check_sections(sections)
        }
        Interactive::CtaUrl { header, body, footer, display_text, url } => {
            check_header_body_footer(header.as_ref(), body, INTERACTIVE_BODY, footer.as_deref())?;
            check_required("display_text", display_text, BUTTON_TITLE)?;
            match url.parse::<url::Url>() {
                Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok(()),
                _ => Err(ValidationError::new(
                    "url",
                    "must be an address that begins with http:// or https://",
                )),
            }
        }
        Interactive::Flow { header, body, footer, parameters } => {
            check_header_body_footer(header.as_ref(), body, INTERACTIVE_BODY, footer.as_deref())?;
            if !parameters.is_object() {
                return Err(ValidationError::new("parameters", "must be an object"));
            }
            let cta = parameters.get("flow_cta").and_then(Value::as_str);
            check_max_length("parameters.flow_cta", cta.unwrap_or_default(), FLOW_CTA)
        }
        Interactive::LocationRequest { body } => check_required("body", body, INTERACTIVE_BODY),
    }
}

/// Checks the parts that all interactive messages share.
fn check_header_body_footer(
    header: Option<&Header>,
    body: &str,
    max_body: usize,
    footer: Option<&str>,
) -> Result<(), ValidationError> {
    match header {
        None => {}
        Some(Header::Text(text)) => check_required("header", text, HEADER_TEXT)?,
        Some(Header::Media { kind: kind @ (MediaKind::Audio | MediaKind::Sticker), .. }) => {
            let reason = format!("cannot be {}; use text, image, video or document", kind.as_str());
            return Err(ValidationError::new("header", reason));
        }
        Some(Header::Media { kind, source }) => check_source("header", *kind, source)?,
    }
    check_required("body", body, max_body)?;
    check_max_length("footer", footer.unwrap_or_default(), FOOTER)
}

fn check_buttons(buttons: &[Button]) -> Result<(), ValidationError> {
    check_count("buttons", buttons.len(), BUTTONS)?;
    for (n, button) in buttons.iter().enumerate() {
        check_required(format_args!("buttons[{n}].id"), &button.id, BUTTON_ID)?;
        check_required(format_args!("buttons[{n}].title"), &button.title, BUTTON_TITLE)?;
        let earlier = || buttons.iter().take(n);
        if earlier().any(|other| other.id == button.id) {
            return Err(ValidationError::new(format!("buttons[{n}].id"), "is the id of an earlier button"));
        }
        if earlier().any(|other| other.title == button.title) {
            return Err(ValidationError::new(
                format!("buttons[{n}].title"),
                "is the title of an earlier button",
            ));
        }
    }
    Ok(())
}

fn check_sections(sections: &[ListSection]) -> Result<(), ValidationError> {
    check_count("sections", sections.len(), SECTIONS)?;
    let mut ids = Vec::with_capacity(ROWS);
    for (s, section) in sections.iter().enumerate() {
        let title = section.title.as_deref().unwrap_or_default();
        if title.is_empty() && sections.len() > 1 {
            let reason = "is required when there is more than one section";
            return Err(ValidationError::new(format!("sections[{s}].title"), reason));
        }
        check_max_length(format_args!("sections[{s}].title"), title, SECTION_TITLE)?;
        if section.rows.is_empty() {
            return Err(ValidationError::new(format!("sections[{s}].rows"), "must have at least one row"));
        }
        for (r, row) in section.rows.iter().enumerate() {
            let path = format!("sections[{s}].rows[{r}]");
            if ids.len() == ROWS {
                let reason = format!("exceeds the limit of {ROWS} rows in all sections of a list");
                return Err(ValidationError::new(path, reason));
            }
            check_required(format_args!("{path}.id"), &row.id, ROW_ID)?;
            check_required(format_args!("{path}.title"), &row.title, ROW_TITLE)?;
            check_max_length(
                format_args!("{path}.description"),
                row.description.as_deref().unwrap_or_default(),
                ROW_DESCRIPTION,
            )?;
            if ids.contains(&row.id.as_str()) {
                return Err(ValidationError::new(format!("{path}.id"), "is the id of an earlier row"));
            }
            ids.push(&row.id);
        }
    }
    Ok(())
}

/// Checks that a list has 1 to `max` elements.
fn check_count(field: &str, found: usize, max: usize) -> Result<(), ValidationError> {
    if (1..=max).contains(&found) {
        return Ok(());
    }
    Err(ValidationError::new(field, format!("has {found}; it must have 1 to {max}")))
}

#[cfg(test)]
mod tests;
