//! Validates requests to `/messages` against Meta's rules: required fields, limits and existing media.
//!
//! Source of the limits: Meta, "Cloud API", messages reference, as of the published OpenAPI v23.0.

use serde_json::Value;

use crate::errors::{GraphError, code};
use crate::faults;
use crate::ids;
use crate::json_path::JsonPath;
use crate::{validate_interactive, validate_template};

/// A valid request.
#[derive(Debug, PartialEq, Eq)]
pub enum ValidRequest<'a> {
    /// Send a message.
    Send(ValidMessage<'a>),
    /// Mark a message as read, optionally with a typing indicator.
    MarkRead,
}

/// A valid message.
#[derive(Debug, PartialEq, Eq)]
pub struct ValidMessage<'a> {
    /// The recipient as the caller formatted it.
    pub input: &'a str,
    pub addressee: Addressee,
    pub kind: &'a str,
    pub callback_data: Option<&'a str>,
}

/// The recipient of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    /// The digits of a phone number.
    Phone(String),
    /// A business-scoped user id.
    User(String),
    /// The id of a group.
    Group(String),
}

impl Addressee {
    /// The phone number, user id or group id.
    pub fn id(&self) -> &str {
        match self {
            Addressee::Phone(id) | Addressee::User(id) | Addressee::Group(id) => id,
        }
    }

    /// The business-scoped user id; groups have none.
    pub fn user_id(&self) -> Option<String> {
        match self {
            Addressee::Phone(wa_id) => Some(ids::user_id(wa_id)),
            Addressee::User(id) => Some(id.clone()),
            Addressee::Group(_) => None,
        }
    }
}

/// What the validation needs beside the request.
pub struct ValidationContext<'a> {
    /// The sender's phone number, digits only.
    pub own_number: &'a str,
    /// Returns the MIME type of an uploaded file that the sending number may use.
    pub media: &'a dyn Fn(&str) -> Option<String>,
}

const MESSAGE_TYPES: &[&str] = &[
    "text",
    "image",
    "video",
    "audio",
    "document",
    "sticker",
    "location",
    "contacts",
    "reaction",
    "template",
    "interactive",
];

/// Checks a request completely.
///
/// # Errors
/// The error that Meta would return.
pub fn check_request<'a>(
    body: &'a Value,
    context: &ValidationContext<'_>,
) -> Result<ValidRequest<'a>, GraphError> {
    let root = JsonPath::root(body);
    if !body.is_object() {
        return Err(GraphError::new(code::PARAMETER).details("The request body must be a JSON object."));
    }
    root.require("messaging_product")?.one_of(&["whatsapp"])?;
    if let Some(status) = root.get("status") {
        status.one_of(&["read"])?;
        return check_mark_read(&root);
    }
    let (input, addressee) = parse_addressee(&root)?;
    if matches!(&addressee, Addressee::Phone(number) if number == context.own_number) {
        return Err(GraphError::new(code::SELF_MESSAGE));
    }
    if root.get("context").is_some() {
        root.object("context")?.required_text("message_id", 1..=512)?;
    }
    let callback_data = root.optional_text("biz_opaque_callback_data", 0..=512)?;
    // Without a type Meta treats the message as a text.
    let kind = root.get("type").map_or(Ok("text"), |kind| kind.one_of(MESSAGE_TYPES))?;
    check_content(&root, kind, context)?;
    Ok(ValidRequest::Send(ValidMessage { input, addressee, kind, callback_data }))
}

fn check_mark_read<'a>(root: &JsonPath<'a, '_>) -> Result<ValidRequest<'a>, GraphError> {
    root.required_text("message_id", 1..=512)?;
    if root.get("typing_indicator").is_some() {
        root.object("typing_indicator")?.require("type")?.one_of(&["text"])?;
    }
    Ok(ValidRequest::MarkRead)
}

/// Parses the recipient. `to` takes precedence over `recipient`.
fn parse_addressee<'a>(root: &JsonPath<'a, '_>) -> Result<(&'a str, Addressee), GraphError> {
    let is_group = match root.get("recipient_type") {
        Some(kind) => kind.one_of(&["individual", "group"])? == "group",
        None => false,
    };
    if let Some(to) = root.get("to") {
        let input = to.text(1..=128)?;
        if is_group {
            return Ok((input, Addressee::Group(input.to_owned())));
        }
        let digits = faults::strip_punctuation(input);
        let is_number = (5..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        if !is_number {
            return Err(to
                .with_code(code::PARAMETER_VALUE)
                .invalid("must be a phone number with its country code."));
        }
        return Ok((input, Addressee::Phone(digits.into_owned())));
    }
    let recipient = root.get("recipient").ok_or_else(|| root.missing("to"))?;
    let input = recipient.text(1..=140)?;
    if !is_user_id(input) {
        return Err(recipient.with_code(code::PARAMETER_VALUE).invalid("must be a business-scoped user id."));
    }
    Ok((input, Addressee::User(input.to_owned())))
}

/// Two letters of a country, a dot and up to 128 letters and digits; a parent's id has `ENT.` after the dot.
fn is_user_id(text: &str) -> bool {
    let Some((country, rest)) = text.split_once('.') else { return false };
    let rest = rest.strip_prefix("ENT.").unwrap_or(rest);
    country.len() == 2
        && country.bytes().all(|b| b.is_ascii_uppercase())
        && (1..=128).contains(&rest.len())
        && rest.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn check_content(
    root: &JsonPath<'_, '_>,
    kind: &str,
    context: &ValidationContext<'_>,
) -> Result<(), GraphError> {
    match kind {
        "contacts" => check_contacts(&root.require("contacts")?.with_code(code::PARAMETER_VALUE)),
        "text" => root.object("text")?.required_text("body", 1..=4096).map(drop),
        "location" => check_location(&root.object("location")?),
        "reaction" => check_reaction(&root.object("reaction")?.with_code(code::PARAMETER_VALUE)),
        "template" => validate_template::check_template(&root.object("template")?, context),
        "interactive" => validate_interactive::check_interactive(
            &root.object("interactive")?.with_code(code::PARAMETER_VALUE),
            context,
        ),
        media => check_media(&root.object(media)?, media, context),
    }
}

/// Checks a file by id or by link and the fields that its type permits.
///
/// # Errors
/// The error that Meta would return.
pub fn check_media(
    at: &JsonPath<'_, '_>,
    kind: &str,
    context: &ValidationContext<'_>,
) -> Result<(), GraphError> {
    match (at.get("id"), at.get("link")) {
        (Some(_), Some(_)) => return Err(at.invalid("must have either 'id' or 'link', not both.")),
        (None, None) => return Err(at.missing("id or link")),
        (None, Some(link)) => drop(link.http_url()?),
        (Some(id), None) => check_uploaded_media(&id, kind, context)?,
    }
    if let Some(caption) = at.get("caption") {
        if !matches!(kind, "image" | "video" | "document") {
            return Err(caption.invalid("is not supported for this type of media."));
        }
        caption.text(0..=1024)?;
    }
    if let Some(filename) = at.get("filename") {
        if kind != "document" {
            return Err(filename.invalid("is supported for documents only."));
        }
        filename.text(1..=240)?;
    }
    if let Some(voice) = at.get("voice")
        && (kind != "audio" || !voice.value().is_boolean())
    {
        return Err(voice.invalid("is a boolean of audio messages."));
    }
    Ok(())
}

fn check_uploaded_media(
    id: &JsonPath<'_, '_>,
    kind: &str,
    context: &ValidationContext<'_>,
) -> Result<(), GraphError> {
    let refuse = |details: String| GraphError::new(code::MEDIA_UPLOAD).details(details);
    let given = id.text(1..=128)?;
    let Some(mime) = (context.media)(given) else {
        return Err(refuse(format!(
            "Media with id {given} was not found, or belongs to another phone number."
        )));
    };
    let fits = match kind {
        "sticker" => mime == "image/webp",
        "image" => mime.starts_with("image/") && mime != "image/webp",
        "document" => true,
        other => mime.split_once('/').is_some_and(|(family, _)| family == other),
    };
    if fits {
        Ok(())
    } else {
        Err(refuse(format!("Media with id {given} is {mime}, which cannot be sent as {kind}.")))
    }
}

fn check_location(at: &JsonPath<'_, '_>) -> Result<(), GraphError> {
    for (name, limit) in [("latitude", 90.0), ("longitude", 180.0)] {
        let degrees = at.require(name)?;
        let number = match degrees.value() {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        if !number.is_some_and(|number: f64| number.abs() <= limit) {
            return Err(degrees.invalid(format_args!("must be a number between -{limit} and {limit}.")));
        }
    }
    at.optional_text("name", 0..=1000)?;
    at.optional_text("address", 0..=1000)?;
    Ok(())
}

/// Name parts of which at least one must accompany `formatted_name`.
const NAME_PARTS: &[&str] = &["first_name", "last_name", "middle_name", "suffix", "prefix"];

fn check_contacts(at: &JsonPath<'_, '_>) -> Result<(), GraphError> {
    for contact in at.items(1..=5)? {
        let name = contact.object("name")?;
        name.required_text("formatted_name", 1..=1024)?;
        if !NAME_PARTS.iter().any(|part| name.get(part).is_some()) {
            return Err(
                name.invalid("must have at least one of first_name, last_name, middle_name, suffix, prefix.")
            );
        }
        if let Some(birthday) = contact.get("birthday") {
            let day = birthday.str()?;
            if day.parse::<jiff::civil::Date>().is_err() || day.len() != 10 {
                return Err(birthday.invalid("must be a date, YYYY-MM-DD."));
            }
        }
        for list in ["phones", "emails", "addresses", "urls"] {
            if let Some(list) = contact.get(list) {
                drop(list.items(0..=100)?);
            }
        }
    }
    Ok(())
}

fn check_reaction(at: &JsonPath<'_, '_>) -> Result<(), GraphError> {
    at.required_text("message_id", 1..=512)?;
    let emoji = at.require("emoji")?;
    // One emoji may have several code points. An empty text removes the reaction.
    if emoji.text(0..=16)?.chars().any(|c| c.is_alphabetic() || c.is_whitespace()) {
        return Err(emoji.invalid("must be a single emoji."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(body: &Value) -> Result<ValidRequest<'_>, u32> {
        let media = |id: &str| match id {
            "1" => Some("image/png".to_owned()),
            "2" => Some("audio/ogg".to_owned()),
            _ => None,
        };
        check_request(body, &ValidationContext { own_number: "15550783881", media: &media })
            .map_err(|error| error.code)
    }

    fn message(kind: &str, content: Value) -> Value {
        json!({ "messaging_product": "whatsapp", "to": "+1 (650) 555-1234", "type": kind, kind: content })
    }

    #[track_caller]
    fn assert_accepted(body: &Value) {
        assert!(check(body).is_ok(), "{:?}: {body}", check(body));
    }

    #[track_caller]
    fn assert_refused(code: u32, body: &Value) {
        assert_eq!(check(body).err(), Some(code), "{body}");
    }

    #[test]
    fn phone_number_is_normalized_and_input_is_preserved() {
        let body = message("text", json!({ "body": "hi" }));
        let Ok(ValidRequest::Send(outgoing)) = check(&body) else { panic!("refused") };
        assert_eq!(outgoing.input, "+1 (650) 555-1234");
        assert_eq!(outgoing.addressee, Addressee::Phone("16505551234".into()));
    }

    #[test]
    fn message_requires_common_fields() {
        assert_refused(100, &json!([]));
        assert_refused(100, &json!({ "to": "1650555", "type": "text", "text": { "body": "hi" } }));
        assert_refused(
            100,
            &json!({ "messaging_product": "whatsapp", "type": "text", "text": { "body": "hi" } }),
        );
        assert_refused(
            131_009,
            &json!({ "messaging_product": "whatsapp", "to": "me", "text": { "body": "hi" } }),
        );
        assert_refused(
            131_021,
            &json!({ "messaging_product": "whatsapp", "to": "15550783881", "text": { "body": "hi" } }),
        );
        assert_refused(100, &message("fax", json!({})));
        assert_refused(100, &json!({ "messaging_product": "whatsapp", "to": "1650555", "type": "image" }));
        assert_accepted(
            &json!({ "messaging_product": "whatsapp", "to": "1650555", "text": { "body": "no type" } }),
        );
        assert_accepted(
            &json!({ "messaging_product": "whatsapp", "recipient": "US.13491208655302741918", "text": { "body": "x" } }),
        );
        assert_refused(
            131_009,
            &json!({ "messaging_product": "whatsapp", "recipient": "us.1", "text": { "body": "x" } }),
        );
    }

    #[test]
    fn text_and_callback_data_lengths_are_limited() {
        assert_accepted(&message("text", json!({ "body": "ñ".repeat(4096) })));
        assert_refused(100, &message("text", json!({ "body": "x".repeat(4097) })));
        assert_refused(100, &message("text", json!({ "body": "" })));
        assert_refused(131_008, &message("text", json!({})));
        let mut body = message("text", json!({ "body": "x" }));
        body["biz_opaque_callback_data"] = json!("x".repeat(513));
        assert_refused(100, &body);
    }

    #[test]
    fn media_is_given_by_id_or_link() {
        assert_accepted(&message("image", json!({ "id": "1", "caption": "a" })));
        assert_accepted(&message("image", json!({ "link": "https://example.com/a.png" })));
        assert_refused(100, &message("image", json!({ "id": "1", "link": "https://example.com/a.png" })));
        assert_refused(131_008, &message("image", json!({ "caption": "a" })));
        assert_refused(131_053, &message("image", json!({ "id": "9" })));
        assert_refused(131_053, &message("image", json!({ "id": "2" })));
        assert_refused(100, &message("image", json!({ "link": "file:///etc/passwd" })));
        assert_refused(100, &message("audio", json!({ "id": "2", "caption": "a" })));
        assert_accepted(&message("audio", json!({ "id": "2", "voice": true })));
        assert_refused(100, &message("image", json!({ "id": "1", "caption": "x".repeat(1025) })));
    }

    #[test]
    fn locations_contacts_and_reactions_are_checked() {
        assert_accepted(&message("location", json!({ "latitude": -3.7, "longitude": "40.4", "name": "x" })));
        assert_refused(100, &message("location", json!({ "latitude": 91, "longitude": 0 })));
        assert_accepted(&message(
            "contacts",
            json!([{ "name": { "formatted_name": "A B", "first_name": "A" }, "birthday": "1999-12-31" }]),
        ));
        assert_refused(131_009, &message("contacts", json!([])));
        assert_refused(131_009, &message("contacts", json!([{ "name": { "formatted_name": "A B" } }])));
        assert_refused(131_008, &message("contacts", json!([{ "name": { "first_name": "A" } }])));
        assert_refused(
            131_009,
            &message(
                "contacts",
                json!([{ "name": { "formatted_name": "A", "first_name": "A" }, "birthday": "31.12.1999" }]),
            ),
        );
        assert_accepted(&message("reaction", json!({ "message_id": "wamid.x", "emoji": "👩‍👩‍👧‍👦" })));
        assert_accepted(&message("reaction", json!({ "message_id": "wamid.x", "emoji": "" })));
        assert_refused(131_009, &message("reaction", json!({ "message_id": "wamid.x", "emoji": "ok" })));
    }

    #[test]
    fn mark_as_read_and_typing_are_checked() {
        let read = json!({ "messaging_product": "whatsapp", "status": "read", "message_id": "wamid.x", "typing_indicator": { "type": "text" } });
        assert_eq!(check(&read), Ok(ValidRequest::MarkRead));
        assert_refused(100, &json!({ "messaging_product": "whatsapp", "status": "read" }));
        assert_refused(
            100,
            &json!({ "messaging_product": "whatsapp", "status": "delivered", "message_id": "x" }),
        );
    }
}
