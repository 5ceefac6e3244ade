//! The kinds of messages that `/api` sends to many at once: what their requests say, read in the documented order,
//! and the documented words about each.

use serde_json::Value;

use crate::http::flask::Refusal;
use relevo_domain::{Content, Header, Invalid};

use super::contents::{self, Draft, Frame, HeaderDraft, Press};
use super::fields::{self, Fields};
use super::kind::Kind;

/// One route for messages to many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Many {
    Bulk,
    BulkList,
    BulkInteractive,
    BulkButton,
    BulkTemplate,
    Broadcast,
    BroadcastTemplate,
    Personalized,
}

/// Who gets what; files that came with the request are not kept yet.
#[derive(Debug)]
pub(super) struct Letters {
    /// As they are spelled; a bad one costs its own message and no other.
    pub phones: Vec<String>,
    pub said: Said,
}

/// What the recipients of one request get.
#[derive(Debug)]
pub(super) enum Said {
    /// All the same.
    Common(Draft),
    /// Each a text of their own in the frame of all.
    Framed { frame: Frame<HeaderDraft>, own: Vec<Own> },
    /// Each something of their own.
    Each(Vec<Draft>),
}

/// What one recipient gets inside the frame of all.
#[derive(Debug)]
pub(super) struct Own {
    pub body: String,
    /// Instead of the address of the common button.
    pub url: Option<String>,
}

impl Own {
    /// The recipient's message.
    pub fn within(&self, mut frame: Frame<Header>) -> Content {
        if let (Press::Url { url, .. }, Some(own)) = (&mut frame.press, &self.url) {
            url.clone_from(own);
        }
        frame.around(self.body.clone())
    }
}

const NO_PHONES: &str = "Se requiere el campo 'phones' con un array de números telefónicos";
const NO_RECIPIENTS: &str = "Se requiere el campo 'recipients' con un array de destinatarios";
const MISSING_RECIPIENTS: &str = "Falta parámetro: recipients es requerido";

impl Many {
    /// What `message` says when all were sent, and when they are queued.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Many::Bulk => ("Envío masivo completado", "Envío masivo enviado a cola"),
            Many::BulkList => ("Envío masivo de listas completado", "Envío masivo de listas enviado a cola"),
            Many::BulkInteractive => {
                ("Envío masivo interactivo completado", "Envío masivo interactivo enviado a cola")
            }
            Many::BulkButton => {
                ("Envío masivo de botones completado", "Envío masivo de botones enviado a cola")
            }
            Many::BulkTemplate => {
                ("Envío masivo de plantillas completado", "Envío masivo de plantillas enviado a cola")
            }
            Many::Broadcast => ("Mensaje broadcast procesado", "Mensaje broadcast enviado a cola"),
            Many::BroadcastTemplate => {
                ("Broadcast de plantilla procesado", "Broadcast de plantilla enviado a cola")
            }
            Many::Personalized => {
                ("Broadcast personalizado procesado", "Broadcast personalizado enviado a cola")
            }
        }
    }

    /// Tells requests of one kind from those of another where they share an idempotency key.
    pub fn as_str(self) -> &'static str {
        match self {
            Many::Bulk => "api/bulk",
            Many::BulkList => "api/bulk-list",
            Many::BulkInteractive => "api/bulk-interactive",
            Many::BulkButton => "api/bulk-button",
            Many::BulkTemplate => "api/bulk-template",
            Many::Broadcast => "api/broadcast",
            Many::BroadcastTemplate => "api/broadcast-template",
            Many::Personalized => "api/personalized-broadcast",
        }
    }

    /// Whether it is an announcement, which those who opted out do not get. The others are messages that somebody
    /// wrote to each recipient.
    pub fn is_announcement(self) -> bool {
        matches!(self, Many::Broadcast | Many::BroadcastTemplate | Many::Personalized)
    }

    /// The kind of message that each recipient gets.
    pub fn of_each(self) -> Kind {
        match self {
            Many::Bulk => Kind::Text,
            Many::BulkList => Kind::List,
            Many::BulkInteractive | Many::Broadcast | Many::Personalized => Kind::Interactive,
            Many::BulkButton => Kind::Buttons,
            Many::BulkTemplate | Many::BroadcastTemplate => Kind::AdvancedTemplate,
        }
    }

    /// What a request says, or the first thing that is wrong with it, in the documented order.
    pub fn read(self, fields: Fields<'_>) -> Result<Letters, Refusal> {
        match self {
            Many::Bulk => each(fields, "message", |fields| {
                Ok(Draft::Ready(Content::Text { body: fields.string("message")?, preview_url: false }))
            }),
            Many::BulkTemplate => {
                each(fields, "template_name", |fields| contents::advanced_template(fields).map(Draft::Ready))
            }
            Many::BulkInteractive => each(fields, "body_text", |fields| {
                let (frame, body) = (contents::url_frame(fields)?, fields.string("body_text")?);
                Ok(Draft::Interactive { frame, body })
            }),
            Many::BulkList => framed(fields, contents::list_frame),
            Many::BulkButton => framed(fields, contents::button_frame),
            Many::Personalized => framed(fields, contents::url_frame),
            Many::Broadcast => common(fields, "body_text", |fields| {
                let (frame, body) = (contents::url_frame(fields)?, fields.string("body_text")?);
                Ok(Draft::Interactive { frame, body })
            }),
            Many::BroadcastTemplate => common(fields, "template_name", |fields| {
                contents::advanced_template(fields).map(Draft::Ready)
            }),
        }
    }
}

/// The same to every phone of `phones`.
fn common(
    fields: Fields<'_>,
    required: &str,
    read: impl FnOnce(Fields<'_>) -> Result<Draft, Refusal>,
) -> Result<Letters, Refusal> {
    something(fields)?;
    let found = fields.list("phones").ok_or_else(|| Refusal::invalid(NO_PHONES))?;
    contents::each_required(fields, &[required])?;
    let phone = |(n, value): (usize, &Value)| match value {
        Value::String(phone) => Ok(phone.clone()),
        Value::Number(phone) => Ok(phone.to_string()),
        _ => Err(Invalid::new(format!("phones[{n}]"), "must be a text")),
    };
    let phones = found.iter().enumerate().map(phone).collect::<Result<_, _>>()?;
    Ok(Letters { phones, said: Said::Common(read(fields)?) })
}

/// To every one of `recipients` a `body_text` in the frame of all.
fn framed(
    fields: Fields<'_>,
    frame: impl FnOnce(Fields<'_>) -> Result<Frame<HeaderDraft>, Refusal>,
) -> Result<Letters, Refusal> {
    something(fields)?;
    let found = fields.list("recipients").ok_or_else(|| Refusal::invalid(NO_RECIPIENTS))?;
    let (mut phones, mut own) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for (n, value) in found.iter().enumerate() {
        let recipient =
            Fields::of(value).ok_or_else(|| Refusal::invalid("Cada recipient debe ser un objeto"))?;
        for name in ["phone", "body_text"] {
            if recipient.get(name).is_none() {
                return Err(Refusal::invalid(format!("Cada recipient debe tener un '{name}'")));
            }
        }
        let at = |invalid: Invalid| Invalid::new(place(n, &invalid.field), invalid.reason);
        phones.push(recipient.string("phone").map_err(at)?);
        let (body, url) = (recipient.string("body_text"), recipient.optional("button_url"));
        own.push(Own { body: body.map_err(at)?, url: url.map_err(at)? });
    }
    Ok(Letters { phones, said: Said::Framed { frame: frame(fields)?, own } })
}

/// To every one of `recipients` a message of their own.
fn each(
    fields: Fields<'_>,
    required: &str,
    read: impl Fn(Fields<'_>) -> Result<Draft, Refusal>,
) -> Result<Letters, Refusal> {
    let found = fields.list("recipients").ok_or_else(|| Refusal::invalid(MISSING_RECIPIENTS))?;
    let lacking = || Refusal::invalid(format!("Cada recipient debe tener 'phone' y '{required}'"));
    let recipients = found.iter().map(|value| {
        Fields::of(value).filter(|recipient| recipient.has(&["phone", required])).ok_or_else(lacking)
    });
    let recipients = recipients.collect::<Result<Vec<_>, _>>()?;
    let (mut phones, mut drafts) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
    for (n, recipient) in recipients.into_iter().enumerate() {
        let at = |invalid: Invalid| Invalid::new(place(n, &invalid.field), invalid.reason);
        phones.push(recipient.string("phone").map_err(at)?);
        drafts.push(read(recipient).map_err(|refusal| refusal.within(&format!("recipients[{n}]")))?);
    }
    Ok(Letters { phones, said: Said::Each(drafts) })
}

fn something(fields: Fields<'_>) -> Result<(), Refusal> {
    if fields.is_empty() { Err(Refusal::invalid(fields::NOTHING)) } else { Ok(()) }
}

fn place(n: usize, field: &str) -> String {
    format!("recipients[{n}].{field}")
}
