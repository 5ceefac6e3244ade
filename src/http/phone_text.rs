//! A recipient in a JSON body: a text, or a number as spreadsheets and tools without code send it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use relevo_domain::{Recipient, RecipientParser, ValidationError};

/// A recipient as the caller writes it; empty when the field is missing or null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PhoneText<'a>(Cow<'a, str>);

impl PhoneText<'_> {
    /// The recipient.
    ///
    /// # Errors
    ///
    /// The text is no recipient; the error names `phone`.
    pub fn parse(&self, parser: RecipientParser) -> Result<Recipient, ValidationError> {
        parser.parse(&self.0)
    }

    /// The recipient of a field of another name.
    ///
    /// # Errors
    ///
    /// The text is no recipient; the error names the field.
    pub fn parse_field(
        &self,
        parser: RecipientParser,
        field: impl Into<String>,
    ) -> Result<Recipient, ValidationError> {
        parser.parse(&self.0).map_err(|invalid| ValidationError::new(field, invalid.reason))
    }

    /// Whether the field is missing or empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for PhoneText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl<'de> Visitor<'de> for TextOrNumber {
            type Value = PhoneText<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a phone number, as a text or a number")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(PhoneText(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(PhoneText(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(PhoneText(Cow::Owned(number.to_string())))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                Err(E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            // JSON writes a whole number of this size with a fraction or an exponent when it was a floating point number.
            // Those are exact; a larger one has 16 digits or more, which no phone number has.
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
                const LARGEST: f64 = 999_999_999_999_999.0;
                if number.fract() == 0.0 && (0.0..=LARGEST).contains(&number) {
                    return Ok(PhoneText(Cow::Owned(format!("{number:.0}"))));
                }
                Err(E::invalid_value(de::Unexpected::Float(number), &self))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(PhoneText::default())
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_whole_numbers_are_read() {
        for (json, text) in [
            ("\"+57 300\"", "+57 300"),
            ("\"\\u202a57\"", "\u{202a}57"),
            ("573001234561", "573001234561"),
            ("573001234561.0", "573001234561"),
            ("5.73001234561e11", "573001234561"),
            ("999999999999999", "999999999999999"),
            ("1234567890123456", "1234567890123456"),
            ("null", ""),
        ] {
            assert_eq!(serde_json::from_str::<PhoneText>(json).unwrap().as_str(), text, "{json}");
        }
        for json in ["-573001234561", "573001234561.5", "1e300", "true", "[1]", "{}"] {
            let refused = serde_json::from_str::<PhoneText>(json).unwrap_err().to_string();
            assert!(refused.contains("expected a phone number"), "{json}: {refused}");
        }
    }
}
