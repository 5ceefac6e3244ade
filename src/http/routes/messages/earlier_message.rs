//! A message that was sent before, as the requests to edit and to revoke it name it.

use super::envelope::{self, SendEnvelope};
use super::submit::{self, MessageDraft, parse_message_ref, required_text};
use crate::http::AppState;
use crate::http::error::ApiError;
use relevo_domain::{Content, InstanceId, MessageRef, Recipient, ValidationError};

/// An earlier message of an instance.
pub(super) struct EarlierMessage {
    to: Recipient,
    message: MessageRef,
}

impl EarlierMessage {
    /// The message `message_id` to this recipient.
    ///
    /// # Errors
    ///
    /// The id is missing or invalid.
    pub fn parse(to: Recipient, message_id: String) -> Result<Self, ValidationError> {
        let message = parse_message_ref("message_id", &required_text("message_id", message_id)?)?;
        Ok(Self { to, message })
    }

    /// The message that changes it: `change` with WhatsApp's id of it.
    ///
    /// # Errors
    ///
    /// The message does not exist or was not sent yet.
    pub fn draft_change(
        self,
        state: &AppState,
        instance: &InstanceId,
        change: impl FnOnce(String) -> Content,
    ) -> Result<MessageDraft, ApiError> {
        let id = submit::resolve_provider_id(state, instance, "message_id", self.message)?;
        let content = change(id.as_str().to_owned());
        Ok(envelope::draft(SendEnvelope::to(self.to), content)?)
    }
}
