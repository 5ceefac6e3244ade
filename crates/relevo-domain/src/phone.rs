//! Telephone numbers. This is the one place that understands a number; every route, file and list reads numbers here.

mod spellings;
mod text;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Country, ValidationError};

pub(super) use text::to_plain_text;

/// A telephone number in international format: 7 to 15 digits, no `+`, no leading zero.
///
/// The length is checked and the numbering plan is not, because WhatsApp accepts numbers that no plan lists; see
/// [`PhoneNumber::plan_mismatch`]. The digits are never changed: WhatsApp decides which account a Brazilian or Mexican
/// spelling means.
///
/// A record may hold a number that an earlier version accepted, with other lengths or a leading zero.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PhoneNumber(String);

/// Minimum number of digits. E.164 names none; the shortest numbers in use (Niue, Saint Helena) have seven and eight.
const MIN_DIGITS: usize = 7;

/// Maximum number of digits. Source: ITU-T E.164 §6.1.
const MAX_DIGITS: usize = 15;

impl PhoneNumber {
    /// Reads a number in one of the usual spellings.
    ///
    /// Accepts, beside the digits: `+` in front, `00` for it, spaces, dashes and brackets of any script, digits of any
    /// script, invisible marks, `(0)` after the country code, the prefixes `tel:`, `whatsapp:`, `p:`, `sms:` and
    /// `callto:`, and what spreadsheets add (`="…"`, quotes, apostrophes, `.0` at the end). With `national`, a number
    /// that fits the plan of that country and does not begin with its code is completed.
    ///
    /// # Errors
    ///
    /// The text is no number, has too few or too many digits, begins with a zero, or is in scientific notation, where
    /// lost digits cannot be detected. The texts are those of the documented API.
    pub fn read(text: &str, national: Option<Country>) -> Result<Self, ValidationError> {
        Self::read_plain(&to_plain_text(text), national)
    }

    /// [`read`](Self::read) for the result of [`to_plain_text`].
    pub(super) fn read_plain(text: &str, national: Option<Country>) -> Result<Self, ValidationError> {
        let written = text::digits_of(text)?;
        let (digits, is_international) = match written.digits.strip_prefix("00") {
            Some(behind) => (behind, true),
            None => (written.digits.as_str(), written.has_plus),
        };
        let completed = national.filter(|_| !is_international).and_then(|country| country.complete(digits));
        let digits = completed.as_deref().unwrap_or(digits);
        if digits.starts_with('0') {
            return Err(invalid(
                "El número de teléfono no puede empezar por 0: comience con el código de país (begin with the country \
                 code)",
            ));
        }
        match digits.len() {
            ..MIN_DIGITS => Err(invalid("El número de teléfono es demasiado corto (mínimo 7 dígitos)")),
            MIN_DIGITS..=MAX_DIGITS => Ok(Self(digits.to_owned())),
            _ => Err(invalid("El número de teléfono es demasiado largo (máximo 15 dígitos)")),
        }
    }

    /// The digits without `+`, the format of the documented APIs.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The number with a `+`. Meta may prepend the country code of the business to a number without it.
    pub fn e164(&self) -> String {
        format!("+{}", self.0)
    }

    /// The other spelling of a mobile number in the countries where WhatsApp knows two. It is the same person, and only
    /// compared; what the caller gave is what is sent.
    pub fn other_spelling(&self) -> Option<Self> {
        spellings::other_spelling(&self.0).map(Self)
    }
}

fn invalid(reason: &str) -> ValidationError {
    ValidationError::new("phone", reason)
}

impl FromStr for PhoneNumber {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::read(text, None)
    }
}

/// Decodes a record: bare digits are taken as they are.
impl TryFrom<String> for PhoneNumber {
    type Error = ValidationError;
    fn try_from(text: String) -> Result<Self, ValidationError> {
        let is_stored = (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if is_stored { Ok(Self(text)) } else { text.parse() }
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_number_is_read_in_every_usual_spelling() {
        for text in [
            "573001234567",
            "+57 (300) 123-4567",
            "0057 300 123 4567",
            "+00573001234567",
            "\u{202a}+57 300 123 4567\u{202c}",
            "57\u{a0}300\u{202f}123\u{3000}4567",
            "57\u{2011}300\u{2013}123\u{2212}4567",
            "57300\u{200b}12\u{ad}34567",
            "\u{feff}573001234567\u{200f}",
            "tel:+573001234567",
            "Tel: 573001234567",
            "WhatsApp:+573001234567",
            "p:+573001234567",
            "＋５７３００１２３４５６７",
            "（５７）３００－１２３４５６７",
            "٥٧٣٠٠١٢٣٤٥٦٧",
            "۵۷۳۰۰۱۲۳۴۵۶۷",
            "५७३००१२३४५६७",
            "𝟓𝟕𝟑𝟎𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕",
            "57 (0) 300 123 4567",
            "+57(0)3001234567",
            "'573001234567",
            "=\"573001234567\"",
            "573001234567.0",
        ] {
            assert_eq!(
                text.parse::<PhoneNumber>().map(String::from),
                Ok("573001234567".to_owned()),
                "{text:?}"
            );
        }
        assert_eq!("573001234567".parse::<PhoneNumber>().unwrap().e164(), "+573001234567");
    }

    #[test]
    fn short_numbers_of_small_countries_are_read() {
        for text in ["376312345", "299123456", "508412345", "29041234", "6834002"] {
            assert_eq!(text.parse::<PhoneNumber>().unwrap().digits(), text);
        }
    }

    #[test]
    fn text_that_is_no_number_is_refused_with_a_reason() {
        for (text, word) in [
            ("", "requerido"),
            ("+", "requerido"),
            ("abc", "dígitos"),
            ("57300123456a", "dígitos"),
            ("573001234567 / 573001234568", "dígitos"),
            ("573001234567.5", "dígitos"),
            ("57.300.123.4567", "dígitos"),
            ("57+3001234567", "dígitos"),
            ("57²3001234567", "dígitos"),
            ("5.73001234567E+11", "notación científica"),
            ("12345", "corto"),
            ("123456", "corto"),
            ("1234567890123456", "largo"),
            ("573001234567 573001234568", "largo"),
            ("0718139912", "country code"),
            ("+0 57 300 123 4502", "country code"),
            ("0573001234503", "country code"),
            ("000573001234503", "country code"),
            ("٠٧١٨١٣٩٩١٢", "country code"),
        ] {
            let error = text.parse::<PhoneNumber>().unwrap_err();
            assert_eq!(error.field, "phone");
            assert!(error.reason.contains(word), "{text}: {}", error.reason);
        }
    }

    #[test]
    fn record_of_an_earlier_version_is_decoded() {
        for stored in ["0718139912", "00573001234501", "12345"] {
            let phone: PhoneNumber = serde_json::from_value(stored.into()).unwrap();
            assert_eq!(phone.digits(), stored);
        }
    }

    proptest! {
        #[test]
        fn number_is_never_cut(digits in "[1-9][0-9]{6,14}", zero in prop::sample::select(vec!['0', '٠', '۰', '०', '０', '๐', '𝟘'])) {
            let written: String = digits
                .chars()
                .map(|digit| char::from_u32(u32::from(zero) + digit.to_digit(10).unwrap()).unwrap())
                .collect();
            let read = written.parse::<PhoneNumber>().unwrap();
            prop_assert_eq!(read.digits(), digits);
        }

        #[test]
        fn reading_never_panics_and_returns_digits(text in "\\PC{0,24}") {
            if let Ok(phone) = text.parse::<PhoneNumber>() {
                prop_assert!(phone.digits().bytes().all(|b| b.is_ascii_digit()));
                prop_assert_eq!(phone.to_string().parse::<PhoneNumber>(), Ok(phone));
            }
        }
    }
}
