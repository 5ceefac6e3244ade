//! Recipients of messages, and the lanes of their messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{PhoneNumber, ValidationError};

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
/// (`US.13491208655302741918`). Sent to Meta exactly as received.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserId(String);

/// A WhatsApp protocol address that is not a plain telephone number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Jid {
    /// `…@g.us`
    Group(String),
    /// `…@newsletter`
    Newsletter(String),
    /// `…@lid`: a person with a hidden number.
    Lid(String),
}

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = ValidationError;
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let valid = text.split_once('.').is_some_and(|(country, id)| {
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

impl FromStr for Recipient {
    type Err = ValidationError;

    /// Accepts digits in any usual spelling, `…@s.whatsapp.net`, `…@g.us`, `…@lid`, `…@newsletter`, or a BSUID. A bare
    /// group id (18 digits that begin with 120363, or `digits-digits`) is a group, because some callers omit the
    /// `@g.us`.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let text = text.trim();
        if let Some((user, server)) = text.split_once('@') {
            return from_jid(user, server);
        }
        if let Ok(user) = text.parse() {
            return Ok(Self::User(user));
        }
        if is_bare_group(text) {
            return Ok(Self::Jid(Jid::Group(text.to_owned())));
        }
        text.parse().map(Self::Phone)
    }
}

fn from_jid(user: &str, server: &str) -> Result<Recipient, ValidationError> {
    // A device suffix (`:12`) addresses one device of an account; messages are sent to the account.
    let user = user.split(':').next().unwrap_or(user);
    let valid = !user.is_empty() && user.len() <= 64 && user.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    match server {
        "s.whatsapp.net" | "c.us" => user.parse().map(Recipient::Phone),
        "g.us" if valid => Ok(Recipient::Jid(Jid::Group(user.to_owned()))),
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

impl TryFrom<String> for Recipient {
    type Error = ValidationError;
    fn try_from(text: String) -> Result<Self, ValidationError> {
        text.parse()
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
        ] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn invalid_recipient_is_refused() {
        for text in ["", "x@y", "@g.us", "ana", "12@g.us@g.us"] {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
    }

    #[test]
    fn spellings_of_one_number_share_a_lane() {
        let lane = |text: &str| text.parse::<Recipient>().unwrap().lane();
        assert_eq!(lane("+57 300 123 4567"), lane("573001234567@s.whatsapp.net"));
        assert_ne!(lane("573001234567"), lane("573001234568"));
    }
}
