//! The words of a text without everything that phones, keyboards and manners put around them.

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::props::{DefaultIgnorableCodePoint, Emoji, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Turns the character before it into an emoji: `1️⃣`.
const KEYCAP: char = '\u{20e3}';

/// The words of a text in lower case, without accents, in their compatibility form (UAX #15: full-width and styled letters
/// are letters). Punctuation, symbols, emoji and blanks separate words; invisible characters vanish. So does the number
/// of a list item (`1. `), which is formatting in WhatsApp.
pub(super) fn plain_words(text: &str) -> Vec<String> {
    let visible = without_list_number(&without_emoji(text)).to_owned();
    let decomposed = DecomposingNormalizerBorrowed::new_nfkd().normalize(&visible);
    let mut words = vec![String::new()];
    for c in decomposed.chars() {
        match kind_of(c) {
            CharKind::Letter => {
                // By way of upper case, so that σ and ς, or ß and ss, are the same.
                let folded = c.to_uppercase().flat_map(char::to_lowercase);
                if let Some(word) = words.last_mut() {
                    // The lower case of İ has a dot as an accent.
                    word.extend(folded.filter(|c| kind_of(*c) == CharKind::Letter));
                }
            }
            CharKind::Mark => {}
            CharKind::Gap => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CharKind {
    /// Belongs to a word.
    Letter,
    /// Vanishes: an accent, an invisible character, the stroke that lengthens Arabic words.
    Mark,
    /// Separates words.
    Gap,
}

fn kind_of(c: char) -> CharKind {
    use GeneralCategory as Category;
    if is_accent(c) || is_invisible(c) || c == '\u{640}' {
        return CharKind::Mark;
    }
    match CodePointMapData::<GeneralCategory>::new().get(c) {
        Category::UppercaseLetter
        | Category::LowercaseLetter
        | Category::TitlecaseLetter
        | Category::ModifierLetter
        | Category::OtherLetter
        | Category::DecimalNumber
        | Category::LetterNumber
        | Category::OtherNumber
        | Category::NonspacingMark
        | Category::SpacingMark => CharKind::Letter,
        _ => CharKind::Gap,
    }
}

/// Whether a character is an accent of the Latin, Greek and Cyrillic scripts, a Hebrew point or an Arabic vowel mark. The
/// marks of other scripts distinguish words.
fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5bd}' | '\u{5bf}' | '\u{5c1}'..='\u{5c2}' | '\u{5c4}'..='\u{5c5}'
        | '\u{5c7}' | '\u{64b}'..='\u{65f}' | '\u{670}')
}

/// Whether a character has no width. Tabs and line breaks do: they separate words.
fn is_invisible(c: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    category == GeneralCategory::Format
        || (c.is_control() && !c.is_whitespace())
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
}

/// The text with a blank in the place of each emoji. Some emoji are letters in their compatibility form (`ℹ️`, `Ⓜ️`).
fn without_emoji(text: &str) -> String {
    let emoji = CodePointSetData::new::<Emoji>();
    let mut kept = String::with_capacity(text.len());
    for c in text.chars() {
        if c == KEYCAP {
            // A variation selector may stand between the two.
            let base = kept.trim_end_matches(is_invisible).len();
            kept.truncate(base);
            kept.pop();
        } else if !c.is_ascii() && emoji.contains(c) {
            kept.push(' ');
        } else {
            kept.push(c);
        }
    }
    kept
}

fn without_list_number(text: &str) -> &str {
    let item = text.trim_start();
    let rest = item.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = item.len().saturating_sub(rest.len());
    rest.strip_prefix(". ").filter(|_| (1..=2).contains(&digits)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_and_plain() {
        for (text, words) in [
            ("  Hola,   ¿QUÉ tal? ", vec!["hola", "que", "tal"]),
            ("ＳＴＯＰ", vec!["stop"]),
            ("ba\u{301}ja / BÀJÄ", vec!["baja", "baja"]),
            ("Straße STRASSE", vec!["strasse", "strasse"]),
            ("ΤΕΛΟΣ τέλος", vec!["τελοσ", "τελοσ"]),
            ("İPTAL iptal", vec!["iptal", "iptal"]),
            ("إلغاء الــغاء", vec!["الغاء", "الغاء"]),
            ("बंद करो", vec!["बंद", "करो"]),
            ("停止。", vec!["停止"]),
            ("1. stop", vec!["stop"]),
            ("123. stop", vec!["123", "stop"]),
            ("1️⃣ stop 2\u{20e3}", vec!["stop"]),
            ("👨‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿 ®️", vec![]),
        ] {
            assert_eq!(plain_words(text), words, "{text:?}");
        }
    }
}
