//! Parsing of phone numbers as spreadsheets export them.

use std::borrow::Cow;

use relevo_domain::{Recipient, ValidationError};

use super::BadPhone;
use super::parser::is_invisible;

/// Prefixes of phone numbers in Facebook's lead files, in links and in Twilio's logs.
const PREFIXES: [&str; 3] = ["p:", "tel:", "whatsapp:"];

/// Maximum number of characters of a bad cell that an error text repeats.
const MAX_SHOWN_CHARS: usize = 40;

/// Parses the first cell of a row.
///
/// Accepts, beyond the forms of [`Recipient`]: any kind of space and dash, full-width digits, invisible marks, a leading
/// apostrophe, `="…"`, a final `.0` or `,0`, and the prefixes `p:`, `tel:` and `whatsapp:`. Scientific notation
/// is refused even if no digit seems lost, because lost digits cannot be detected.
pub(super) fn parse(cell: &str) -> Result<Recipient, BadPhone> {
    let plain = to_ascii(cell);
    let text = strip_wrapping(plain.trim());
    if is_scientific(text) {
        return Err(BadPhone::Scientific { cell: text.chars().take(MAX_SHOWN_CHARS).collect() });
    }
    strip_zero_decimals(text)
        .parse()
        .map_err(|invalid: ValidationError| BadPhone::Invalid { reason: invalid.reason })
}

/// Replaces characters by their ASCII equivalents and removes invisible ones.
fn to_ascii(cell: &str) -> Cow<'_, str> {
    if cell.is_ascii() {
        return Cow::Borrowed(cell);
    }
    Cow::Owned(cell.chars().filter(|c| !is_invisible(*c)).map(ascii_char).collect())
}

fn ascii_char(c: char) -> char {
    match c {
        // Full-width forms have the order of ASCII, 0xFEE0 above it.
        '\u{FF01}'..='\u{FF5E}' => u32::from(c).checked_sub(0xFEE0).and_then(char::from_u32).unwrap_or(c),
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{2018}' | '\u{2019}' => '\'',
        '\u{201C}' | '\u{201D}' => '"',
        c if c.is_whitespace() => ' ',
        c => c,
    }
}

/// Removes what makes a spreadsheet treat a number as text (`="…"`, apostrophes), and a known prefix.
fn strip_wrapping(text: &str) -> &str {
    let text = text.strip_prefix('=').unwrap_or(text).trim();
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = inner.unwrap_or(text).trim();
    let text = text.strip_prefix('\'').unwrap_or(text);
    let text = text.strip_suffix('\'').unwrap_or(text).trim();
    let prefixed =
        |prefix: &&str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let prefix = PREFIXES.iter().find(|prefix| prefixed(prefix));
    prefix.and_then(|prefix| text.get(prefix.len()..)).unwrap_or(text).trim()
}

/// Removes the `.0` of a number that was stored as floating point.
fn strip_zero_decimals(text: &str) -> &str {
    let head = text.strip_suffix(".0").or_else(|| text.strip_suffix(",0"));
    let digits = |head: &&str| {
        let head = head.strip_prefix('+').unwrap_or(head);
        !head.is_empty() && head.bytes().all(|b| b.is_ascii_digit())
    };
    head.filter(digits).unwrap_or(text)
}

/// Whether a text is like `5.1987E+10`, with a point or a comma.
fn is_scientific(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return false };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once(['.', ',']).unwrap_or((mantissa, "0"));
    digits(whole) && digits(fraction) && digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreadsheet_damage_to_phone_numbers_is_undone() {
        for cell in [
            "51987654321",
            "+51 987-654-321",
            "\u{a0}51\u{202f}987 654 321\u{a0}",
            "'51987654321",
            "’51987654321",
            "=\"51987654321\"",
            "=51987654321",
            "51987654321.0",
            "51987654321,0",
            "\u{feff}51987654321",
            "\u{202a}+51 987 654 321\u{202c}",
            "＋５１９８７６５４３２１",
            "51–987–654–321",
            "p:+51987654321",
            "whatsapp:+51987654321",
            "Tel: 51987654321",
            "51987654321@s.whatsapp.net",
        ] {
            assert_eq!(parse(cell).map(|to| to.to_string()), Ok("51987654321".to_owned()), "{cell:?}");
        }
    }

    #[test]
    fn scientific_notation_is_refused() {
        for cell in ["5.19877E+10", "5,19877E+10", "5.1987654321E+10", "5E10", "+5.1e+11", "=\"5.1E+11\""] {
            let bad = parse(cell).unwrap_err();
            assert!(matches!(bad, BadPhone::Scientific { .. }), "{cell}: {bad}");
            assert!(bad.to_string().contains("formato Texto"), "{bad}");
        }
    }

    #[test]
    fn ambiguous_phone_numbers_are_refused() {
        for (cell, expected) in [
            ("", "requerido"),
            ("12", "corto"),
            ("51987654321 / 51987654322", "dígitos"),
            ("51987654321 51987654322", "largo"),
            ("51.987.654.321", "dígitos"),
            ("51987654321.5", "dígitos"),
            ("51,987.0", "dígitos"),
            ("#N/A", "dígitos"),
            ("ana@example.com", "JID"),
            ("=HOY()", "dígitos"),
        ] {
            let bad = parse(cell).unwrap_err().to_string();
            assert!(bad.contains(expected), "{cell}: {bad}");
        }
    }
}
