//! Requests for messages to many.

use serde_json::Value;
use utoipa::{IntoResponses, ToSchema};

use crate::http::api::error::ApplicationErrorBody;
use crate::http::routes::api::responses::BulkSendResponse;

/// An individual text for each recipient.
#[derive(ToSchema)]
pub(in crate::http) struct SendBulk {
    recipients: Vec<TextRecipient>,
    #[schema(default = true)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

#[derive(ToSchema)]
pub(in crate::http) struct TextRecipient {
    #[schema(example = "573123456789")]
    phone: String,
    message: String,
}

#[derive(ToSchema)]
pub(in crate::http) struct BodyRecipient {
    #[schema(example = "573123456789")]
    phone: String,
    body_text: String,
}

/// The same list for each recipient, with an individual text.
#[derive(ToSchema)]
pub(in crate::http) struct SendBulkList {
    recipients: Vec<BodyRecipient>,
    #[schema(max_length = 60)]
    header_text: String,
    #[schema(max_length = 60)]
    footer_text: String,
    #[schema(max_length = 20)]
    button_text: String,
    /// Up to ten sections with ten rows in all: `{title, rows: [{id, title, description?}]}`.
    #[schema(value_type = Vec<Object>)]
    sections: Vec<Value>,
    #[schema(default = true)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// An individual text with a button for each recipient.
#[derive(ToSchema)]
pub(in crate::http) struct SendBulkInteractive {
    recipients: Vec<InteractiveRecipient>,
    #[schema(default = true)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

#[derive(ToSchema)]
pub(in crate::http) struct InteractiveRecipient {
    #[schema(example = "573123456789")]
    phone: String,
    body_text: String,
    header_type: Option<String>,
    header_content: Option<String>,
    #[schema(default = "Ver más", max_length = 20)]
    button_text: Option<String>,
    #[schema(default = "https://example.com")]
    button_url: Option<String>,
    #[schema(max_length = 60)]
    footer_text: Option<String>,
}

/// The same reply buttons for each recipient, with an individual text.
#[derive(ToSchema)]
pub(in crate::http) struct SendBulkButton {
    recipients: Vec<BodyRecipient>,
    /// One to three: `{id, title}`.
    #[schema(value_type = Vec<Object>)]
    buttons: Vec<Value>,
    header_type: Option<String>,
    header_content: Option<String>,
    #[schema(max_length = 60)]
    footer_text: Option<String>,
    #[schema(default = true)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// A template for each recipient.
#[derive(ToSchema)]
pub(in crate::http) struct SendBulkTemplate {
    recipients: Vec<TemplateRecipient>,
    #[schema(default = true)]
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

#[derive(ToSchema)]
pub(in crate::http) struct TemplateRecipient {
    #[schema(example = "573123456789")]
    phone: String,
    template_name: String,
    #[schema(default = "es")]
    language: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    components: Option<Vec<Value>>,
    parameters: Option<Vec<String>>,
}

/// The same text with a button for all.
#[derive(ToSchema)]
pub(in crate::http) struct SendBroadcast {
    phones: Vec<String>,
    body_text: String,
    /// `text`, `image`, `video` or `document`.
    header_type: Option<String>,
    /// A text, an http(s) URL, a `data:` URI or base64.
    header_content: Option<String>,
    #[schema(default = "Ver más", max_length = 20)]
    button_text: Option<String>,
    #[schema(default = "https://example.com")]
    button_url: Option<String>,
    #[schema(max_length = 60)]
    footer_text: Option<String>,
    /// `true` without it, and `false` under `/api/messages/`.
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// The same template for all.
#[derive(ToSchema)]
pub(in crate::http) struct SendBroadcastTemplate {
    phones: Vec<String>,
    template_name: String,
    #[schema(default = "es")]
    language: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    components: Option<Vec<Value>>,
    parameters: Option<Vec<String>>,
    /// `true` without it, and `false` under `/api/messages/`.
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

/// An individual text for each recipient, in a common frame.
#[derive(ToSchema)]
pub(in crate::http) struct SendPersonalized {
    /// The `button_url` of a recipient replaces the common one.
    recipients: Vec<PersonalizedRecipient>,
    header_type: Option<String>,
    header_content: Option<String>,
    #[schema(default = "Ver más", max_length = 20)]
    button_text: Option<String>,
    #[schema(default = "https://example.com")]
    button_url: Option<String>,
    #[schema(max_length = 60)]
    footer_text: Option<String>,
    /// `true` without it, and `false` under `/api/messages/`.
    use_queue: Option<bool>,
    instance_id: Option<String>,
}

#[derive(ToSchema)]
pub(in crate::http) struct PersonalizedRecipient {
    #[schema(example = "573123456789")]
    phone: String,
    body_text: String,
    button_url: Option<String>,
}

/// The responses to bulk messages.
#[derive(IntoResponses)]
pub(in crate::http) enum BulkSendResponses {
    /// The messages were sent, as far as possible. With `use_queue` they are queued, durably; the response has a
    /// `task_id` and no `result`.
    #[response(status = 200)]
    Sent(BulkSendResponse),
    /// The request is invalid. Nothing was sent.
    #[response(status = 400)]
    Invalid(ApplicationErrorBody),
    /// The instance that is named does not exist.
    #[response(status = 404)]
    NotFound(ApplicationErrorBody),
    /// The body is larger than permitted.
    #[response(status = 413)]
    TooLarge(ApplicationErrorBody),
    /// The limit of jobs is reached.
    #[response(status = 429)]
    Throttled(ApplicationErrorBody),
    /// The instance is not connected, or the node cannot accept messages now.
    #[response(status = 503)]
    Unavailable(ApplicationErrorBody),
    /// They are still being sent: see `/api/task-status/{task_id}`.
    #[response(status = 504)]
    Unfinished(ApplicationErrorBody),
}
