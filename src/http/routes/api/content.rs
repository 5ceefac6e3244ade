//! The content of messages of `/api`: parsed and validated in the documented order, with the documented error texts.
//!
//! Parsing has no side effects, because bodies with files are parsed on a blocking thread; inline files are stored
//! afterwards. The part that all recipients of a broadcast share is an [`InteractiveFrame`], stored once.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::json_fields::JsonFields;
use crate::http::api::error::ApplicationError;
use crate::http::api::texts;
use crate::http::media::{self, MediaFields, MediaInput};
use crate::instance;
use relevo_domain::{
    Button, Content, Header, Interactive, ListRow, ListSection, Media, MediaKind, MediaSource, Template,
    ValidationError,
};

/// The content of a message; an inline file is not stored yet.
#[derive(Debug)]
pub(super) enum ContentDraft {
    Ready(Content),
    Media { kind: MediaKind, source: MediaInput, caption: Option<String>, file_name: Option<String> },
    Interactive { frame: InteractiveFrame<HeaderDraft>, body: String },
}

/// The header, footer and action of an interactive message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InteractiveFrame<H> {
    pub header: Option<H>,
    pub footer: Option<String>,
    pub action: InteractiveAction,
}

#[derive(Debug, PartialEq)]
pub(super) enum HeaderDraft {
    Text(String),
    Media { kind: MediaKind, source: MediaInput },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum InteractiveAction {
    Url { text: String, url: String },
    Buttons(Vec<Button>),
    List { button: String, sections: Vec<ListSection> },
    Location,
}

/// The default button of interactive messages (broadcast-interactive.md, "Opcionales").
const DEFAULT_BUTTON_TEXT: &str = "Ver más";
const DEFAULT_BUTTON_URL: &str = "https://example.com";

/// The default language of templates (cloud-api-endpoints.md, "Parámetros Opcionales").
const DEFAULT_LANGUAGE: &str = "es";
const MAX_BUTTONS: usize = 3;
const MAX_TITLE_LENGTH: usize = 20;

impl ContentDraft {
    /// Stores the inline file of the message, if there is one.
    ///
    /// # Errors
    ///
    /// The file cannot be stored.
    pub async fn store_media(self, instances: &instance::Handle) -> Result<Content, instance::Error> {
        Ok(match self {
            ContentDraft::Ready(content) => content,
            ContentDraft::Media { kind, source, caption, file_name } => {
                let source = store_source(source, instances).await?;
                Content::Media(Media { kind, source, caption, file_name, voice: false })
            }
            ContentDraft::Interactive { frame, body } => frame.store_media(instances).await?.with_body(body),
        })
    }
}

impl InteractiveFrame<HeaderDraft> {
    /// Stores the inline file of the header, if there is one.
    ///
    /// # Errors
    ///
    /// The file cannot be stored.
    pub async fn store_media(
        self,
        instances: &instance::Handle,
    ) -> Result<InteractiveFrame<Header>, instance::Error> {
        let header = match self.header {
            None => None,
            Some(HeaderDraft::Text(text)) => Some(Header::Text(text)),
            Some(HeaderDraft::Media { kind, source }) => {
                Some(Header::Media { kind, source: store_source(source, instances).await? })
            }
        };
        Ok(InteractiveFrame { header, footer: self.footer, action: self.action })
    }
}

impl InteractiveFrame<Header> {
    /// The message with `body` in this frame.
    pub fn with_body(self, body: String) -> Content {
        let InteractiveFrame { header, footer, action: press } = self;
        Content::Interactive(match press {
            InteractiveAction::Url { text: display_text, url } => {
                Interactive::CtaUrl { header, body, footer, display_text, url }
            }
            InteractiveAction::Buttons(buttons) => Interactive::Buttons { header, body, footer, buttons },
            InteractiveAction::List { button, sections } => {
                let header = header.and_then(|header| match header {
                    Header::Text(text) => Some(text),
                    Header::Media { .. } => None,
                });
                Interactive::List { header, body, footer, button, sections }
            }
            InteractiveAction::Location => Interactive::LocationRequest { body },
        })
    }
}

async fn store_source(
    source: MediaInput,
    instances: &instance::Handle,
) -> Result<MediaSource, instance::Error> {
    Ok(match source {
        MediaInput::Link(url) => MediaSource::Link(url),
        MediaInput::ProviderId(id) => MediaSource::ProviderId(id),
        MediaInput::Inline { bytes, mime } => MediaSource::Blob(instances.store_media(bytes, &mime).await?),
    })
}

/// A template: `template_name`, `language`, and the values of the body in `parameters`.
///
/// # Errors
///
/// A field is invalid.
pub(super) fn template(fields: JsonFields<'_>) -> Result<Content, ApplicationError> {
    template_with(fields, body_parameters(fields)?)
}

/// The same, or with `components` in Meta's form, which win.
pub(super) fn advanced_template(fields: JsonFields<'_>) -> Result<Content, ApplicationError> {
    let components = match fields.get("components") {
        None => body_parameters(fields)?,
        Some(Value::Array(components)) => components.clone(),
        Some(_) => return Err(ValidationError::new("components", "must be an array of objects").into()),
    };
    template_with(fields, components)
}

fn template_with(fields: JsonFields<'_>, components: Vec<Value>) -> Result<Content, ApplicationError> {
    let name = fields.string("template_name")?;
    let language = fields.optional("language")?.unwrap_or_else(|| DEFAULT_LANGUAGE.to_owned());
    Ok(Content::Template(Template { name, language, components }))
}

/// A body component with a text for each value; nothing without values.
fn body_parameters(fields: JsonFields<'_>) -> Result<Vec<Value>, ValidationError> {
    let values = match fields.get("parameters") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(_) => return Err(ValidationError::new("parameters", "must be an array of texts")),
    };
    let mut texts = Vec::with_capacity(values.len());
    for (n, value) in values.iter().enumerate() {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return Err(ValidationError::new(format!("parameters[{n}]"), "must be a text or a number")),
        };
        texts.push(json!({ "type": "text", "text": text }));
    }
    Ok(vec![json!({ "type": "body", "parameters": texts })])
}

/// A URL button: `button_text`, `button_url`, header and footer.
///
/// # Errors
///
/// A field is invalid.
pub(super) fn url_frame(fields: JsonFields<'_>) -> Result<InteractiveFrame<HeaderDraft>, ApplicationError> {
    let text = fields.optional("button_text")?.unwrap_or_else(|| DEFAULT_BUTTON_TEXT.to_owned());
    let url = fields.optional("button_url")?.unwrap_or_else(|| DEFAULT_BUTTON_URL.to_owned());
    let (header, footer) = (header(fields)?, fields.optional("footer_text")?);
    Ok(InteractiveFrame { header, footer, action: InteractiveAction::Url { text, url } })
}

/// Reply buttons: `buttons`, header and footer.
pub(super) fn button_frame(
    fields: JsonFields<'_>,
) -> Result<InteractiveFrame<HeaderDraft>, ApplicationError> {
    let none = || ApplicationError::invalid(texts::MISSING_BUTTON);
    let buttons = fields.list("buttons").ok_or_else(none)?;
    if buttons.len() > MAX_BUTTONS {
        return Err(ApplicationError::invalid(texts::TOO_MANY_BUTTONS));
    }
    let buttons = buttons.iter().zip(1..).map(|(value, n)| button(value, n)).collect::<Result<_, _>>()?;
    let (header, footer) = (header(fields)?, fields.optional("footer_text")?);
    Ok(InteractiveFrame { header, footer, action: InteractiveAction::Buttons(buttons) })
}

/// The `n`th button, counted from 1.
fn button(value: &Value, n: usize) -> Result<Button, ApplicationError> {
    let wrong = |what: &str| ApplicationError::invalid(format!("Botón {n} debe {what}"));
    let fields = JsonFields::from_value(value).ok_or_else(|| wrong("ser un objeto"))?;
    for name in ["id", "title"] {
        if fields.get(name).is_none() {
            return Err(wrong(&format!("tener un '{name}'")));
        }
    }
    let place = |invalid: ValidationError| {
        ValidationError::new(format!("buttons[{}].{}", n - 1, invalid.field), invalid.reason)
    };
    let (id, title) = (fields.string("id").map_err(place)?, fields.string("title").map_err(place)?);
    if title.chars().count() > MAX_TITLE_LENGTH {
        return Err(ApplicationError::invalid(format!(
            "Título del botón {n} debe tener máximo 20 caracteres"
        )));
    }
    let kind = fields.text("type").map_err(place)?;
    if kind.is_some_and(|kind| kind != "reply") {
        let reason = "must be \"reply\": WhatsApp has no other button here; send links with send-interactive";
        return Err(ValidationError::new(format!("buttons[{}].type", n - 1), reason).into());
    }
    Ok(Button { id, title })
}

/// A list: `header_text`, `footer_text`, `button_text` and `sections`; all are required.
///
/// # Errors
///
/// A field is missing, or a section or row is invalid.
pub(super) fn list_frame(fields: JsonFields<'_>) -> Result<InteractiveFrame<HeaderDraft>, ApplicationError> {
    require_fields(fields, &["header_text", "footer_text", "button_text"])?;
    let none = || ApplicationError::invalid(texts::MISSING_SECTIONS);
    let found = fields.list("sections").ok_or_else(none)?;
    let sections = found.iter().enumerate().map(section).collect::<Result<_, _>>()?;
    let (header, footer) = (fields.optional("header_text")?, fields.optional("footer_text")?);
    let press = InteractiveAction::List { button: fields.string("button_text")?, sections };
    Ok(InteractiveFrame { header: header.map(HeaderDraft::Text), footer, action: press })
}

fn section((s, value): (usize, &Value)) -> Result<ListSection, ApplicationError> {
    let fields =
        JsonFields::from_value(value).ok_or_else(|| ApplicationError::invalid(texts::SECTION_NOT_OBJECT))?;
    if fields.get("title").is_none() {
        return Err(ApplicationError::invalid(texts::SECTION_WITHOUT_TITLE));
    }
    let none = || ApplicationError::invalid(texts::SECTION_WITHOUT_ROWS);
    let found = fields.list("rows").ok_or_else(none)?;
    let rows = found.iter().enumerate().map(|(r, value)| row(s, r, value)).collect::<Result<_, _>>()?;
    let wrong =
        |invalid: ValidationError| ValidationError::new(format!("sections[{s}].title"), invalid.reason);
    Ok(ListSection { title: fields.optional("title").map_err(wrong)?, rows })
}

fn row(s: usize, r: usize, value: &Value) -> Result<ListRow, ApplicationError> {
    let fields =
        JsonFields::from_value(value).ok_or_else(|| ApplicationError::invalid(texts::ROW_NOT_OBJECT))?;
    for name in ["id", "title"] {
        if fields.get(name).is_none() {
            return Err(ApplicationError::invalid(texts::row_without(name)));
        }
    }
    let at = |invalid: ValidationError| {
        ValidationError::new(format!("sections[{s}].rows[{r}].{}", invalid.field), invalid.reason)
    };
    Ok(ListRow {
        id: fields.string("id").map_err(at)?,
        title: fields.string("title").map_err(at)?,
        description: fields.optional("description").map_err(at)?,
    })
}

/// Reports the first missing field.
///
/// # Errors
///
/// One of the fields is missing.
pub(super) fn require_fields(fields: JsonFields<'_>, names: &[&str]) -> Result<(), ApplicationError> {
    match names.iter().find(|name| fields.get(name).is_none()) {
        Some(name) => Err(ApplicationError::invalid(texts::missing_field(name))),
        None => Ok(()),
    }
}

/// A header: `header_type` and `header_content`; both or none.
fn header(fields: JsonFields<'_>) -> Result<Option<HeaderDraft>, ApplicationError> {
    let (Some(kind), Some(content)) = (fields.text("header_type")?, fields.text("header_content")?) else {
        return Ok(None);
    };
    let kind = match kind.as_ref() {
        "text" => return Ok(Some(HeaderDraft::Text(content.into_owned()))),
        "image" => MediaKind::Image,
        "video" => MediaKind::Video,
        "document" => MediaKind::Document,
        _ => return Err(ValidationError::new("header_type", "must be text, image, video or document").into()),
    };
    let described = MediaFields { kind, media_url: &content, media_id: "", mime_type: "", file_name: None };
    let wrong = |invalid: ValidationError| ValidationError::new("header_content", invalid.reason);
    Ok(Some(HeaderDraft::Media { kind, source: media::parse_media(&described).map_err(wrong)? }))
}

/// A file: `media_id` (or `id`), or `media_url` with a URL or base64, or `base64`; optionally with a `caption`.
///
/// # Errors
///
/// The kind or the source of the file is invalid.
pub(super) fn media(fields: JsonFields<'_>) -> Result<ContentDraft, ApplicationError> {
    let kind = match fields.text("type")?.unwrap_or_default().as_ref() {
        "image" => MediaKind::Image,
        "video" => MediaKind::Video,
        "audio" => MediaKind::Audio,
        "document" => MediaKind::Document,
        "sticker" => MediaKind::Sticker,
        _ => {
            return Err(
                ValidationError::new("type", "must be image, video, audio, document or sticker").into()
            );
        }
    };
    let first = |[one, other]: [&'static str; 2]| match fields.text(one) {
        Ok(None) => fields.text(other),
        found => found,
    };
    let (media_id, media_url) = (first(["media_id", "id"])?, first(["media_url", "base64"])?);
    let (mime_type, file_name) = (fields.text("mime_type")?, first(["filename", "file_name"])?);
    let source = media::parse_media(&MediaFields {
        kind,
        media_url: media_url.as_deref().unwrap_or_default(),
        media_id: media_id.as_deref().unwrap_or_default(),
        mime_type: mime_type.as_deref().unwrap_or_default(),
        file_name: file_name.as_deref(),
    })?;
    let file_name = file_name.map(Cow::into_owned);
    Ok(ContentDraft::Media { kind, source, caption: fields.optional("caption")?, file_name })
}
