//! Requests for one message.

use serde_json::Value;
use utoipa::{IntoResponses, ToSchema};

use crate::http::api::error::ApplicationErrorBody;
use crate::http::routes::api::responses::SendMessageResponse;

/// A text message.
#[derive(ToSchema)]
pub(in crate::http) struct SendMessage {
    #[schema(example = "573123456789")]
    phone: String,
    #[schema(example = "Hola, este es un mensaje de prueba")]
    message: String,
    /// The message that this one answers.
    context_message_id: Option<String>,
    /// Answer when it is queued, durably; the node delivers it, with retries.
    #[schema(default = false)]
    use_queue: Option<bool>,
    /// The instance, if it is neither in `X-Instance-Id` nor the node's default.
    instance_id: Option<String>,
}

/// A template.
#[derive(ToSchema)]
pub(in crate::http) struct SendTemplate {
    #[schema(example = "573123456789")]
    phone: String,
    #[schema(example = "hello_world")]
    template_name: String,
    #[schema(default = "es")]
    language: Option<String>,
    /// The values of the parameters in the body.
    parameters: Option<Vec<String>>,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// A template with components in Meta's form.
#[derive(ToSchema)]
pub(in crate::http) struct SendTemplateAdvanced {
    #[schema(example = "573123456789")]
    phone: String,
    #[schema(example = "hello_world")]
    template_name: String,
    #[schema(default = "es")]
    language: Option<String>,
    /// Forwarded unchanged; `parameters` are ignored if they are given.
    #[schema(value_type = Option<Vec<Object>>)]
    components: Option<Vec<Value>>,
    parameters: Option<Vec<String>>,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// A text with a URL button.
#[derive(ToSchema)]
pub(in crate::http) struct SendInteractive {
    #[schema(example = "573123456789")]
    phone: String,
    /// `text`, `image`, `video` or `document`.
    header_type: Option<String>,
    /// A text, an http(s) URL, a `data:` URI or base64.
    header_content: Option<String>,
    body_text: String,
    #[schema(default = "Ver más", max_length = 20)]
    button_text: Option<String>,
    #[schema(default = "https://example.com")]
    button_url: Option<String>,
    #[schema(max_length = 60)]
    footer_text: Option<String>,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// A list to choose from: at most 10 sections, and 10 rows in all of them together.
#[derive(ToSchema)]
pub(in crate::http) struct SendList {
    #[schema(example = "573123456789")]
    phone: String,
    #[schema(max_length = 60)]
    header_text: String,
    body_text: String,
    #[schema(max_length = 60)]
    footer_text: String,
    #[schema(max_length = 20)]
    button_text: String,
    sections: Vec<SendListSection>,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

#[derive(ToSchema)]
pub(in crate::http) struct SendListSection {
    #[schema(max_length = 24)]
    title: String,
    rows: Vec<SendListRow>,
}

#[derive(ToSchema)]
pub(in crate::http) struct SendListRow {
    /// Unique in the message.
    #[schema(max_length = 200)]
    id: String,
    #[schema(max_length = 24)]
    title: String,
    #[schema(max_length = 72)]
    description: Option<String>,
}

/// A text with reply buttons.
#[derive(ToSchema)]
pub(in crate::http) struct SendButton {
    #[schema(example = "573123456789")]
    phone: String,
    header_type: Option<String>,
    header_content: Option<String>,
    body_text: String,
    /// One to three.
    buttons: Vec<ReplyButton>,
    footer_text: Option<String>,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

#[derive(ToSchema)]
pub(in crate::http) struct ReplyButton {
    #[schema(max_length = 256)]
    id: String,
    #[schema(max_length = 20)]
    title: String,
}

/// A request for the recipient's location.
#[derive(ToSchema)]
pub(in crate::http) struct SendLocationRequest {
    #[schema(example = "573123456789")]
    phone: String,
    #[schema(max_length = 1024)]
    body_text: String,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// A file, from exactly one of `media_id`, `media_url` and `base64`.
#[derive(ToSchema)]
pub(in crate::http) struct SendMedia {
    #[schema(example = "573123456789")]
    phone: String,
    /// `image`, `video`, `audio`, `document` or `sticker`.
    #[serde(rename = "type")]
    kind: String,
    /// Also read: `id`.
    media_id: Option<String>,
    /// An http(s) URL, a `data:` URI or base64.
    media_url: Option<String>,
    base64: Option<String>,
    mime_type: Option<String>,
    filename: Option<String>,
    #[schema(max_length = 1024)]
    caption: Option<String>,
    /// The message that this one answers.
    context_message_id: Option<String>,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// A reaction; without `emoji` it is removed.
#[derive(ToSchema)]
pub(in crate::http) struct SendReaction {
    #[schema(example = "573123456789")]
    phone: String,
    /// The message, by WhatsApp's id.
    message_id: String,
    emoji: Option<String>,
    #[schema(default = false)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// The responses to a send.
#[derive(IntoResponses)]
pub(in crate::http) enum SingleSendResponses {
    /// WhatsApp accepted the message (`data`), or it is queued, durably (`task_id`).
    #[response(status = 200)]
    Done(SendMessageResponse),
    /// A field is missing or invalid, or WhatsApp rejected the message.
    #[response(status = 400)]
    Refused(ApplicationErrorBody),
    /// No such instance.
    #[response(status = 404)]
    NotFound(ApplicationErrorBody),
    /// The `Idempotency-Key` was used for a different request.
    #[response(status = 409)]
    Conflict(ApplicationErrorBody),
    /// The body is larger than permitted.
    #[response(status = 413)]
    TooLarge(ApplicationErrorBody),
    /// The queue is full, the rate limit does not allow it in time, or WhatsApp throttles.
    #[response(status = 429)]
    Throttled(ApplicationErrorBody),
    /// It was not sent: no instance, not connected, or WhatsApp cannot be reached.
    #[response(status = 503)]
    Unavailable(ApplicationErrorBody),
    /// It was sent and its outcome is unknown. Do not send it again: see `/api/task-status/{task_id}`.
    #[response(status = 504)]
    Ambiguous(ApplicationErrorBody),
}
