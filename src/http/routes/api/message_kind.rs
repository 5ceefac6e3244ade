//! The kinds of single messages of `/api`, and their documented texts.

use super::content::{self, ContentDraft};
use super::json_fields::JsonFields;
use crate::http::api::error::ApplicationError;
use crate::http::api::texts;
use relevo_domain::{Content, ValidationError};

/// A route for single messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    Text,
    Template,
    AdvancedTemplate,
    Interactive,
    List,
    Buttons,
    LocationRequest,
    Media,
    Reaction,
}

impl MessageKind {
    /// The documented `message` of a sent and of a queued request. The documents have no queue for lists, locations,
    /// media and reactions; their texts follow the others.
    pub fn success_messages(self) -> (&'static str, &'static str) {
        match self {
            MessageKind::Text => ("Mensaje enviado exitosamente", "Mensaje enviado a cola"),
            MessageKind::Template => ("Plantilla enviada exitosamente", "Plantilla enviada a cola"),
            MessageKind::AdvancedTemplate => {
                ("Plantilla avanzada enviada exitosamente", "Plantilla avanzada enviada a cola")
            }
            MessageKind::Interactive => {
                ("Mensaje interactivo enviado exitosamente", "Mensaje interactivo enviado a cola")
            }
            MessageKind::List => ("Mensaje de lista enviado exitosamente", "Mensaje de lista enviado a cola"),
            MessageKind::Buttons => {
                ("Mensaje con botones enviado exitosamente", "Mensaje con botones enviado a cola")
            }
            MessageKind::LocationRequest => {
                ("Solicitud de ubicación enviada exitosamente", "Solicitud de ubicación enviada a cola")
            }
            MessageKind::Media => ("Archivo enviado exitosamente", "Archivo enviado a cola"),
            MessageKind::Reaction => ("Reacción enviada exitosamente", "Reacción enviada a cola"),
        }
    }

    /// Distinguishes requests of different kinds with the same idempotency key.
    pub fn as_str(self) -> &'static str {
        match self {
            MessageKind::Text => "api/text",
            MessageKind::Template => "api/template",
            MessageKind::AdvancedTemplate => "api/template-advanced",
            MessageKind::Interactive => "api/interactive",
            MessageKind::List => "api/list",
            MessageKind::Buttons => "api/button",
            MessageKind::LocationRequest => "api/location-request",
            MessageKind::Media => "api/media",
            MessageKind::Reaction => "api/reaction",
        }
    }

    /// Whether the request may have an inline file.
    pub fn may_carry_media(self) -> bool {
        matches!(self, MessageKind::Interactive | MessageKind::Buttons | MessageKind::Media)
    }

    /// Parses a request; reports the first error in the documented order.
    ///
    /// # Errors
    ///
    /// A field is missing or invalid.
    pub fn parse(self, fields: JsonFields<'_>) -> Result<ContentDraft, ApplicationError> {
        match self {
            MessageKind::Text => {
                require_both(fields, ["phone", "message"])?;
                Ok(ContentDraft::Ready(Content::Text { body: fields.string("message")?, preview_url: false }))
            }
            MessageKind::Template => {
                require_both(fields, ["phone", "template_name"])?;
                content::template(fields).map(ContentDraft::Ready)
            }
            MessageKind::AdvancedTemplate => {
                require_both(fields, ["phone", "template_name"])?;
                content::advanced_template(fields).map(ContentDraft::Ready)
            }
            MessageKind::Interactive => {
                require_both(fields, ["phone", "body_text"])?;
                interactive_draft(content::url_frame(fields)?, fields)
            }
            MessageKind::Buttons => {
                require_both(fields, ["phone", "body_text"])?;
                interactive_draft(content::button_frame(fields)?, fields)
            }
            MessageKind::List => parse_list(fields).map_err(ApplicationError::with_success_false),
            MessageKind::LocationRequest => {
                require_both(fields, ["phone", "body_text"])?;
                let press = content::InteractiveAction::Location;
                interactive_draft(
                    content::InteractiveFrame { header: None, footer: None, action: press },
                    fields,
                )
            }
            MessageKind::Media => {
                let source = ["media_id", "id", "media_url", "base64"];
                if !fields.has(&["phone", "type"]) || source.iter().all(|name| fields.get(name).is_none()) {
                    return Err(ApplicationError::invalid(texts::MISSING_MEDIA));
                }
                content::media(fields)
            }
            MessageKind::Reaction => {
                require_both(fields, ["phone", "message_id"])?;
                let (message_id, emoji) = (fields.string("message_id")?, fields.string("emoji")?);
                Ok(ContentDraft::Ready(Content::Reaction { message_id, emoji }))
            }
        }
    }

    /// The name of a message field in `/api`.
    pub fn field_name(self, field: &str) -> String {
        let name = match (self, field) {
            (MessageKind::Text, "body") => "message",
            (MessageKind::List, "header") => "header_text",
            (MessageKind::Media, "media") => "media_url",
            (MessageKind::Media, "file_name") => "filename",
            (_, "body") => "body_text",
            (_, "header") => "header_content",
            (_, "footer") => "footer_text",
            (_, "button" | "display_text") => "button_text",
            (_, "url") => "button_url",
            (_, "template.name") => "template_name",
            (_, field) => field.strip_prefix("template.").unwrap_or(field),
        };
        name.to_owned()
    }

    /// The error of a field under that name.
    pub fn with_field_name(self, invalid: &ValidationError) -> ValidationError {
        ValidationError::new(self.field_name(&invalid.field), invalid.reason.clone())
    }
}

fn require_both(fields: JsonFields<'_>, [one, other]: [&str; 2]) -> Result<(), ApplicationError> {
    if fields.has(&[one, other]) {
        return Ok(());
    }
    Err(ApplicationError::invalid(texts::missing_parameters([one, other])))
}

fn interactive_draft(
    frame: content::InteractiveFrame<content::HeaderDraft>,
    fields: JsonFields<'_>,
) -> Result<ContentDraft, ApplicationError> {
    Ok(ContentDraft::Interactive { frame, body: fields.string("body_text")? })
}

fn parse_list(fields: JsonFields<'_>) -> Result<ContentDraft, ApplicationError> {
    if fields.is_empty() {
        return Err(ApplicationError::invalid(texts::EMPTY_BODY_ERROR));
    }
    content::require_fields(fields, &["phone", "header_text", "body_text"])?;
    interactive_draft(content::list_frame(fields)?, fields)
}
