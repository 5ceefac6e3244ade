use super::{Failure, MessageId, ProviderMessageId, Receipt, Recipient, Timestamp};

/// Meta's code for "the user wants no marketing messages from this business".
const OPTED_OUT: i64 = 131_050;

/// A fact about a message that was sent, as a provider reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusUpdate {
    pub provider_id: ProviderMessageId,
    /// Our id, where the provider knows it. Meta does not promise it in failures.
    pub our_id: Option<MessageId>,
    pub receipt: Receipt,
    /// When it happened, to the second.
    pub at: Timestamp,
    /// The recipient's number, or another name of theirs where the number is hidden.
    pub recipient: Option<String>,
    /// Who of a group it is about.
    pub participant: Option<String>,
    /// Why, when the receipt is a failure.
    pub failure: Option<Failure>,
}

impl StatusUpdate {
    /// Who does not want to be written to, when that is what the status says.
    pub fn opted_out_recipient(&self) -> Option<Recipient> {
        let code = self.failure.as_ref().and_then(|failure| failure.code);
        let who = self.participant.as_ref().or(self.recipient.as_ref());
        who.filter(|_| code == Some(OPTED_OUT))?.parse().ok()
    }
}
