//! What Meta reports about messages that were sent.

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{Failure, Invalid, MessageId, ProviderMessageId, Receipt, Recipient, Timestamp};
use crate::provider::cloud_api::errors::GraphError;

use super::{moment, text};

/// Meta's code for "the user wants no marketing messages from this business".
const OPTED_OUT: i64 = 131_050;

/// A fact about a message that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusUpdate {
    /// The number that sent the message.
    pub phone_number_id: String,
    pub provider_id: ProviderMessageId,
    /// Our id, which travelled with the message. Meta does not promise it in failures.
    pub our_id: Option<MessageId>,
    pub receipt: Receipt,
    /// When it happened, to the second.
    pub at: Timestamp,
    /// The recipient's number, or Meta's user id where the number is hidden.
    pub recipient: Option<String>,
    /// Who of a group it is about.
    pub participant: Option<String>,
    /// Why, when the receipt is a failure.
    pub failure: Option<Failure>,
}

impl StatusUpdate {
    /// Who does not want to be written to, when that is what the status says.
    pub fn opted_out(&self) -> Option<Recipient> {
        let code = self.failure.as_ref().and_then(|failure| failure.code);
        let who = self.participant.as_ref().or(self.recipient.as_ref());
        who.filter(|_| code == Some(OPTED_OUT))?.parse().ok()
    }
}

/// `None` for a status that reports something other than the fate of a message.
pub(super) fn read(phone_number_id: Option<&str>, status: &Value) -> Result<Option<StatusUpdate>, String> {
    let field = |name: &str| status.get(name).and_then(text);
    let required = |name: &str| field(name).ok_or_else(|| format!("has no {name}"));
    let Some(receipt) = receipt_of(&required("status")?) else { return Ok(None) };
    let provider_id = required("id")?.parse().map_err(|invalid: Invalid| invalid.to_string())?;
    Ok(Some(StatusUpdate {
        phone_number_id: phone_number_id.ok_or("the change names no phone_number_id")?.to_owned(),
        provider_id,
        our_id: field("biz_opaque_callback_data").and_then(|id| id.parse().ok()),
        receipt,
        at: status.get("timestamp").and_then(moment).ok_or("has no timestamp")?,
        recipient: field("recipient_id").or_else(|| field("recipient_user_id")),
        participant: field("recipient_participant_id"),
        failure: (receipt == Receipt::Failed).then(|| failure_of(status)),
    }))
}

fn receipt_of(status: &str) -> Option<Receipt> {
    match status {
        "sent" => Some(Receipt::Sent),
        "delivered" => Some(Receipt::Delivered),
        "read" => Some(Receipt::Read),
        "played" => Some(Receipt::Played),
        "failed" => Some(Receipt::Failed),
        _ => None,
    }
}

/// The first error that can be read: the same table classifies it as classifies a refused request.
fn failure_of(status: &Value) -> Failure {
    let errors = status.get("errors").and_then(Value::as_array).into_iter().flatten();
    let known = errors.filter_map(|error| GraphError::deserialize(error).ok());
    let failure = known.map(|error| error.failure(None)).next();
    failure.unwrap_or_else(|| Failure::permanent("WhatsApp reported a failure without a reason"))
}
