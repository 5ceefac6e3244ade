//! Webhook bodies in Meta's format.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::errors;
use crate::state::SandboxState;
use crate::status_schedule::StatusKind;
use crate::validate::Addressee;
use crate::webhooks::TrackedMessage;
use relevo_domain::Timestamp;

#[derive(Serialize)]
struct WebhookBody<'a, V> {
    object: &'static str,
    entry: [WebhookEntry<'a, V>; 1],
}

#[derive(Serialize)]
struct WebhookEntry<'a, V> {
    id: &'a str,
    changes: Vec<WebhookChange<'a, V>>,
}

#[derive(Serialize)]
struct WebhookChange<'a, V> {
    value: V,
    field: &'a str,
}

#[derive(Serialize)]
struct StatusValue<'a> {
    messaging_product: &'static str,
    metadata: PhoneNumberMetadata<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contacts: Vec<WebhookContact<'a>>,
    statuses: Vec<WebhookStatus<'a>>,
}

#[derive(Serialize)]
struct PhoneNumberMetadata<'a> {
    display_phone_number: &'a str,
    phone_number_id: &'a str,
}

#[derive(Serialize)]
struct WebhookContact<'a> {
    profile: ContactProfile<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wa_id: Option<&'a str>,
    user_id: String,
}

#[derive(Serialize)]
struct ContactProfile<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct WebhookStatus<'a> {
    id: &'a str,
    status: &'static str,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    biz_opaque_callback_data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pricing: Option<Pricing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[StatusError<'a>; 1]>,
}

#[derive(Serialize)]
struct Pricing {
    billable: bool,
    pricing_model: &'static str,
    r#type: &'static str,
    category: &'static str,
}

#[derive(Serialize)]
struct StatusError<'a> {
    code: u32,
    title: &'a str,
    message: &'a str,
    error_data: StatusErrorData<'a>,
    href: &'static str,
}

#[derive(Serialize)]
struct StatusErrorData<'a> {
    details: &'a str,
}

/// One webhook with all these statuses. Adjacent statuses of the same number share a change. `contacts` has as many
/// elements as `statuses`, in the same order; a change with failures has none.
///
/// # Errors
/// The body cannot be serialised.
pub fn statuses_body(
    shared: &SandboxState,
    updates: &[(StatusKind, Arc<TrackedMessage>)],
    now: Timestamp,
) -> serde_json::Result<Vec<u8>> {
    let same_change = |a: &(StatusKind, Arc<TrackedMessage>), b: &(StatusKind, Arc<TrackedMessage>)| {
        a.1.phone_number_id == b.1.phone_number_id
            && (a.0 == StatusKind::Failed) == (b.0 == StatusKind::Failed)
    };
    let changes = updates.chunk_by(same_change).filter_map(|run| {
        let (_, first) = run.first()?;
        let value = StatusValue {
            messaging_product: "whatsapp",
            metadata: PhoneNumberMetadata {
                display_phone_number: &shared.options.display_phone_number,
                phone_number_id: &first.phone_number_id,
            },
            contacts: run.iter().filter_map(|(stage, message)| contact(*stage, message)).collect(),
            statuses: run.iter().map(|(stage, message)| status(*stage, message, now)).collect(),
        };
        Some(WebhookChange { value, field: "messages" })
    });
    serialize_body(shared, changes.collect())
}

/// One webhook with this value, under the given field.
///
/// # Errors
/// The body cannot be serialised.
pub fn change_body(shared: &SandboxState, field: &str, value: &Value) -> serde_json::Result<Vec<u8>> {
    serialize_body(shared, vec![WebhookChange { value, field }])
}

fn serialize_body<V: Serialize>(
    shared: &SandboxState,
    changes: Vec<WebhookChange<'_, V>>,
) -> serde_json::Result<Vec<u8>> {
    let entry = WebhookEntry { id: &shared.options.waba_id, changes };
    serde_json::to_vec(&WebhookBody { object: "whatsapp_business_account", entry: [entry] })
}

/// The value of a webhook with a user's message.
pub fn inbound_value(
    shared: &SandboxState,
    phone_number_id: &str,
    name: &str,
    wa_id: &str,
    user_id: &str,
    message: Value,
) -> Value {
    json!({
        "messaging_product": "whatsapp",
        "metadata": {
            "display_phone_number": shared.options.display_phone_number,
            "phone_number_id": phone_number_id,
        },
        "contacts": [{ "profile": { "name": name }, "wa_id": wa_id, "user_id": user_id }],
        "messages": [message],
    })
}

fn contact(stage: StatusKind, message: &TrackedMessage) -> Option<WebhookContact<'_>> {
    if stage == StatusKind::Failed {
        return None;
    }
    let user_id = message.addressee.user_id()?;
    let wa_id = match &message.addressee {
        Addressee::Phone(wa_id) => Some(wa_id.as_str()),
        Addressee::User(_) | Addressee::Group(_) => None,
    };
    Some(WebhookContact { profile: ContactProfile { name: wa_id.unwrap_or("Sandbox user") }, wa_id, user_id })
}

fn status(stage: StatusKind, message: &TrackedMessage, now: Timestamp) -> WebhookStatus<'_> {
    let failed = stage == StatusKind::Failed;
    let recipient_user_id = match &message.addressee {
        // A failure contains the user id only when the message was addressed to it.
        Addressee::Phone(_) if failed => None,
        addressee => addressee.user_id(),
    };
    let (recipient_id, recipient_type) = match &message.addressee {
        Addressee::Phone(id) => (Some(id.as_str()), None),
        Addressee::User(_) => (None, None),
        Addressee::Group(id) => (Some(id.as_str()), Some("group")),
    };
    WebhookStatus {
        id: &message.wamid,
        status: match stage {
            StatusKind::Sent => "sent",
            StatusKind::Delivered => "delivered",
            StatusKind::Read => "read",
            StatusKind::Failed => "failed",
        },
        timestamp: now.seconds().to_string(),
        recipient_id,
        recipient_user_id,
        recipient_type,
        // Documented for sent, delivered and read only; the sandbox omits it for failed.
        biz_opaque_callback_data: message.callback_data.as_deref().filter(|_| !failed),
        pricing: matches!(stage, StatusKind::Sent | StatusKind::Delivered).then(|| pricing(message)),
        errors: failed.then(|| [status_error(message)]),
    }
}

fn pricing(message: &TrackedMessage) -> Pricing {
    let (billable, r#type, category) = if message.is_template {
        (true, "regular", "utility")
    } else {
        (false, "free_customer_service", "service")
    };
    Pricing { billable, pricing_model: "PMP", r#type, category }
}

fn status_error(message: &TrackedMessage) -> StatusError<'_> {
    let failure = message.failure.as_ref();
    let code = failure.map_or(131_000, |failure| failure.code);
    let title = failure.and_then(|failure| failure.title.as_deref()).unwrap_or(errors::title(code));
    let details = failure.and_then(|failure| failure.details.as_deref()).unwrap_or(title);
    StatusError {
        code,
        title,
        message: title,
        error_data: StatusErrorData { details },
        href: "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
    }
}
