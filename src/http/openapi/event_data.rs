//! The `data` of the events that this node defines. The other kinds pass on what WhatsApp reports, in its form.
#![expect(dead_code, reason = "documents the bodies of deliveries only")]

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema, Type};

use relevo_domain::EventKind;

/// The schema of the `data` of a kind. Kinds without a schema of their own have an object with any fields.
pub(super) fn data_schema(kind: &EventKind) -> RefOr<Schema> {
    let name = match kind {
        EventKind::Message => MessageData::name(),
        EventKind::MessageAck => MessageAckData::name(),
        EventKind::Receipt => ReceiptData::name(),
        EventKind::Status => StatusData::name(),
        EventKind::Qr => QrData::name(),
        EventKind::Paired => PairedData::name(),
        EventKind::OptOut | EventKind::OptIn => ConsentData::name(),
        EventKind::JobStarted | EventKind::JobCompleted | EventKind::JobFailed => JobData::name(),
        EventKind::WebhookDisabled => WebhookDisabledData::name(),
        EventKind::Gap => GapData::name(),
        _ => {
            let any = ObjectBuilder::new().schema_type(Type::Object);
            return any.description(Some("What WhatsApp reports.")).build().into();
        }
    };
    Ref::from_schema_name(name).into()
}

/// A received message, or one that the owner of the account sent from another device. Fields that do not apply are
/// missing.
#[derive(ToSchema)]
pub(super) struct MessageData {
    /// WhatsApp's id of the message.
    message_id: String,
    /// JID of the sender.
    #[schema(example = "573001234567@s.whatsapp.net")]
    from: String,
    /// JID of the chat.
    to: String,
    is_group: bool,
    /// `text`, `image`, `video`, `audio`, `document`, `sticker`, `location`, `contacts`, `interactive`, `button`,
    /// `order`, `reaction`, `poll`, `poll_vote`, `edit`, `revoke`, `system`, `unsupported`, or `unknown` for a type that
    /// this version does not know.
    #[schema(example = "text")]
    message_type: String,
    /// When it was sent, in Unix seconds.
    timestamp: u64,
    /// Whether the owner of the account sent it.
    is_from_me: bool,
    /// The text, the caption, the title of a chosen option, or a placeholder such as `[Imagen]`.
    text: Option<String>,
    caption: Option<String>,
    file_name: Option<String>,
    mime_type: Option<String>,
    /// The path of the file at this node.
    media_url: Option<String>,
    /// Degrees with six decimals.
    #[schema(example = "4.711000")]
    latitude: Option<String>,
    longitude: Option<String>,
    location_name: Option<String>,
    location_address: Option<String>,
    location_url: Option<String>,
    /// The name that the sender chose.
    sender_name: Option<String>,
    /// The number of the sender, if WhatsApp shows it.
    phone: Option<String>,
    /// WhatsApp's user id of the sender, or the hidden id (LID).
    user_id: Option<String>,
    /// The user id that all portfolios of a company share.
    parent_user_id: Option<String>,
    username: Option<String>,
    group_id: Option<String>,
    /// The file: WhatsApp's `id`, `mime_type` and properties.
    #[schema(value_type = Option<Object>)]
    media: Option<Value>,
    /// The chosen button or list row, or the answers of a form.
    #[schema(value_type = Option<Object>)]
    interactive: Option<Value>,
    /// The pressed button of a template.
    #[schema(value_type = Option<Object>)]
    button: Option<Value>,
    #[schema(value_type = Option<Object>)]
    order: Option<Value>,
    #[schema(value_type = Option<Object>)]
    reaction: Option<Value>,
    #[schema(value_type = Option<Object>)]
    poll: Option<Value>,
    #[schema(value_type = Option<Object>)]
    poll_vote: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    contacts: Option<Value>,
    /// The message that it answers, or how it was forwarded.
    #[schema(value_type = Option<Object>)]
    context: Option<Value>,
    /// The advertisement from which the user came.
    #[schema(value_type = Option<Object>)]
    referral: Option<Value>,
    edit: Option<EditData>,
    revoke: Option<RevokeData>,
    /// A notice of WhatsApp, for example about a new number.
    #[schema(value_type = Option<Object>)]
    system: Option<Value>,
    #[schema(value_type = Option<Vec<Object>>)]
    errors: Option<Value>,
    /// The message in Meta's form, if its type is unknown.
    #[schema(value_type = Option<Object>)]
    raw: Option<Value>,
}

/// An edit; the other fields contain the new content.
#[derive(ToSchema)]
struct EditData {
    original_message_id: String,
    /// The type of the new content.
    message_type: String,
}

/// The sender deleted a message for everyone.
#[derive(ToSchema)]
struct RevokeData {
    original_message_id: String,
}

/// The outcome of a message.
#[derive(ToSchema)]
pub(super) struct MessageAckData {
    /// `sent` or `failed`.
    #[schema(example = "sent")]
    status: String,
    /// The `correlation_id` of the answer to the request.
    correlation_id: String,
    /// WhatsApp's id, if it was sent.
    message_id: Option<String>,
    /// The cause, if it failed. It begins with `ambiguous:` if the message may have been sent.
    error: Option<String>,
}

/// What WhatsApp reported about a message after it was sent.
#[derive(ToSchema)]
pub(super) struct ReceiptData {
    /// WhatsApp's id of the message.
    message_id: String,
    /// The same in a list.
    ids: Vec<String>,
    /// The recipient.
    from: String,
    /// `sent`, `delivered`, `read`, `played` or `failed`.
    #[schema(example = "read")]
    status: String,
    /// The same in the form of earlier gateways: empty means `delivered`.
    r#type: String,
    /// When it happened, in Unix seconds.
    timestamp: u64,
    /// This node's id of the message, if it sent the message.
    #[schema(example = "msg_01a227aa45fc800080000201b65c2ca4")]
    id: Option<String>,
    correlation_id: Option<String>,
    /// The member of the group who received or read it.
    participant: Option<String>,
    error: Option<ReceiptError>,
}

/// Why a message failed.
#[derive(ToSchema)]
struct ReceiptError {
    /// WhatsApp's code.
    #[schema(required = true)]
    code: Option<i64>,
    message: String,
}

/// The new state of an instance.
#[derive(ToSchema)]
pub(super) struct StatusData {
    /// `connected`, `disconnected` or `logged_out`.
    #[schema(example = "disconnected")]
    status: String,
    /// The exact state, as `GET /instances/{id}` shows it.
    #[schema(example = "paused")]
    state: String,
    /// The code of the reason.
    #[schema(example = "auth_rejected")]
    reason: String,
    /// What happened and what to do.
    detail: String,
    /// Seconds until the client tries to connect again.
    retry_in: Option<f64>,
}

/// A QR code to scan with the phone.
#[derive(ToSchema)]
pub(super) struct QrData {
    /// The text of the code.
    qr: String,
    /// RFC 3339.
    expires_at: String,
    /// Seconds from the event on.
    expires_in: u64,
}

/// The account that linked the device.
#[derive(ToSchema)]
pub(super) struct PairedData {
    #[schema(example = "573001234567:12@s.whatsapp.net")]
    jid: String,
    #[schema(required = true)]
    lid: Option<String>,
    #[schema(required = true)]
    phone: Option<String>,
    /// The display name of the account.
    #[schema(required = true)]
    name: Option<String>,
}

/// A user who opted out or in, by each name that WhatsApp reports.
#[derive(ToSchema)]
pub(super) struct ConsentData {
    /// `keyword`, `preference` or `opted_out` (an error of WhatsApp).
    #[schema(example = "keyword")]
    why: String,
    phone: Option<String>,
    user_id: Option<String>,
    parent_user_id: Option<String>,
    jid: Option<String>,
    /// The former names of a user who changed the number or an id, and stays on the list under the new ones.
    previous: Option<Vec<String>>,
}

/// The state of a bulk job.
#[derive(ToSchema)]
pub(super) struct JobData {
    job_id: String,
    /// `processing`, `completed`, `failed` or `cancelled`.
    #[schema(example = "completed")]
    status: String,
    results: JobCounts,
    /// Why the job failed.
    #[schema(required = true)]
    error: Option<String>,
}

/// Rows of a bulk job, by outcome.
#[derive(ToSchema)]
struct JobCounts {
    sent: u64,
    failed: u64,
    /// Rows that may have been sent.
    ambiguous: u64,
    skipped: u64,
    cancelled: u64,
    total: u64,
}

/// The endpoint that was disabled.
#[derive(ToSchema)]
pub(super) struct WebhookDisabledData {
    #[schema(example = "ep_30313233343536373839616263646566")]
    endpoint_id: String,
    /// The host of its URL.
    #[schema(required = true)]
    host: Option<String>,
    /// The error of the last attempt.
    reason: String,
    /// Time of the first failed attempt, in Unix seconds.
    failing_since: u64,
    /// Number of failed attempts.
    attempts: u32,
}

/// The events that retention deleted.
#[derive(ToSchema)]
pub(super) struct GapData {
    /// Sequence of the first one.
    from: u64,
    /// Sequence of the last one.
    to: u64,
    /// Their number.
    missing: u64,
}
