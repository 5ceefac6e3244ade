//! A receipt as a provider reports it.

use super::{Failure, MessageId, ProviderMessageId, Receipt, Recipient, Timestamp};

/// Meta's error code for "the user opted out of marketing messages from this business".
const OPTED_OUT: i64 = 131_050;

/// A receipt about a message that was sent, as a provider reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusUpdate {
    /// WhatsApp's id of the message.
    pub provider_id: ProviderMessageId,
    /// The id of this node, if the provider returned it. Meta does not promise it in failures.
    pub our_id: Option<MessageId>,
    /// What is reported.
    pub receipt: Receipt,
    /// When it happened, to the second.
    pub at: Timestamp,
    /// The recipient's number, or another of their ids if the number is hidden.
    pub recipient: Option<String>,
    /// The group member that the receipt is about.
    pub participant: Option<String>,
    /// The cause, if the receipt is [`Receipt::Failed`].
    pub failure: Option<Failure>,
}

impl StatusUpdate {
    /// The recipient who opted out, if the receipt says that.
    pub fn opted_out_recipient(&self) -> Option<Recipient> {
        let failure = self.failure.as_ref()?;
        if failure.code != Some(OPTED_OUT) {
            return None;
        }
        self.participant.as_ref().or(self.recipient.as_ref())?.parse().ok()
    }
}
