//! Statuses: Meta's reports about messages that were sent.

use serde::Deserialize;
use serde_json::Value;

use crate::errors::GraphError;
use relevo_domain::{Failure, Receipt, StatusUpdate, ValidationError};

use super::{ReceivedStatus, text, timestamp};

/// Parses a status. `None` for a status of an unknown kind.
pub(super) fn parse_status(
    phone_number_id: Option<&str>,
    status: &Value,
) -> Result<Option<ReceivedStatus>, String> {
    let field = |name: &str| status.get(name).and_then(text);
    let required = |name: &str| field(name).ok_or_else(|| format!("has no {name}"));
    let Some(receipt) = parse_receipt(&required("status")?) else { return Ok(None) };
    let provider_id = required("id")?.parse().map_err(|invalid: ValidationError| invalid.to_string())?;
    let phone_number_id = phone_number_id.ok_or("the change names no phone_number_id")?.to_owned();
    let status = StatusUpdate {
        provider_id,
        our_id: field("biz_opaque_callback_data").and_then(|id| id.parse().ok()),
        receipt,
        at: status.get("timestamp").and_then(timestamp).ok_or("has no timestamp")?,
        recipient: field("recipient_id")
            .or_else(|| field("recipient_user_id"))
            .or_else(|| field("recipient_parent_user_id")),
        participant: field("recipient_participant_id"),
        failure: (receipt == Receipt::Failed).then(|| parse_failure(status)),
    };
    Ok(Some(ReceivedStatus { phone_number_id, status }))
}

fn parse_receipt(status: &str) -> Option<Receipt> {
    match status {
        "sent" => Some(Receipt::Sent),
        "delivered" => Some(Receipt::Delivered),
        "read" => Some(Receipt::Read),
        "played" => Some(Receipt::Played),
        "failed" => Some(Receipt::Failed),
        _ => None,
    }
}

/// The failure of the first readable error. The same table classifies the errors of requests.
fn parse_failure(status: &Value) -> Failure {
    let mut errors = status.get("errors").and_then(Value::as_array).into_iter().flatten();
    match errors.find_map(|error| GraphError::deserialize(error).ok()) {
        Some(error) => error.to_failure(None),
        None => Failure::permanent("WhatsApp reported a failure without a reason"),
    }
}
