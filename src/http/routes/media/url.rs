//! The link to a file.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationErrorBody;
use crate::http::error::ApiError;
use crate::http::extract::{LinkTargetInstance, MediaIdPath};
use crate::{instance, media};

/// Where a file is.
#[derive(Debug, Serialize, ToSchema)]
pub struct GetMediaUrlResponse {
    success: bool,
    /// At WhatsApp: good for five minutes, and only for who shows the account's token.
    #[schema(example = "https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=123456789")]
    media_url: String,
    /// At this node, for who has its key: the file itself.
    #[schema(example = "/api/media/123456789/download?instance_id=shop")]
    download_url: String,
}

/// There is no such file.
#[derive(Debug, Serialize, ToSchema)]
pub struct MediaUrlNotFoundResponse {
    #[schema(example = false)]
    success: bool,
    #[schema(example = "No se pudo obtener la URL del archivo")]
    error: &'static str,
}

/// Where WhatsApp has a file, and where this node gives it out.
#[utoipa::path(get, path = "/api/media/{media_id}", operation_id = "get_media_url", tag = "media", params(LinkTargetInstance, MediaIdPath),
    responses(
        (status = 200, description = "Where it is.", body = GetMediaUrlResponse),
        (status = 404, description = "WhatsApp has no such file.", body = MediaUrlNotFoundResponse),
        (status = 424, description = "WhatsApp does not accept the account.", body = ApplicationErrorBody),
        (status = 503, description = "WhatsApp cannot be reached.", body = ApplicationErrorBody),
    ))]
pub async fn media_url(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    LinkTargetInstance(instance): LinkTargetInstance,
    MediaIdPath(media_id): MediaIdPath,
) -> Result<Response, ApiError> {
    match state.services.instances.media_url(&instance, &media_id).await {
        Ok(url) => {
            let download_url = format!("/api/media/{media_id}/download?instance_id={instance}");
            let answer = GetMediaUrlResponse { success: true, media_url: url.into(), download_url };
            Ok(Json(answer).into_response())
        }
        Err(instance::Error::Media(media::Error::Gone(_))) => {
            let answer =
                MediaUrlNotFoundResponse { success: false, error: "No se pudo obtener la URL del archivo" };
            Ok((StatusCode::NOT_FOUND, Json(answer)).into_response())
        }
        Err(error) => Err(error.into()),
    }
}
