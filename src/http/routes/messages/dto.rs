//! A message as the routes about accepted messages show it.

use serde::Serialize;
use utoipa::ToSchema;

use crate::queue::{LedgerStep, MessageView};
use relevo_domain::Failure;

/// The status of a message.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageResponse {
    pub(super) success: bool,
    pub(super) data: MessageBody,
}

/// A message with its history.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageBody {
    #[schema(example = "msg_019ab2f05f6b800080000040000a1b2c")]
    message_id: String,
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    correlation_id: String,
    /// WhatsApp's id, once WhatsApp accepted the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_message_id: Option<String>,
    #[schema(example = "573001234567")]
    to: String,
    #[serde(rename = "type")]
    #[schema(example = "text")]
    kind: String,
    /// States of the node: `scheduled`, `queued`, `sending`, `ambiguous`, `deferred`, `failed`, `expired`,
    /// `cancelled`, `dead_letter`. States reported by WhatsApp: `sent`, `delivered`, `read`, `played`.
    #[schema(example = "delivered")]
    status: &'static str,
    /// Attempts so far, including the current one.
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<MessageError>,
    /// Why it is a dead letter: `permanent`, `exhausted` or `ambiguous`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// When the node continues with the message. RFC 3339, like all times in this response.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    created_at: String,
    /// The history since acceptance, oldest first.
    history: Vec<HistoryStep>,
    /// Number of steps omitted from the middle of a long history.
    #[serde(skip_serializing_if = "is_zero")]
    history_elided: u32,
}

/// The last failure, unless a later step succeeded.
#[derive(Debug, Serialize, ToSchema)]
struct MessageError {
    /// WhatsApp's error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    message: String,
    /// `transient`, `throttled`, `deferred`, `permanent`, `ambiguous`, `logged_out` or `account_blocked`.
    kind: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct HistoryStep {
    status: &'static str,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl From<MessageView> for MessageBody {
    fn from(view: MessageView) -> Self {
        Self {
            message_id: view.id.to_string(),
            correlation_id: view.id.correlation_id().to_string(),
            provider_message_id: view.provider_id.map(|id| id.as_str().to_owned()),
            to: view.to.to_string(),
            kind: view.kind,
            status: view.status.as_str(),
            attempts: view.attempts,
            error: view.failure.map(MessageError::from),
            reason: view.buried.map(|reason| reason.as_str()),
            next_attempt_at: view.due.map(|due| due.to_string()),
            created_at: view.id.accepted_at().to_string(),
            history: view.history.into_iter().map(HistoryStep::from).collect(),
            history_elided: view.elided,
        }
    }
}

impl From<Failure> for MessageError {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, message: failure.message, kind: failure.kind.as_str() }
    }
}

impl From<LedgerStep> for HistoryStep {
    fn from(step: LedgerStep) -> Self {
        Self { status: step.status.as_str(), at: step.at.to_string(), code: step.code, detail: step.text }
    }
}
