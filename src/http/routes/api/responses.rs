//! The success responses of `/api`, and the counts of bulk messages.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::phone_warnings::PhoneWarning;
use relevo_domain::{MessageId, ProviderMessageId, Recipient};

/// A message was sent, or is queued.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct SendMessageResponse {
    success: bool,
    #[schema(example = "Mensaje enviado exitosamente")]
    message: &'static str,
    /// For a sent message: WhatsApp's response.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<GraphSendResponse>,
    /// For a queued message: see `/api/task-status/{task_id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "019ab2f0-5f6b-8000-8000-0040000a1b2c")]
    task_id: Option<String>,
    /// The numbers that do not fit the numbering plan of their country; the first 100 of many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<PhoneWarning>,
    /// For a queued message: what it waits for, if its instance cannot send now.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
}

impl SendMessageResponse {
    /// The response to a sent message.
    pub fn sent(message: &'static str, data: GraphSendResponse) -> Self {
        Self {
            success: true,
            message,
            data: Some(data),
            task_id: None,
            warnings: Vec::new(),
            waits_for: None,
        }
    }

    /// The response to a queued message.
    pub fn queued(message: &'static str, id: MessageId, waits_for: Option<String>) -> Self {
        let task_id = Some(id.correlation_id().to_string());
        Self { success: true, message, data: None, task_id, warnings: Vec::new(), waits_for }
    }

    /// A bulk request is queued.
    pub fn queued_job(message: &'static str, id: Uuid, waits_for: Option<String>) -> Self {
        let task_id = Some(id.to_string());
        Self { success: true, message, data: None, task_id, warnings: Vec::new(), waits_for }
    }

    /// The same with warnings about numbers.
    pub fn with_warnings(mut self, warnings: impl IntoIterator<Item = PhoneWarning>) -> Self {
        self.warnings.extend(warnings);
        self
    }
}

/// A bulk request was sent.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct BulkSendResponse {
    /// Whether any message was sent.
    success: bool,
    #[schema(example = "Mensaje broadcast procesado")]
    message: &'static str,
    result: TaskCounts,
    /// The same as `result.sent`, where clients read it.
    sent_count: u64,
    task_id: String,
    /// The numbers that do not fit the numbering plan of their country; the first 100 of many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<PhoneWarning>,
}

impl BulkSendResponse {
    pub fn new(message: &'static str, id: Uuid, result: TaskCounts, warnings: Vec<PhoneWarning>) -> Self {
        let (sent_count, task_id) = (result.sent, id.to_string());
        Self { success: sent_count > 0, message, result, sent_count, task_id, warnings }
    }
}

/// The response of the Graph API to an accepted message.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct GraphSendResponse {
    #[schema(example = "whatsapp")]
    messaging_product: &'static str,
    contacts: [GraphContact; 1],
    messages: [GraphMessageId; 1],
}

#[derive(Debug, Serialize, ToSchema)]
struct GraphContact {
    /// The number as given.
    #[schema(example = "573123456789")]
    input: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "573123456789")]
    wa_id: Option<String>,
    /// Instead of `wa_id`, for people known by user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct GraphMessageId {
    #[schema(example = "wamid.HBgMNTczMDAxMjM0NTY3FQIAERgS")]
    id: String,
}

impl GraphSendResponse {
    /// `input` is the recipient as given.
    pub fn new(input: String, to: &Recipient, message: &ProviderMessageId) -> Self {
        let (wa_id, user_id) = match to {
            Recipient::User(user) => (None, Some(user.as_str().to_owned())),
            Recipient::Phone(_) | Recipient::Jid(_) => (Some(to.to_string()), None),
        };
        Self {
            messaging_product: "whatsapp",
            contacts: [GraphContact { input, wa_id, user_id }],
            messages: [GraphMessageId { id: message.as_str().to_owned() }],
        }
    }
}

/// The counts of a task. The documents disagree about the names, so both are present.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
pub(in crate::http) struct TaskCounts {
    pub total: u64,
    /// The same as `sent`.
    pub successful: u64,
    pub sent: u64,
    pub failed: u64,
    /// A text for each failed message in the order of the request, up to 1,000.
    #[schema(example = json!(["Error para 573001234567: Message undeliverable (131026)"]))]
    pub errors: Vec<String>,
    /// `true` if more messages failed than `errors` has; `/jobs/{task_id}/errors` lists all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors_truncated: Option<bool>,
}

impl TaskCounts {
    /// The counts of one sent message.
    pub fn one_sent() -> Self {
        Self { total: 1, successful: 1, sent: 1, ..Self::default() }
    }

    /// The counts of one failed message.
    pub fn one_failed(error: String) -> Self {
        Self { total: 1, failed: 1, errors: vec![error], ..Self::default() }
    }
}

/// A text of [`TaskCounts::errors`].
pub(super) fn recipient_error(to: &Recipient, cause: &dyn std::fmt::Display) -> String {
    format!("Error para {to}: {cause}")
}
