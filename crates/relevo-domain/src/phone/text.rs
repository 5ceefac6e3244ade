//! The characters of a number as people, phones, web pages and spreadsheets write them.

use std::borrow::Cow;

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

use super::super::ValidationError;
use super::invalid;

/// Prefixes of numbers in links (RFC 3966), in Twilio's addresses and in the files of Facebook's forms.
const PREFIXES: [&str; 5] = ["tel:", "whatsapp:", "p:", "sms:", "callto:"];

/// Maximum number of characters of the text that an error repeats.
const MAX_SHOWN_CHARS: usize = 40;

/// The digits of a number.
pub(super) struct WrittenDigits {
    pub digits: String,
    /// Whether a `+` is in front.
    pub has_plus: bool,
}

/// The text with ASCII in the place of digits, spaces, dashes and brackets of other scripts, and without invisible
/// characters, quotes around it and a known prefix. Other characters are kept, so that no part of a number is lost.
pub fn to_plain_text(text: &str) -> Cow<'_, str> {
    if text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_control()) {
        return Cow::Borrowed(unwrap(text));
    }
    let plain: String = text.chars().filter(|c| !is_invisible(*c)).map(to_ascii).collect();
    Cow::Owned(unwrap(&plain).to_owned())
}

fn unwrap(text: &str) -> &str {
    strip_prefix(strip_quotes(text.trim()))
}

/// The digits of a plain text.
///
/// # Errors
///
/// The text is empty, in scientific notation, or has characters that are neither digits nor separators.
pub(super) fn digits_of(text: &str) -> Result<WrittenDigits, ValidationError> {
    if is_scientific(text) {
        let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
        return Err(invalid(&format!(
            "{shown} es un número en notación científica: la hoja de cálculo perdió sus últimos dígitos; dé a la \
             columna el formato Texto, escriba el número de nuevo y exporte otra vez"
        )));
    }
    let text = without_trunk_zero(strip_zero_decimals(text));
    let mut written = WrittenDigits { digits: String::new(), has_plus: false };
    for c in text.chars() {
        match c {
            '0'..='9' => written.digits.push(c),
            ' ' | '-' | '(' | ')' => {}
            '+' if written.digits.is_empty() => written.has_plus = true,
            _ => return Err(invalid("El número de teléfono solo debe contener dígitos")),
        }
    }
    if written.digits.is_empty() {
        return Err(invalid("El número de teléfono es requerido"));
    }
    Ok(written)
}

/// Whether a character has no width: marks of direction, joiners, variation selectors, controls.
fn is_invisible(c: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    (c.is_control() && !c.is_whitespace())
        || category == GeneralCategory::Format
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

fn to_ascii(c: char) -> char {
    if c.is_ascii() {
        return if c.is_whitespace() { ' ' } else { c };
    }
    match CodePointMapData::<GeneralCategory>::new().get(c) {
        GeneralCategory::DecimalNumber => ascii_digit(c),
        GeneralCategory::DashPunctuation => '-',
        _ => match c {
            '\u{2212}' => '-',
            '\u{2018}' | '\u{2019}' => '\'',
            '\u{201C}' | '\u{201D}' => '"',
            // Full-width forms have the order of ASCII, 0xFEE0 above it.
            '\u{FF01}'..='\u{FF5E}' => u32::from(c).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(c),
            c if c.is_whitespace() => ' ',
            c => c,
        },
    }
}

/// The ASCII digit of a decimal digit of any script. Unicode guarantees that the decimal digits of a script are ten
/// consecutive characters in the order of their values. Source: <https://www.unicode.org/policies/stability_policy.html>.
fn ascii_digit(c: char) -> char {
    let is_decimal =
        |code: u32| CodePointMapData::<GeneralCategory>::new().get32(code) == GeneralCategory::DecimalNumber;
    let code = u32::from(c);
    let before = (0..code).rev().take_while(|code| is_decimal(*code)).count();
    u32::try_from(before % 10).ok().and_then(|value| char::from_digit(value, 10)).unwrap_or(c)
}

/// Removes what makes a spreadsheet treat a number as text: `="…"`, quotes and apostrophes.
fn strip_quotes(text: &str) -> &str {
    let text = text.strip_prefix('=').unwrap_or(text).trim();
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = inner.unwrap_or(text).trim();
    let text = text.strip_prefix('\'').unwrap_or(text);
    text.strip_suffix('\'').unwrap_or(text).trim()
}

fn strip_prefix(text: &str) -> &str {
    let is_prefix =
        |prefix: &&str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let prefix = PREFIXES.iter().find(|prefix| is_prefix(prefix));
    prefix.and_then(|prefix| text.get(prefix.len()..)).unwrap_or(text).trim()
}

/// Removes the `(0)` after a country code: the zero is dialled within the country only.
fn without_trunk_zero(text: &str) -> Cow<'_, str> {
    match text.split_once("(0)") {
        Some((before, after)) if before.bytes().any(|b| b.is_ascii_digit()) => {
            Cow::Owned(format!("{before}{after}"))
        }
        _ => Cow::Borrowed(text),
    }
}

/// Removes the `.0` of a number that was stored as floating point.
fn strip_zero_decimals(text: &str) -> &str {
    let head = text.strip_suffix(".0").or_else(|| text.strip_suffix(",0"));
    let is_whole = |head: &&str| {
        let head = head.strip_prefix('+').unwrap_or(head);
        !head.is_empty() && head.bytes().all(|b| b.is_ascii_digit())
    };
    head.filter(is_whole).unwrap_or(text)
}

/// Whether a text is like `5.1987E+10`, with a point or a comma.
fn is_scientific(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return false };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once(['.', ',']).unwrap_or((mantissa, "0"));
    is_number(whole)
        && is_number(fraction)
        && is_number(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decimal_digit_has_its_value() {
        let categories = CodePointMapData::<GeneralCategory>::new();
        let mut values = [0; 10];
        for c in (0..=0x10_FFFF).filter_map(char::from_u32) {
            if categories.get(c) == GeneralCategory::DecimalNumber {
                let value = to_ascii(c).to_digit(10).unwrap();
                values[usize::try_from(value).unwrap()] += 1;
            }
        }
        assert!(values[0] > 60 && values.iter().all(|count| *count == values[0]), "{values:?}");
        for (digit, value) in
            [('٣', '3'), ('۹', '9'), ('४', '4'), ('７', '7'), ('๕', '5'), ('𝟗', '9'), ('𝟘', '0')]
        {
            assert_eq!(to_ascii(digit), value);
        }
    }

    #[test]
    fn ids_and_addresses_are_kept() {
        for (text, plain) in [
            (" US.ENT.70025518834400917263\u{200e}", "US.ENT.70025518834400917263"),
            ("573001234567@s.whatsapp.net", "573001234567@s.whatsapp.net"),
            ("whatsapp:120363025246125486@g.us", "120363025246125486@g.us"),
            ("Y2FwaV9ncm91cDoxQ==", "Y2FwaV9ncm91cDoxQ=="),
        ] {
            assert_eq!(to_plain_text(text), plain);
        }
    }
}
