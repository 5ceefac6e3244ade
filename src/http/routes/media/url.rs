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

/// The URLs of a file.
#[derive(Debug, Serialize, ToSchema)]
pub struct GetMediaUrlResponse {
    success: bool,
    /// The URL at WhatsApp: valid for five minutes, and only with the token of the account.
    #[schema(example = "https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=123456789")]
    media_url: String,
    /// The path at this node; requires the API key.
    #[schema(example = "/api/media/123456789/download?instance_id=shop")]
    download_url: String,
}

/// WhatsApp has no such file.
#[derive(Debug, Serialize, ToSchema)]
pub struct MediaUrlNotFoundResponse {
    #[schema(example = false)]
    success: bool,
    #[schema(example = "No se pudo obtener la URL del archivo")]
    error: &'static str,
}

/// The URL of a file at WhatsApp, and its download path at this node.
#[utoipa::path(get, path = "/api/media/{media_id}", operation_id = "get_media_url", tag = "media", params(LinkTargetInstance, MediaIdPath),
    responses(
        (status = 200, description = "The URLs.", body = GetMediaUrlResponse),
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
