//! The kinds of messages that `/api` sends one at a time, and the documented words about each.

use crate::http::flask::Refusal;
use relevo_domain::{Content, Invalid};

use super::contents::{self, Draft};
use super::fields::{self, Fields};

/// One route for single messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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

impl Kind {
    /// What `message` says of one that was sent, and of one that was queued. Those of lists, locations, media and
    /// reactions in the queue are worded like the others; the documented system knew no queue for them.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::Text => ("Mensaje enviado exitosamente", "Mensaje enviado a cola"),
            Kind::Template => ("Plantilla enviada exitosamente", "Plantilla enviada a cola"),
            Kind::AdvancedTemplate => {
                ("Plantilla avanzada enviada exitosamente", "Plantilla avanzada enviada a cola")
            }
            Kind::Interactive => {
                ("Mensaje interactivo enviado exitosamente", "Mensaje interactivo enviado a cola")
            }
            Kind::List => ("Mensaje de lista enviado exitosamente", "Mensaje de lista enviado a cola"),
            Kind::Buttons => {
                ("Mensaje con botones enviado exitosamente", "Mensaje con botones enviado a cola")
            }
            Kind::LocationRequest => {
                ("Solicitud de ubicación enviada exitosamente", "Solicitud de ubicación enviada a cola")
            }
            Kind::Media => ("Archivo enviado exitosamente", "Archivo enviado a cola"),
            Kind::Reaction => ("Reacción enviada exitosamente", "Reacción enviada a cola"),
        }
    }

    /// Tells requests of one kind from those of another where they share an idempotency key.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Text => "api/text",
            Kind::Template => "api/template",
            Kind::AdvancedTemplate => "api/template-advanced",
            Kind::Interactive => "api/interactive",
            Kind::List => "api/list",
            Kind::Buttons => "api/button",
            Kind::LocationRequest => "api/location-request",
            Kind::Media => "api/media",
            Kind::Reaction => "api/reaction",
        }
    }

    /// Whether a file may come inside the request.
    pub fn may_carry_a_file(self) -> bool {
        matches!(self, Kind::Interactive | Kind::Buttons | Kind::Media)
    }

    /// What a request says, or the first thing that is wrong with it, in the documented order.
    pub fn read(self, fields: Fields<'_>) -> Result<Draft, Refusal> {
        match self {
            Kind::Text => {
                both(fields, ["phone", "message"])?;
                Ok(Draft::Ready(Content::Text { body: fields.string("message")?, preview_url: false }))
            }
            Kind::Template => {
                both(fields, ["phone", "template_name"])?;
                contents::template(fields).map(Draft::Ready)
            }
            Kind::AdvancedTemplate => {
                both(fields, ["phone", "template_name"])?;
                contents::advanced_template(fields).map(Draft::Ready)
            }
            Kind::Interactive => {
                both(fields, ["phone", "body_text"])?;
                framed(contents::url_frame(fields)?, fields)
            }
            Kind::Buttons => {
                both(fields, ["phone", "body_text"])?;
                framed(contents::button_frame(fields)?, fields)
            }
            Kind::List => list(fields).map_err(Refusal::unsuccessful),
            Kind::LocationRequest => {
                both(fields, ["phone", "body_text"])?;
                let press = contents::Press::Location;
                framed(contents::Frame { header: None, footer: None, press }, fields)
            }
            Kind::Media => {
                let source = ["media_id", "id", "media_url", "base64"];
                if !fields.has(&["phone", "type"]) || source.iter().all(|name| fields.get(name).is_none()) {
                    return Err(Refusal::invalid("Faltan parámetros: phone, type y media_id son requeridos"));
                }
                contents::media(fields)
            }
            Kind::Reaction => {
                both(fields, ["phone", "message_id"])?;
                let (message_id, emoji) = (fields.string("message_id")?, fields.string("emoji")?);
                Ok(Draft::Ready(Content::Reaction { message_id, emoji }))
            }
        }
    }

    /// The name that clients of `/api` know a field of the message by.
    pub fn spelled(self, field: &str) -> String {
        let name = match (self, field) {
            (Kind::Text, "body") => "message",
            (Kind::List, "header") => "header_text",
            (Kind::Media, "media") => "media_url",
            (Kind::Media, "file_name") => "filename",
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

    /// What is wrong with a field, under that name.
    pub fn about(self, invalid: &Invalid) -> Invalid {
        Invalid::new(self.spelled(&invalid.field), invalid.reason.clone())
    }
}

fn both(fields: Fields<'_>, [one, other]: [&str; 2]) -> Result<(), Refusal> {
    if fields.has(&[one, other]) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("Faltan parámetros: {one} y {other} son requeridos")))
}

fn framed(frame: contents::Frame<contents::HeaderDraft>, fields: Fields<'_>) -> Result<Draft, Refusal> {
    Ok(Draft::Interactive { frame, body: fields.string("body_text")? })
}

fn list(fields: Fields<'_>) -> Result<Draft, Refusal> {
    if fields.is_empty() {
        return Err(Refusal::invalid(fields::NOTHING));
    }
    contents::each_required(fields, &["phone", "header_text", "body_text"])?;
    framed(contents::list_frame(fields)?, fields)
}
