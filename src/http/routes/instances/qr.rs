//! `GET /instances/{id}/qr`.

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::http::qr::{self, QrFormat};
use crate::instance;
use relevo_domain::ErrorKind;

/// A QR code.
#[derive(Debug, Serialize, ToSchema)]
pub struct QrResponse {
    success: bool,
    #[schema(example = "shop")]
    instance_id: String,
    /// A PNG of 256 by 256 pixels, in base64.
    qr_code: String,
    #[schema(example = "base64")]
    format: &'static str,
    #[schema(example = "png")]
    image_type: &'static str,
    /// The text of the code.
    code: String,
    /// When the code expires, RFC 3339.
    expires_at: String,
}

/// The QR code that links the instance to a phone (WhatsApp, linked devices). It starts pairing if necessary, and
/// waits up to 30 s for the first code. A new code follows about every 20 s, up to six; then pairing ends until it is
/// requested again. `Accept` selects JSON with a PNG in base64, `image/png`, `image/svg+xml`, or the text
/// (`text/plain`).
#[utoipa::path(get, path = "/instances/{id}/qr", operation_id = "get_qr", tag = "instances", params(TargetInstance), responses(
    (status = 200, description = "The code.", body = QrResponse),
    (status = 400, description = "It is linked to an account already.", body = ErrorBody),
    (status = 404, description = "No such instance.", body = ErrorBody),
    (status = 408, description = "WhatsApp gave no code in time.", body = ErrorBody),
    (status = 501, description = "The provider of this instance does not link to a phone.", body = ErrorBody),
    (status = 503, description = "It cannot be paired now; the reason is in `details`.", body = ErrorBody),
))]
pub async fn qr(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let code = state.services.instances.qr_code(&id).await.map_err(pairing_error)?;
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let failed = |cause: qr::Error| ApiError::internal(&cause);
    let typed = |kind: &'static str, body: Vec<u8>| ([(CONTENT_TYPE, kind)], body).into_response();
    let mut response = match QrFormat::from_accept(accept) {
        QrFormat::Png => typed("image/png", qr::png(&code.text).map_err(failed)?),
        QrFormat::Svg => typed("image/svg+xml", qr::svg(&code.text).map_err(failed)?.into_bytes()),
        QrFormat::Text => typed("text/plain; charset=utf-8", code.text.into_bytes()),
        QrFormat::Json => Json(QrResponse {
            success: true,
            instance_id: id.into(),
            qr_code: STANDARD.encode(qr::png(&code.text).map_err(failed)?),
            format: "base64",
            image_type: "png",
            expires_at: code.expires_at.to_string(),
            code: code.text,
        })
        .into_response(),
    };
    let never = HeaderValue::from_static("no-cache, no-store, must-revalidate");
    response.headers_mut().insert(CACHE_CONTROL, never);
    Ok(response)
}

/// The error of an instance that cannot be linked in its state.
pub(super) fn pairing_error(error: instance::Error) -> ApiError {
    match error {
        instance::Error::NotConnected { .. } => {
            ApiError::new(ErrorKind::Unavailable, format!("QR no disponible: {error}"))
        }
        error => error.into(),
    }
}
