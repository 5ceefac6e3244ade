//! Keywords by which users opt out of unsolicited messages, or opt in again.

use std::collections::HashSet;

use relevo_domain::{Chat, InboundContent, InboundMessage, InteractiveReply};

use super::Options;
use super::opt_out::Consent;
use super::plain_words::plain_words;

/// Maximum length of a message that can be a keyword, in bytes: that of a long text message of WhatsApp.
const MAX_MESSAGE_BYTES: usize = 4096;

/// The configured keywords as plain words.
#[derive(Debug)]
pub(super) struct Keywords {
    opt_out: HashSet<Vec<String>>,
    opt_in: HashSet<Vec<String>>,
}

impl Keywords {
    /// Reads the configured keywords. A keyword in both lists means opt-out.
    pub fn new(options: &Options) -> Self {
        let read = |keywords: &[String]| {
            keywords.iter().map(|keyword| plain_words(keyword)).filter(|words| !words.is_empty()).collect()
        };
        Self { opt_out: read(&options.opt_out_keywords), opt_in: read(&options.opt_in_keywords) }
    }

    /// The consent that a message expresses: a direct message whose own words are a keyword and nothing else. Messages in
    /// groups are not addressed to the business and express none.
    pub fn consent_of(&self, message: &InboundMessage) -> Option<Consent> {
        if message.chat != Chat::Direct {
            return None;
        }
        let text = own_words(message.content.effective())?;
        if text.len() > MAX_MESSAGE_BYTES {
            return None;
        }
        let words = plain_words(text);
        if is_in(&self.opt_out, &words) {
            Some(Consent::OptOut)
        } else {
            is_in(&self.opt_in, &words).then_some(Consent::OptIn)
        }
    }
}

/// Whether the words are a keyword, once or repeated (`stop stop`).
fn is_in(keywords: &HashSet<Vec<String>>, words: &[String]) -> bool {
    keywords.iter().any(|keyword| {
        !words.is_empty()
            && words.len().is_multiple_of(keyword.len())
            && words.chunks(keyword.len()).all(|part| part == keyword.as_slice())
    })
}

/// What a user wrote or tapped, in the types of message that carry a user's own words.
fn own_words(content: &InboundContent) -> Option<&str> {
    match content {
        InboundContent::Text(text) => Some(text),
        InboundContent::Button(button) => Some(&button.text),
        InboundContent::Interactive(
            InteractiveReply::ButtonReply { button_reply: choice }
            | InteractiveReply::ListReply { list_reply: choice },
        ) => Some(&choice.title),
        InboundContent::Media(_, media) => media.caption.as_deref(),
        InboundContent::PollVote(vote) => match vote.options.as_deref() {
            Some([option]) => Some(option),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use relevo_domain::{ButtonReply, Identity, InboundMedia, InboundMediaKind, PollVote, Sender, Timestamp};

    fn message(content: InboundContent) -> InboundMessage {
        InboundMessage {
            id: "wamid.I".parse().unwrap(),
            id_scope: None,
            sender: Sender {
                identity: Identity::new(Some("573001234567"), None).unwrap(),
                name: None,
                username: None,
            },
            chat: Chat::Direct,
            at: Timestamp(0),
            context: None,
            referral: None,
            content,
            errors: Vec::new(),
        }
    }

    fn consent(content: InboundContent) -> Option<Consent> {
        Keywords::new(&Options::default()).consent_of(&message(content))
    }

    fn written(text: &str) -> Option<Consent> {
        consent(InboundContent::Text(text.to_owned()))
    }

    #[test]
    fn keyword_counts_with_anything_that_is_no_word_around_it() {
        for text in [
            "STOP",
            "stop.",
            "STOP!!!",
            "stop 🙏",
            "stop 👍🏽",
            "🛑 STOP 🛑",
            "\"BAJA\"",
            "“baja”",
            "¡BAJA!",
            "Baja!!",
            "«baja»",
            "(baja)",
            "- baja",
            "> baja",
            "1. BAJA",
            "* BAJA",
            "`stop`",
            "```STOP```",
            "~stop~",
            "*BAJA*",
            "_stop_",
            "*_BAJA_*",
            "\u{200b}STOP",
            "ST\u{200b}OP",
            "STOP\n",
            "\tSTOP\r\n",
            "STOP\u{200f}",
            "\u{feff}baja",
            "ＳＴＯＰ",
            "ⓢⓣⓞⓟ",
            "𝐒𝐓𝐎𝐏",
            "𝖻𝖺𝗃𝖺",
            "BÁJA",
            "ba\u{301}ja",
            "stop\u{a0}",
            "STOP ™️",
            "STOP ℹ️",
            "stop 1️⃣",
            "BAJA 🇨🇴",
            "stop stop",
            "STOP. STOP!",
            "baja…",
            "baja、",
            "STOP、",
            "।stop।",
        ] {
            assert_eq!(written(text), Some(Consent::OptOut), "{text:?}");
        }
        assert_eq!(written("¡Alta! 😀"), Some(Consent::OptIn));
    }

    #[test]
    fn sentence_with_a_keyword_does_not_count() {
        for text in [
            "stop, o Zé não vem",
            "la baja del precio",
            "no me des de baja",
            "¿stop?  no, sigue",
            "stop2",
            "1 stop",
            "baja baja no",
            "stop baja",
            "s t o p",
            "bajas",
            "stopp",
            "",
            "🙏",
            "...",
            "B-A-J-A",
            "don't stop",
        ] {
            assert_eq!(written(text), None, "{text:?}");
        }
    }

    #[test]
    fn keyword_counts_in_every_message_with_own_words() {
        let choice = json!({ "id": "b1", "title": "BAJA." });
        let reply = |json| InboundContent::Interactive(serde_json::from_value(json).unwrap());
        let media = |caption: &str| -> InboundMedia {
            serde_json::from_value(json!({ "id": "1", "caption": caption })).unwrap()
        };
        let vote = |options: &[&str]| PollVote {
            poll_message_id: "P".to_owned(),
            options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
        };
        let text = |text: &str| InboundContent::Text(text.to_owned());
        for content in [
            InboundContent::Button(ButtonReply { payload: "p".to_owned(), text: "baja!".to_owned() }),
            reply(json!({ "type": "button_reply", "button_reply": choice })),
            reply(json!({ "type": "list_reply", "list_reply": choice })),
            InboundContent::Media(InboundMediaKind::Image, media("STOP 🙏")),
            InboundContent::Edit { original: "A".to_owned(), now: Box::new(text("stop")) },
            InboundContent::PollVote(vote(&["BAJA"])),
        ] {
            assert_eq!(consent(content.clone()), Some(Consent::OptOut), "{content:?}");
        }
        for content in [
            InboundContent::PollVote(vote(&["BAJA", "ALTA"])),
            InboundContent::Revoke { original: "stop".to_owned() },
            reply(json!({ "type": "button_reply", "button_reply": { "id": "BAJA", "title": "Sí" } })),
        ] {
            assert_eq!(consent(content.clone()), None, "{content:?}");
        }
        let in_group = InboundMessage { chat: Chat::Group("1@g.us".to_owned()), ..message(text("stop")) };
        assert_eq!(Keywords::new(&Options::default()).consent_of(&in_group), None);
    }

    #[test]
    fn configured_keyword_of_several_words_counts_as_a_whole() {
        let options = Options {
            opt_out_keywords: vec![
                "No más".to_owned(),
                " ".to_owned(),
                "СТОП".to_owned(),
                "İPTAL".to_owned(),
            ],
            opt_in_keywords: Vec::new(),
        };
        let keywords = Keywords::new(&options);
        assert_eq!(keywords.opt_out.len(), 3);
        let consent = |text: &str| keywords.consent_of(&message(InboundContent::Text(text.to_owned())));
        for text in ["no mas", "¡NO, MÁS!", "стоп.", "iptal", "IPTAL"] {
            assert_eq!(consent(text), Some(Consent::OptOut), "{text}");
        }
        assert_eq!(consent("no"), None);
        assert_eq!(consent("mas no"), None);
    }

    proptest! {
        #[test]
        fn decorated_keyword_always_counts(
            before in "[ \\t\\n.,;:!?¡¿*_~`\"'«»()\\[\\]{}…🙏🛑❤️\u{200b}\u{200e}\u{feff}\u{2060}-]{0,12}",
            after in "[ \\t\\n.,;:!?¡¿*_~`\"'«»()\\[\\]{}…🙏👍🏽❤️\u{200b}\u{200f}\u{ad}-]{0,12}",
            word in "(STOP|stop|Baja|BÁJA|ｓｔｏｐ)",
        ) {
            prop_assert_eq!(written(&format!("{before}{word}{after}")), Some(Consent::OptOut));
        }

        #[test]
        fn keyword_beside_another_word_never_counts(
            word in "[a-zñ]{2,8}",
            gap in "[ ,.]{1,3}",
        ) {
            prop_assume!(!["stop", "baja"].contains(&word.as_str()));
            prop_assert_eq!(written(&format!("stop{gap}{word}")), None);
            prop_assert_eq!(written(&format!("{word}{gap}baja")), None);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,64}") {
            let _ = written(&text);
        }
    }
}
