//! Keywords by which users opt out of unsolicited messages, or opt in again.

use std::collections::HashSet;

use relevo_domain::{Chat, InboundContent, InboundMessage};

use super::Options;
use super::opt_out::Consent;

/// Maximum length of a message that can be a keyword, in bytes.
const MAX_MESSAGE_BYTES: usize = 256;

/// The configured keywords in folded form.
#[derive(Debug)]
pub(super) struct Keywords {
    opt_out: HashSet<String>,
    opt_in: HashSet<String>,
}

impl Keywords {
    /// Folds the configured keywords. A keyword in both lists means opt-out.
    pub fn new(options: &Options) -> Self {
        let folded =
            |words: &[String]| words.iter().map(|word| fold(word)).filter(|word| !word.is_empty()).collect();
        Self { opt_out: folded(&options.opt_out_keywords), opt_in: folded(&options.opt_in_keywords) }
    }

    /// The consent that a message expresses: a direct message of a user, as text or as the quick reply of a template.
    /// Messages in groups are not addressed to the business and express none.
    pub fn consent_of(&self, message: &InboundMessage) -> Option<Consent> {
        let text = match (&message.chat, &message.content) {
            (Chat::Direct, InboundContent::Text(text)) => text,
            (Chat::Direct, InboundContent::Button(button)) => &button.text,
            _ => return None,
        };
        let word = Some(text).filter(|text| text.len() <= MAX_MESSAGE_BYTES).map(|text| fold(text))?;
        if self.opt_out.contains(&word) {
            Some(Consent::OptOut)
        } else {
            self.opt_in.contains(&word).then_some(Consent::OptIn)
        }
    }
}

/// The text in lower case, without accents and outer blanks.
fn fold(text: &str) -> String {
    text.trim().chars().flat_map(char::to_lowercase).filter_map(without_accent).collect()
}

/// The letter without its accent, for the languages of Western Europe; `None` for a combining accent.
fn without_accent(letter: char) -> Option<char> {
    Some(match letter {
        'à'..='å' => 'a',
        'ç' => 'c',
        'è'..='ë' => 'e',
        'ì'..='ï' => 'i',
        'ñ' => 'n',
        'ò'..='ö' => 'o',
        'ù'..='ü' => 'u',
        'ý' | 'ÿ' => 'y',
        '\u{300}'..='\u{36f}' => return None,
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_ignore_case_accents_and_blanks() {
        for written in ["BAJA", " baja\n", "Bajá", "ba\u{301}ja", "BÀJÄ"] {
            assert_eq!(fold(written), "baja", "{written}");
        }
        assert_ne!(fold("baja ya"), "baja");
    }

    #[test]
    fn empty_keywords_are_ignored() {
        let options = Options { opt_out_keywords: vec![" ".to_owned()], opt_in_keywords: Vec::new() };
        assert!(Keywords::new(&options).opt_out.is_empty());
    }
}
