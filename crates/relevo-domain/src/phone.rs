//! Telephone numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ValidationError;

/// A telephone number in international format: 10 to 15 digits, no `+`.
///
/// The length is checked and the numbering plan is not, because WhatsApp accepts numbers that no plan lists. The digits
/// are never changed: WhatsApp decides which account a Brazilian or Mexican spelling means.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PhoneNumber(String);

impl PhoneNumber {
    /// The digits without `+`, the format of the documented APIs.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The number with a `+`. Meta may prepend the country code of the business to a number without it.
    pub fn e164(&self) -> String {
        format!("+{}", self.0)
    }
}

impl FromStr for PhoneNumber {
    type Err = ValidationError;

    /// Accepts `+`, spaces, dashes and brackets between the digits. The error texts are those of the documented API.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let digits: String = text.chars().filter(|c| !matches!(c, '+' | ' ' | '-' | '(' | ')')).collect();
        if digits.is_empty() {
            return Err(ValidationError::new("phone", "El número de teléfono es requerido"));
        }
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ValidationError::new("phone", "El número de teléfono solo debe contener dígitos"));
        }
        match digits.len() {
            ..10 => Err(ValidationError::new(
                "phone",
                "El número de teléfono es demasiado corto (mínimo 10 dígitos)",
            )),
            10..=15 => Ok(Self(digits)),
            _ => Err(ValidationError::new(
                "phone",
                "El número de teléfono es demasiado largo (máximo 15 dígitos)",
            )),
        }
    }
}

impl TryFrom<String> for PhoneNumber {
    type Error = ValidationError;
    fn try_from(text: String) -> Result<Self, ValidationError> {
        text.parse()
    }
}

impl From<PhoneNumber> for String {
    fn from(phone: PhoneNumber) -> String {
        phone.0
    }
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_is_dropped_and_digits_are_kept() {
        let phone: PhoneNumber = "+52 (155) 1234-5678".parse().unwrap();
        assert_eq!(phone.digits(), "5215512345678");
        assert_eq!(phone.e164(), "+5215512345678");
    }

    #[test]
    fn letters_and_wrong_lengths_are_refused_with_a_reason() {
        for (text, word) in
            [("", "requerido"), ("abc", "dígitos"), ("123456789", "corto"), ("1234567890123456", "largo")]
        {
            let error = text.parse::<PhoneNumber>().unwrap_err();
            assert_eq!(error.field, "phone");
            assert!(error.reason.contains(word), "{text}: {}", error.reason);
        }
    }
}
