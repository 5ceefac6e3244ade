//! Recipients of messages, and the lanes of their messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::phone::to_plain_text;
use super::{Country, PhoneNumber, ValidationError};

/// The recipient of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Recipient {
    /// A person, by telephone number.
    Phone(PhoneNumber),
    /// A person, by Meta's business-scoped user id (BSUID); the number may be hidden.
    User(UserId),
    /// A protocol address: a group, a newsletter or a person with a hidden number.
    Jid(Jid),
}

/// Meta's business-scoped user id: a country prefix, a dot, up to 128 letters and digits
/// (`US.13491208655302741918`); or the id that all portfolios of a company share, its parent id, with `ENT.` behind the
/// first dot (`US.ENT.11815799212886844830`). Sent to Meta exactly as received. Source:
/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids/>.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserId(String);

/// A WhatsApp protocol address that is not a plain telephone number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Jid {
    /// `…@g.us`: the digits of a group of WhatsApp, or the base64 id of a group of the Cloud API.
    Group(String),
    /// `…@newsletter`
    Newsletter(String),
    /// `…@lid`: a person with a hidden number.
    Lid(String),
}

/// What stands behind the first dot of a parent id.
const PARENT_MARK: &str = "ENT.";

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all portfolios of a company share the id.
    pub fn is_parent(&self) -> bool {
        self.0.split_once('.').is_some_and(|(_, id)| id.starts_with(PARENT_MARK))
    }
}

impl FromStr for UserId {
    type Err = ValidationError;
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let valid = text.split_once('.').is_some_and(|(country, id)| {
            let id = id.strip_prefix(PARENT_MARK).unwrap_or(id);
            country.len() == 2
                && country.bytes().all(|b| b.is_ascii_uppercase())
                && (1..=128).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric())
        });
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValidationError::new(
                "user_id",
                "must be a country code, a dot and up to 128 letters or digits",
            ))
        }
    }
}

/// Reads recipients as callers write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecipientParser {
    /// The country of numbers without a country code.
    pub default_country: Option<Country>,
}

impl RecipientParser {
    /// Accepts a number in any usual spelling ([`PhoneNumber::read`]), `…@s.whatsapp.net`, `…@g.us`, `…@lid`,
    /// `…@newsletter`, a user id, or the id of a group of the Cloud API. A bare group id (18 digits that begin with 120363,
    /// or `digits-digits`) is a group, because some callers omit the `@g.us`.
    ///
    /// # Errors
    ///
    /// The text is none of these; the field is `phone`.
    pub fn parse(&self, text: &str) -> Result<Recipient, ValidationError> {
        let plain = to_plain_text(text);
        if let Some((user, server)) = plain.split_once('@') {
            return from_jid(user, server);
        }
        if let Ok(user) = plain.parse() {
            return Ok(Recipient::User(user));
        }
        if is_bare_group(&plain) || is_cloud_api_group(&plain) {
            return Ok(Recipient::Jid(Jid::Group(plain.into_owned())));
        }
        PhoneNumber::read_plain(&plain, self.default_country).map(Recipient::Phone)
    }
}

impl FromStr for Recipient {
    type Err = ValidationError;

    /// [`RecipientParser::parse`] without a default country.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        RecipientParser::default().parse(text)
    }
}

fn from_jid(user: &str, server: &str) -> Result<Recipient, ValidationError> {
    // A device suffix (`:12`) addresses one device of an account; messages are sent to the account.
    let user = user.split(':').next().unwrap_or(user);
    let valid = !user.is_empty() && user.len() <= 64 && user.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    match server {
        "s.whatsapp.net" | "c.us" => user.parse().map(Recipient::Phone),
        "g.us" if valid || is_cloud_api_group(user) => Ok(Recipient::Jid(Jid::Group(user.to_owned()))),
        "newsletter" if valid => Ok(Recipient::Jid(Jid::Newsletter(user.to_owned()))),
        "lid" if valid => Ok(Recipient::Jid(Jid::Lid(user.to_owned()))),
        _ => Err(ValidationError::new("phone", "JID inválido")),
    }
}

fn is_bare_group(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('-') {
        Some((creator, created)) => {
            digits(creator) && digits(created) && creator.len() >= 10 && created.len() == 10
        }
        None => text.len() == 18 && text.starts_with("120363") && digits(text),
    }
}

/// Whether a text is the id of a group of the Cloud API: base64 of `capi_group:` and numbers. Source:
/// <https://developers.facebook.com/docs/whatsapp/cloud-api/groups/reference>.
fn is_cloud_api_group(text: &str) -> bool {
    // The 14 characters that the first 10 bytes and half of the 11th determine.
    const BEGINNING: &str = "Y2FwaV9ncm91cD";
    const MAX_LENGTH: usize = 128;
    text.len() <= MAX_LENGTH
        && text.strip_prefix(BEGINNING).is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=-_".contains(&b))
        })
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Jid::Group(user) => write!(f, "{user}@g.us"),
            Jid::Newsletter(user) => write!(f, "{user}@newsletter"),
            Jid::Lid(user) => write!(f, "{user}@lid"),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recipient::Phone(phone) => phone.fmt(f),
            Recipient::User(user) => f.write_str(&user.0),
            Recipient::Jid(jid) => jid.fmt(f),
        }
    }
}

/// Decodes a record. Bare digits are a number as it was stored, also where [`RecipientParser`] would refuse it.
impl TryFrom<String> for Recipient {
    type Error = ValidationError;
    fn try_from(text: String) -> Result<Self, ValidationError> {
        match text.parse() {
            Ok(recipient) if text.starts_with("00") => {
                Ok(PhoneNumber::try_from(text).map_or(recipient, Self::Phone))
            }
            Ok(recipient) => Ok(recipient),
            Err(refused) => PhoneNumber::try_from(text).map(Self::Phone).map_err(|_| refused),
        }
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> String {
        recipient.to_string()
    }
}

/// The lane of a recipient within one instance and class: 64 bits of a hash of its canonical spelling.
///
/// Two recipients with the same hash share a lane: their messages wait for each other, with no other effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub u64);

impl Recipient {
    /// The address in the documented webhooks: `573001234567@s.whatsapp.net` for a number, otherwise the canonical
    /// spelling.
    pub fn address(&self) -> String {
        match self {
            Recipient::Phone(phone) => format!("{phone}@s.whatsapp.net"),
            other => other.to_string(),
        }
    }

    /// The recipient in each of its spellings, the given one first. All of them are the same person.
    pub fn spellings(&self) -> impl Iterator<Item = Self> + use<> {
        let other = match self {
            Recipient::Phone(phone) => phone.other_spelling().map(Self::Phone),
            Recipient::User(_) | Recipient::Jid(_) => None,
        };
        std::iter::once(self.clone()).chain(other)
    }

    /// The number, if the recipient is named by one.
    pub fn phone(&self) -> Option<&PhoneNumber> {
        match self {
            Recipient::Phone(phone) => Some(phone),
            Recipient::User(_) | Recipient::Jid(_) => None,
        }
    }

    /// The lane of messages to this recipient.
    pub fn lane(&self) -> LaneId {
        let digest: [u8; 32] = Sha256::digest(self.to_string()).into();
        let first = digest.first_chunk::<8>().copied().unwrap_or_default();
        LaneId(u64::from_be_bytes(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOUD_GROUP: &str = "Y2FwaV9ncm91cDoxNTU1MDAwMTE5OToxMjAzNjMwOTk4ODc3NjY1NTQZD";

    #[test]
    fn every_recipient_form_parses() {
        for (text, canonical) in [
            ("+57 300 123 4567", "573001234567"),
            ("573001234567@s.whatsapp.net", "573001234567"),
            ("573001234567:12@s.whatsapp.net", "573001234567"),
            ("120363025246125486", "120363025246125486@g.us"),
            ("120363025246125486@g.us", "120363025246125486@g.us"),
            ("5215512345678-1609459200", "5215512345678-1609459200@g.us"),
            ("123456789012345@lid", "123456789012345@lid"),
            ("US.13491208655302741918", "US.13491208655302741918"),
            ("US.ENT.70025518834400917263", "US.ENT.70025518834400917263"),
            ("\u{feff}US.ENT.70025518834400917263 ", "US.ENT.70025518834400917263"),
            (CLOUD_GROUP, "Y2FwaV9ncm91cDoxNTU1MDAwMTE5OToxMjAzNjMwOTk4ODc3NjY1NTQZD@g.us"),
            ("Y2FwaV9ncm91cDoxNTU1MA==@g.us", "Y2FwaV9ncm91cDoxNTU1MA==@g.us"),
            ("whatsapp:+573001234567", "573001234567"),
            ("376312345", "376312345"),
        ] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn invalid_recipient_is_refused() {
        let unknown = ["US.ENT.", "US.XYZ.1", "us.ENT.1", "Y2FwaV9ncm91cD", "Y2FwaV9ncm91cDox!", "ana@g.us"];
        for text in ["", "x@y", "@g.us", "ana", "12@g.us@g.us"].into_iter().chain(unknown) {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
    }

    #[test]
    fn default_country_completes_numbers_and_nothing_else() {
        let parser = RecipientParser { default_country: Some("CO".parse().unwrap()) };
        for (text, read) in [
            ("300 123 4567", "573001234567"),
            ("+376312345", "376312345"),
            ("3001234567@s.whatsapp.net", "3001234567"),
            ("120363025246125486", "120363025246125486@g.us"),
            ("CO.1", "CO.1"),
        ] {
            assert_eq!(parser.parse(text).unwrap().to_string(), read, "{text}");
        }
    }

    #[test]
    fn parent_id_is_told_apart() {
        let is_parent = |text: &str| text.parse::<UserId>().unwrap().is_parent();
        assert!(is_parent("US.ENT.1") && !is_parent("US.ENT1") && !is_parent("US.1"));
    }

    #[test]
    fn record_of_an_earlier_version_is_decoded() {
        for stored in ["0718139912", "00573001234501", "573001234567", "CO.1", "120363025246125486@g.us"] {
            let recipient: Recipient = serde_json::from_value(stored.into()).unwrap();
            assert_eq!(recipient.to_string(), stored);
        }
        assert!(serde_json::from_value::<Recipient>("ana".into()).is_err());
    }

    #[test]
    fn spellings_of_one_number_share_a_lane() {
        let lane = |text: &str| text.parse::<Recipient>().unwrap().lane();
        assert_eq!(lane("+57 300 123 4567"), lane("573001234567@s.whatsapp.net"));
        assert_ne!(lane("573001234567"), lane("573001234568"));
    }
}
