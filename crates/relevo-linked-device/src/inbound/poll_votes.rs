//! Decryption of votes with the secret of their poll.

use whatsapp_rust::types::message::MessageInfo;
use whatsapp_rust::wacore::poll::{PollVoteCiphertext, compute_option_hash, decrypt_poll_vote_with_secret};
use whatsapp_rust::waproto::whatsapp as wa;

use crate::lid_mapping::LidMapping;
use crate::message_cache::CachedPoll;

/// The selected options of a vote. `None` when the poll is not cached or the vote cannot be decrypted with its secret.
///
/// The poll's author and the voter have two JIDs each, and the vote was encrypted under one of each.
pub(super) fn decrypt_vote(
    info: &MessageInfo,
    update: &wa::message::PollUpdateMessage,
    names: &LidMapping,
    poll: impl Fn(&str) -> Option<CachedPoll>,
) -> Option<Vec<String>> {
    let id = update.poll_creation_message_key.as_option()?.id.as_deref()?;
    let vote = update.vote.as_option()?;
    let ciphertext =
        PollVoteCiphertext { enc_payload: vote.enc_payload.as_deref()?, enc_iv: vote.enc_iv.as_deref()? };
    let CachedPoll { secret, options, authors } = poll(id)?;
    let sender = &info.source.sender;
    let voters = [Some(sender), names.alternate(sender, info.source.sender_alt.as_ref())];
    let voters: Vec<_> = voters.into_iter().flatten().map(|jid| jid.to_non_ad_string()).collect();
    let mut pairs = authors.iter().flat_map(|author| voters.iter().map(move |voter| (author, voter)));
    let hashes = pairs.find_map(|(author, voter)| {
        decrypt_poll_vote_with_secret(ciphertext, &secret, id, author, voter).ok()
    })?;
    let is_selected = |option: &String| hashes.iter().any(|hash| *hash == compute_option_hash(option));
    Some(options.into_iter().filter(is_selected).collect())
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

    fn vote(author: &str, voter: &str, selected: &[&str]) -> wa::message::PollUpdateMessage {
        let hashes: Vec<_> = selected.iter().map(|option| compute_option_hash(option).to_vec()).collect();
        let (payload, iv) = encrypt_poll_vote_with_secret(&hashes, &[7; 32], "POLL", author, voter).unwrap();
        let key = wa::MessageKey { id: Some("POLL".to_owned()), ..Default::default() };
        let vote = wa::message::PollEncValue { enc_payload: Some(payload), enc_iv: Some(iv.to_vec()) };
        wa::message::PollUpdateMessage {
            poll_creation_message_key: MessageField::some(key),
            vote: MessageField::some(vote),
            ..Default::default()
        }
    }

    fn known_poll(id: &str) -> Option<CachedPoll> {
        (id == "POLL").then(|| CachedPoll {
            secret: vec![7; 32],
            options: ["sí", "no", "quizás"].map(str::to_owned).to_vec(),
            authors: vec![AUTHOR.to_owned(), HIDDEN_AUTHOR.to_owned()],
        })
    }

    fn decrypt(
        vote: &wa::message::PollUpdateMessage,
        poll: impl Fn(&str) -> Option<CachedPoll>,
    ) -> Option<Vec<String>> {
        decrypt_vote(&info(), vote, &LidMapping::default(), poll)
    }

    #[test]
    fn vote_is_decrypted_under_any_alias() {
        for author in [AUTHOR, HIDDEN_AUTHOR] {
            for voter in ["573001234567@s.whatsapp.net", "11111@lid"] {
                let selected = decrypt(&vote(author, voter, &["no", "quizás"]), known_poll);
                assert_eq!(selected, Some(vec!["no".to_owned(), "quizás".to_owned()]), "{author} {voter}");
            }
        }
        assert_eq!(decrypt(&vote(AUTHOR, "11111@lid", &[]), known_poll), Some(Vec::new()), "withdrawn");
    }

    #[test]
    fn vote_of_another_voter_or_unknown_poll_is_not_decrypted() {
        assert_eq!(decrypt(&vote(AUTHOR, "22222@lid", &["no"]), known_poll), None);
        assert_eq!(decrypt(&vote(AUTHOR, "11111@lid", &["no"]), |_| None), None);
    }
}
