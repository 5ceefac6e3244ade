//! `GET …/messages/{message_id}/download`.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{MessageIdPath, TargetInstance};
use crate::http::routes::media::file_response::file_response;

/// The file of a received message, by WhatsApp's id of the message. `Range` with one range is supported.
#[utoipa::path(get, path = "/instances/{id}/messages/{message_id}/media", operation_id = "download_message_media",
    tag = "messages", params(TargetInstance, MessageIdPath), responses(
        (status = 200, description = "The file.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range that was asked for."),
        (status = 304, description = "The client has the current file."),
        (status = 404, description = "No such instance, or no message with media.", body = ErrorBody),
        (status = 410, description = "WhatsApp no longer has it.", body = ErrorBody),
        (status = 416, description = "The range is outside the file."),
        (status = 424, description = "WhatsApp does not accept the account.", body = ErrorBody),
        (status = 503, description = "WhatsApp cannot be reached.", body = ErrorBody),
    ))]
pub async fn download_message_media(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(instance): TargetInstance,
    MessageIdPath(message): MessageIdPath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (file, name) = state.services.instances.media_of_message(&instance, &message.parse()?).await?;
    Ok(file_response(&file, name.as_deref(), &headers))
}
