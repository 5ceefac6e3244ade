//! The download of a file.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::file_response::file_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationErrorBody;
use crate::http::error::ApiError;
use crate::http::extract::{LinkTargetInstance, MediaIdPath};

/// A file that a user sent, by WhatsApp's id of the file. `Range` with one range is supported.
#[utoipa::path(get, path = "/api/media/{media_id}/download", operation_id = "download_media", tag = "media",
    params(LinkTargetInstance, MediaIdPath), responses(
        (status = 200, description = "The file.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The range that was asked for."),
        (status = 304, description = "The client has the current file."),
        (status = 410, description = "WhatsApp does not have it.", body = ApplicationErrorBody),
        (status = 416, description = "The range is outside the file."),
        (status = 424, description = "WhatsApp does not accept the account.", body = ApplicationErrorBody),
        (status = 503, description = "WhatsApp cannot be reached.", body = ApplicationErrorBody),
    ))]
pub async fn download_media(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    LinkTargetInstance(instance): LinkTargetInstance,
    MediaIdPath(media_id): MediaIdPath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = state.services.instances.media(&instance, &media_id).await?;
    Ok(file_response(&file, None, &headers))
}
