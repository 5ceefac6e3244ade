//! The kinds of bulk messages of `/api`: their requests, parsed in the documented order, and their documented texts.

use serde_json::Value;

use super::content::{self, ContentDraft, HeaderDraft, InteractiveAction, InteractiveFrame};
use super::json_fields::JsonFields;
use super::message_kind::MessageKind;
use crate::http::api::error::ApplicationError;
use crate::http::api::texts::{self, MISSING_RECIPIENTS, NO_PHONES, NO_RECIPIENTS};
use relevo_domain::{Content, Header, ValidationError};

/// A route for bulk messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BulkKind {
    Bulk,
    BulkList,
    BulkInteractive,
    BulkButton,
    BulkTemplate,
    Broadcast,
    BroadcastTemplate,
    Personalized,
}

/// The recipients and their content; inline files are not stored yet.
#[derive(Debug)]
pub(super) struct BulkRequest {
    /// The phones as given; an invalid phone fails only its own message.
    pub phones: Vec<String>,
    pub content: BulkContent,
}

/// The content of a bulk request.
#[derive(Debug)]
pub(super) enum BulkContent {
    /// The same content for all.
    Common(ContentDraft),
    /// A text for each in a common frame.
    Framed { frame: InteractiveFrame<HeaderDraft>, own: Vec<RecipientContent> },
    /// A message for each.
    Each(Vec<ContentDraft>),
}

/// The content of one recipient inside the common frame.
#[derive(Debug)]
pub(super) struct RecipientContent {
    pub body: String,
    /// Replaces the URL of the common button.
    pub url: Option<String>,
}

impl RecipientContent {
    /// The message of the recipient.
    pub fn to_content(&self, mut frame: InteractiveFrame<Header>) -> Content {
        if let (InteractiveAction::Url { url, .. }, Some(own)) = (&mut frame.action, &self.url) {
            url.clone_from(own);
        }
        frame.with_body(self.body.clone())
    }
}

impl BulkKind {
    /// The documented `message` of a sent and of a queued request.
    pub fn success_messages(self) -> (&'static str, &'static str) {
        match self {
            BulkKind::Bulk => ("Envío masivo completado", "Envío masivo enviado a cola"),
            BulkKind::BulkList => {
                ("Envío masivo de listas completado", "Envío masivo de listas enviado a cola")
            }
            BulkKind::BulkInteractive => {
                ("Envío masivo interactivo completado", "Envío masivo interactivo enviado a cola")
            }
            BulkKind::BulkButton => {
                ("Envío masivo de botones completado", "Envío masivo de botones enviado a cola")
            }
            BulkKind::BulkTemplate => {
                ("Envío masivo de plantillas completado", "Envío masivo de plantillas enviado a cola")
            }
            BulkKind::Broadcast => ("Mensaje broadcast procesado", "Mensaje broadcast enviado a cola"),
            BulkKind::BroadcastTemplate => {
                ("Broadcast de plantilla procesado", "Broadcast de plantilla enviado a cola")
            }
            BulkKind::Personalized => {
                ("Broadcast personalizado procesado", "Broadcast personalizado enviado a cola")
            }
        }
    }

    /// Distinguishes requests of different kinds with the same idempotency key.
    pub fn as_str(self) -> &'static str {
        match self {
            BulkKind::Bulk => "api/bulk",
            BulkKind::BulkList => "api/bulk-list",
            BulkKind::BulkInteractive => "api/bulk-interactive",
            BulkKind::BulkButton => "api/bulk-button",
            BulkKind::BulkTemplate => "api/bulk-template",
            BulkKind::Broadcast => "api/broadcast",
            BulkKind::BroadcastTemplate => "api/broadcast-template",
            BulkKind::Personalized => "api/personalized-broadcast",
        }
    }

    /// Whether it is an announcement, which is not sent to recipients that opted out. The other kinds are individual
    /// messages.
    pub fn is_announcement(self) -> bool {
        matches!(self, BulkKind::Broadcast | BulkKind::BroadcastTemplate | BulkKind::Personalized)
    }

    /// The kind of message that each recipient gets.
    pub fn message_kind(self) -> MessageKind {
        match self {
            BulkKind::Bulk => MessageKind::Text,
            BulkKind::BulkList => MessageKind::List,
            BulkKind::BulkInteractive | BulkKind::Broadcast | BulkKind::Personalized => {
                MessageKind::Interactive
            }
            BulkKind::BulkButton => MessageKind::Buttons,
            BulkKind::BulkTemplate | BulkKind::BroadcastTemplate => MessageKind::AdvancedTemplate,
        }
    }

    /// Parses a request; reports the first error in the documented order.
    ///
    /// # Errors
    ///
    /// A field is missing or invalid.
    pub fn parse(self, fields: JsonFields<'_>) -> Result<BulkRequest, ApplicationError> {
        match self {
            BulkKind::Bulk => parse_each(fields, "message", |fields| {
                Ok(ContentDraft::Ready(Content::Text { body: fields.string("message")?, preview_url: false }))
            }),
            BulkKind::BulkTemplate => parse_each(fields, "template_name", |fields| {
                content::advanced_template(fields).map(ContentDraft::Ready)
            }),
            BulkKind::BulkInteractive => parse_each(fields, "body_text", |fields| {
                let (frame, body) = (content::url_frame(fields)?, fields.string("body_text")?);
                Ok(ContentDraft::Interactive { frame, body })
            }),
            BulkKind::BulkList => parse_framed(fields, content::list_frame),
            BulkKind::BulkButton => parse_framed(fields, content::button_frame),
            BulkKind::Personalized => parse_framed(fields, content::url_frame),
            BulkKind::Broadcast => parse_common(fields, "body_text", |fields| {
                let (frame, body) = (content::url_frame(fields)?, fields.string("body_text")?);
                Ok(ContentDraft::Interactive { frame, body })
            }),
            BulkKind::BroadcastTemplate => parse_common(fields, "template_name", |fields| {
                content::advanced_template(fields).map(ContentDraft::Ready)
            }),
        }
    }
}

/// The same content to every phone of `phones`.
fn parse_common(
    fields: JsonFields<'_>,
    required: &str,
    read: impl FnOnce(JsonFields<'_>) -> Result<ContentDraft, ApplicationError>,
) -> Result<BulkRequest, ApplicationError> {
    require_fields_present(fields)?;
    let found = fields.list("phones").ok_or_else(|| ApplicationError::invalid(NO_PHONES))?;
    content::require_fields(fields, &[required])?;
    let phone = |(n, value): (usize, &Value)| match value {
        Value::String(phone) => Ok(phone.clone()),
        Value::Number(phone) => Ok(phone.to_string()),
        _ => Err(ValidationError::new(format!("phones[{n}]"), "must be a text")),
    };
    let phones = found.iter().enumerate().map(phone).collect::<Result<_, _>>()?;
    Ok(BulkRequest { phones, content: BulkContent::Common(read(fields)?) })
}

/// A `body_text` for each of `recipients` in a common frame.
fn parse_framed(
    fields: JsonFields<'_>,
    frame: impl FnOnce(JsonFields<'_>) -> Result<InteractiveFrame<HeaderDraft>, ApplicationError>,
) -> Result<BulkRequest, ApplicationError> {
    require_fields_present(fields)?;
    let found = fields.list("recipients").ok_or_else(|| ApplicationError::invalid(NO_RECIPIENTS))?;
    let (mut phones, mut own) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for (n, value) in found.iter().enumerate() {
        let recipient = JsonFields::from_value(value)
            .ok_or_else(|| ApplicationError::invalid(texts::RECIPIENT_NOT_OBJECT))?;
        for name in ["phone", "body_text"] {
            if recipient.get(name).is_none() {
                return Err(ApplicationError::invalid(texts::recipient_without(name)));
            }
        }
        let at = |invalid: ValidationError| {
            ValidationError::new(recipient_field(n, &invalid.field), invalid.reason)
        };
        phones.push(recipient.string("phone").map_err(at)?);
        let (body, url) = (recipient.string("body_text"), recipient.optional("button_url"));
        own.push(RecipientContent { body: body.map_err(at)?, url: url.map_err(at)? });
    }
    Ok(BulkRequest { phones, content: BulkContent::Framed { frame: frame(fields)?, own } })
}

/// A message for each of `recipients`.
fn parse_each(
    fields: JsonFields<'_>,
    required: &str,
    read: impl Fn(JsonFields<'_>) -> Result<ContentDraft, ApplicationError>,
) -> Result<BulkRequest, ApplicationError> {
    let found = fields.list("recipients").ok_or_else(|| ApplicationError::invalid(MISSING_RECIPIENTS))?;
    let lacking = || ApplicationError::invalid(texts::recipient_without_phone_or(required));
    let recipients = found.iter().map(|value| {
        JsonFields::from_value(value)
            .filter(|recipient| recipient.has(&["phone", required]))
            .ok_or_else(lacking)
    });
    let recipients = recipients.collect::<Result<Vec<_>, _>>()?;
    let (mut phones, mut drafts) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for (n, recipient) in recipients.into_iter().enumerate() {
        let at = |invalid: ValidationError| {
            ValidationError::new(recipient_field(n, &invalid.field), invalid.reason)
        };
        phones.push(recipient.string("phone").map_err(at)?);
        drafts
            .push(read(recipient).map_err(|refusal| refusal.with_field_prefix(&format!("recipients[{n}]")))?);
    }
    Ok(BulkRequest { phones, content: BulkContent::Each(drafts) })
}

fn require_fields_present(fields: JsonFields<'_>) -> Result<(), ApplicationError> {
    if fields.is_empty() { Err(ApplicationError::invalid(texts::EMPTY_BODY_ERROR)) } else { Ok(()) }
}

fn recipient_field(n: usize, field: &str) -> String {
    format!("recipients[{n}].{field}")
}
