//! Votes: encrypted for whoever has the poll.

use whatsapp_rust::types::message::MessageInfo;
use whatsapp_rust::wacore::poll::{PollVoteCiphertext, compute_option_hash, decrypt_poll_vote_with_secret};
use whatsapp_rust::waproto::whatsapp as wa;

use crate::index::PollNote;
use crate::names::Names;

/// The answers that were ticked. `None` when the poll is not known, or the vote is not for it.
///
/// Both the poll's author and the voter have two names, and the vote was encrypted under one of each.
pub(super) fn open(
    info: &MessageInfo,
    update: &wa::message::PollUpdateMessage,
    names: &Names,
    poll: impl Fn(&str) -> Option<PollNote>,
) -> Option<Vec<String>> {
    let id = update.poll_creation_message_key.as_option()?.id.as_deref()?;
    let vote = update.vote.as_option()?;
    let sealed =
        PollVoteCiphertext { enc_payload: vote.enc_payload.as_deref()?, enc_iv: vote.enc_iv.as_deref()? };
    let PollNote { secret, options, authors } = poll(id)?;
    let sender = &info.source.sender;
    let voters = [Some(sender), names.other(sender, info.source.sender_alt.as_ref())];
    let voters: Vec<_> = voters.into_iter().flatten().map(|jid| jid.to_non_ad_string()).collect();
    let mut pairs = authors.iter().flat_map(|author| voters.iter().map(move |voter| (author, voter)));
    let ticked = pairs
        .find_map(|(author, voter)| decrypt_poll_vote_with_secret(sealed, &secret, id, author, voter).ok())?;
    let is_ticked = |option: &String| ticked.iter().any(|hash| *hash == compute_option_hash(option));
    Some(options.into_iter().filter(|option| is_ticked(option)).collect())
}

#[cfg(test)]
mod tests {
    use whatsapp_rust::buffa::MessageField;
    use whatsapp_rust::wacore::poll::encrypt_poll_vote_with_secret;

    use super::*;

    const AUTHOR: &str = "573009999999@s.whatsapp.net";
    const HIDDEN_AUTHOR: &str = "99999@lid";

    fn info() -> MessageInfo {
        let mut info = MessageInfo::default();
        info.source.sender = "573001234567:3@s.whatsapp.net".parse().unwrap();
        info.source.sender_alt = Some("11111@lid".parse().unwrap());
        info
    }

    fn vote(author: &str, voter: &str, ticked: &[&str]) -> wa::message::PollUpdateMessage {
        let hashes: Vec<_> = ticked.iter().map(|option| compute_option_hash(option).to_vec()).collect();
        let (sealed, iv) = encrypt_poll_vote_with_secret(&hashes, &[7; 32], "POLL", author, voter).unwrap();
        let key = wa::MessageKey { id: Some("POLL".to_owned()), ..Default::default() };
        let vote = wa::message::PollEncValue { enc_payload: Some(sealed), enc_iv: Some(iv.to_vec()) };
        wa::message::PollUpdateMessage {
            poll_creation_message_key: MessageField::some(key),
            vote: MessageField::some(vote),
            ..Default::default()
        }
    }

    fn known(id: &str) -> Option<PollNote> {
        (id == "POLL").then(|| PollNote {
            secret: vec![7; 32],
            options: ["sí", "no", "quizás"].map(str::to_owned).to_vec(),
            authors: vec![AUTHOR.to_owned(), HIDDEN_AUTHOR.to_owned()],
        })
    }

    fn opened(
        vote: &wa::message::PollUpdateMessage,
        poll: impl Fn(&str) -> Option<PollNote>,
    ) -> Option<Vec<String>> {
        open(&info(), vote, &Names::default(), poll)
    }

    #[test]
    fn a_vote_is_opened_under_whichever_names_it_was_sealed() {
        for author in [AUTHOR, HIDDEN_AUTHOR] {
            for voter in ["573001234567@s.whatsapp.net", "11111@lid"] {
                let ticked = opened(&vote(author, voter, &["no", "quizás"]), known);
                assert_eq!(ticked, Some(vec!["no".to_owned(), "quizás".to_owned()]), "{author} {voter}");
            }
        }
        assert_eq!(opened(&vote(AUTHOR, "11111@lid", &[]), known), Some(Vec::new()), "taken back");
    }

    #[test]
    fn nobody_votes_for_others_or_in_unknown_polls() {
        assert_eq!(opened(&vote(AUTHOR, "22222@lid", &["no"]), known), None);
        assert_eq!(opened(&vote(AUTHOR, "11111@lid", &["no"]), |_| None), None);
    }
}
