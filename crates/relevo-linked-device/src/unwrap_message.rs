//! Removal of wrappers: disappearing messages, view-once messages and messages from other devices contain the actual
//! message.

use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::waproto::whatsapp as wa;

/// Maximum number of wrappers that are removed; WhatsApp uses three at most.
const MAX_DEPTH: usize = 8;

/// The message inside all its wrappers.
pub(super) fn unwrap_message(message: &wa::Message) -> &wa::Message {
    let mut inner = message;
    for _ in 0..MAX_DEPTH {
        match inner_message(inner) {
            Some(next) => inner = next,
            None => break,
        }
    }
    inner
}

fn inner_message(message: &wa::Message) -> Option<&wa::Message> {
    let sent = message.device_sent_message.as_option().and_then(|sent| sent.message.as_option());
    sent.or_else(|| {
        [
            &message.ephemeral_message,
            &message.view_once_message,
            &message.view_once_message_v2,
            &message.view_once_message_v2_extension,
            &message.document_with_caption_message,
            &message.edited_message,
            &message.group_mentioned_message,
            &message.bot_invoke_message,
            &message.bot_forwarded_message,
            &message.associated_child_message,
            &message.lottie_sticker_message,
            &message.poll_creation_message_v4,
            &message.poll_creation_option_image_message,
            &message.question_message,
            &message.question_reply_message,
            &message.spoiler_message,
        ]
        .into_iter()
        .find_map(future_proof_message)
    })
}

fn future_proof_message(wrapper: &MessageField<wa::message::FutureProofMessage>) -> Option<&wa::Message> {
    wrapper.as_option()?.message.as_option()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(message: wa::Message) -> MessageField<wa::message::FutureProofMessage> {
        let message = MessageField::some(message);
        MessageField::some(wa::message::FutureProofMessage { message })
    }

    #[test]
    fn wrappers_are_removed_in_any_order() {
        let text = wa::Message { conversation: Some("hola".to_owned()), ..Default::default() };
        let once = wa::Message { view_once_message_v2: wrap(text), ..Default::default() };
        let gone = wa::Message { ephemeral_message: wrap(once), ..Default::default() };
        let sent = wa::message::DeviceSentMessage { message: MessageField::some(gone), ..Default::default() };
        let message = wa::Message { device_sent_message: MessageField::some(sent), ..Default::default() };
        assert_eq!(unwrap_message(&message).conversation.as_deref(), Some("hola"));
    }

    #[test]
    fn unwrapping_stops_at_max_depth() {
        let mut message = wa::Message { conversation: Some("hola".to_owned()), ..Default::default() };
        for _ in 0..100 {
            message = wa::Message { ephemeral_message: wrap(message), ..Default::default() };
        }
        assert!(unwrap_message(&message).conversation.is_none());
    }
}
