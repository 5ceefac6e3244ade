//! `POST /api/send-…`: one message, or one to each of many. Every route also exists at `/api/messages/send-…`.

use axum::extract::State;
use axum::response::Response;

use super::bulk::submit_bulk;
use super::bulk_kind::BulkKind;
use super::message_kind::MessageKind;
use super::requests::bulk::{
    BulkSendResponses, SendBroadcast, SendBroadcastTemplate, SendBulk, SendBulkButton, SendBulkInteractive,
    SendBulkList, SendBulkTemplate, SendPersonalized,
};
use super::requests::single::{
    SendButton, SendInteractive, SendList, SendLocationRequest, SendMedia, SendMessage, SendReaction,
    SendTemplate, SendTemplateAdvanced, SingleSendResponses,
};
use super::single::{IncomingRequest, submit_single};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;

/// Sends a text.
#[utoipa::path(post, path = "/api/send-message", operation_id = "api_send_message", tag = "api",
    request_body = SendMessage, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_message(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::Text).await
}

/// Sends an approved template with parameters.
#[utoipa::path(post, path = "/api/send-template", operation_id = "api_send_template", tag = "api",
    request_body = SendTemplate, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_template(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::Template).await
}

/// Sends an approved template with components in Meta's form.
#[utoipa::path(post, path = "/api/send-template-advanced", operation_id = "api_send_template_advanced", tag = "api",
    request_body = SendTemplateAdvanced, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_template_advanced(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::AdvancedTemplate).await
}

/// Sends a text with a URL button.
#[utoipa::path(post, path = "/api/send-interactive", operation_id = "api_send_interactive", tag = "api",
    request_body = SendInteractive, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_interactive(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::Interactive).await
}

/// Sends a list to choose from.
#[utoipa::path(post, path = "/api/send-list", operation_id = "api_send_list", tag = "api",
    request_body = SendList, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_list(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::List).await
}

/// Sends a text with one to three reply buttons.
#[utoipa::path(post, path = "/api/send-button", operation_id = "api_send_button", tag = "api",
    request_body = SendButton, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_button(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::Buttons).await
}

/// Asks the recipient for a location.
#[utoipa::path(post, path = "/api/send-location-request", operation_id = "api_send_location_request", tag = "api",
    request_body = SendLocationRequest, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_location_request(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::LocationRequest).await
}

/// Sends a file: by a media id of WhatsApp, by URL, or inline.
#[utoipa::path(post, path = "/api/send-media", operation_id = "api_send_media", tag = "api",
    request_body = SendMedia, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_media(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::Media).await
}

/// Reacts to a message.
#[utoipa::path(post, path = "/api/send-reaction", operation_id = "api_send_reaction", tag = "api",
    request_body = SendReaction, params(IncomingRequest), responses(SingleSendResponses))]
pub async fn send_reaction(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_single(&state, incoming, MessageKind::Reaction).await
}

/// Sends an individual text to each recipient.
#[utoipa::path(post, path = "/api/send-bulk", operation_id = "api_send_bulk", tag = "api",
    request_body = SendBulk, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_bulk(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::Bulk).await
}

/// Sends the same list to each recipient, with an individual text.
#[utoipa::path(post, path = "/api/send-bulk-list", operation_id = "api_send_bulk_list", tag = "api",
    request_body = SendBulkList, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_bulk_list(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::BulkList).await
}

/// Sends an individual text with an individual URL button to each recipient.
#[utoipa::path(post, path = "/api/send-bulk-interactive", operation_id = "api_send_bulk_interactive", tag = "api",
    request_body = SendBulkInteractive, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_bulk_interactive(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::BulkInteractive).await
}

/// Sends the same reply buttons to each recipient, with an individual text.
#[utoipa::path(post, path = "/api/send-bulk-button", operation_id = "api_send_bulk_button", tag = "api",
    request_body = SendBulkButton, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_bulk_button(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::BulkButton).await
}

/// Sends an approved template to each recipient, with individual values.
#[utoipa::path(post, path = "/api/send-bulk-template", operation_id = "api_send_bulk_template", tag = "api",
    request_body = SendBulkTemplate, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_bulk_template(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::BulkTemplate).await
}

/// Sends the same text with a button to all. A file in the header is uploaded once. Recipients that opted out are
/// skipped. Under `/api/messages/` it is sent directly, unless `use_queue` is set.
#[utoipa::path(post, path = "/api/send-broadcast-interactive", operation_id = "api_send_broadcast_interactive", tag = "api",
    request_body = SendBroadcast, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_broadcast_interactive(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::Broadcast).await
}

/// Sends the same template to all. Recipients that opted out are skipped. Under `/api/messages/` it is sent directly,
/// unless `use_queue` is set.
#[utoipa::path(post, path = "/api/send-broadcast-template", operation_id = "api_send_broadcast_template", tag = "api",
    request_body = SendBroadcastTemplate, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_broadcast_template(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::BroadcastTemplate).await
}

/// Sends an individual text to each recipient in a common frame. Recipients that opted out are skipped. Under
/// `/api/messages/` it is sent directly, unless `use_queue` is set.
#[utoipa::path(post, path = "/api/send-personalized-broadcast", operation_id = "api_send_personalized_broadcast", tag = "api",
    request_body = SendPersonalized, params(IncomingRequest), responses(BulkSendResponses))]
pub async fn send_personalized_broadcast(
    _: Access<scope::Send>,
    State(state): State<AppState>,
    incoming: IncomingRequest,
) -> Result<Response, ApplicationError> {
    submit_bulk(&state, incoming, BulkKind::Personalized).await
}
