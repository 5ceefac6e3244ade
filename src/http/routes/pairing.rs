//! `/instances/{id}/qr`, `…/pair-code`, `…/connect` and `…/logout`: making an instance the linked device of a phone.

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::qr::{self, QrFormat};
use crate::http::{AppState, json};
use crate::instance::{self, InstanceView};
use relevo_domain::ErrorKind;

use super::instances::{InstanceResponse, instance_response};

/// What a phone scans.
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
    /// The text of the code, for who draws it.
    code: String,
    /// When another one follows, or none. RFC 3339.
    expires_at: String,
}

/// The account that is to be linked.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PairCodeRequest {
    /// Its number in international format. Also read: `number`.
    #[serde(default, alias = "number")]
    #[schema(required = true, example = "573001234567")]
    phone: String,
}

/// What is typed in on the phone.
#[derive(Debug, Serialize, ToSchema)]
pub struct PairCodeResponse {
    success: bool,
    #[schema(example = "ABCD1234")]
    code: String,
    /// Seconds.
    #[schema(example = 180)]
    expires_in: u64,
}

/// How far connecting is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectProgressResponse {
    success: bool,
    #[schema(example = "shop")]
    instance_id: String,
    /// The text of the QR code that a phone can scan now, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[schema(example = "connecting")]
    status: &'static str,
}

/// What a phone scans to make the instance its linked device (WhatsApp, linked devices). Begins pairing where nobody
/// has, and waits up to 30 s for the first code; a new one comes every 20 s or so, six in all, and then pairing ends
/// until it is asked for again. By `Accept` the code comes as JSON with a PNG in base64, as `image/png`, as
/// `image/svg+xml`, or as its bare text (`text/plain`).
#[utoipa::path(get, path = "/instances/{id}/qr", operation_id = "get_qr", tag = "instances", responses(
    (status = 200, description = "The code.", body = QrResponse),
    (status = 400, description = "It is linked to an account already.", body = ErrorBody),
    (status = 404, description = "No such instance.", body = ErrorBody),
    (status = 408, description = "WhatsApp gave no code in time.", body = ErrorBody),
    (status = 501, description = "The provider of this instance has no phone to be linked to.", body = ErrorBody),
    (status = 503, description = "It cannot be paired now; the reason is in `details`.", body = ErrorBody),
))]
pub async fn qr(
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

/// Links the instance without a camera: WhatsApp shows a prompt on the phone of that number, and there the code in the
/// answer is typed in.
#[utoipa::path(post, path = "/instances/{id}/pair-code", operation_id = "get_pair_code", tag = "instances",
    request_body = PairCodeRequest, responses(
        (status = 200, description = "The code, and for how many seconds it is good.", body = PairCodeResponse),
        (status = 400, description = "The number is wrong, or the instance is linked already.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 408, description = "WhatsApp was not ready in time.", body = ErrorBody),
        (status = 429, description = "WhatsApp asks to wait; see `Retry-After`.", body = ErrorBody),
        (status = 501, description = "The provider of this instance has no phone to be linked to.", body = ErrorBody),
        (status = 503, description = "It cannot be paired now; the reason is in `details`.", body = ErrorBody),
    ))]
pub async fn pair_code(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<PairCodeResponse>, ApiError> {
    let phone = json::parse::<PairCodeRequest>(&body)?.phone.parse()?;
    let pair = state.services.instances.request_pairing_code(&id, &phone).await.map_err(pairing_error)?;
    Ok(Json(PairCodeResponse { success: true, code: pair.code, expires_in: pair.valid_for.as_secs() }))
}

/// Connects an instance that nobody asked to connect, and tells at once how far it is: for clients that draw the code
/// themselves and ask again until `status` is `connected`.
#[utoipa::path(get, path = "/instances/{id}/connect", operation_id = "get_connect", tag = "instances", responses(
    (status = 200, description = "The code, when there is one, and the state.", body = ConnectProgressResponse),
    (status = 404, description = "No such instance.", body = ErrorBody),
))]
pub async fn progress(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<ConnectProgressResponse>, ApiError> {
    let InstanceView { state: view, .. } = state.services.instances.connect_if_idle(&id).await?;
    let code = view.qr_code.map(|code| code.text);
    Ok(Json(ConnectProgressResponse {
        success: true,
        instance_id: id.into(),
        code,
        status: view.state.as_str(),
    }))
}

/// Ends the link between the instance and its phone, and forgets the keys; what is queued waits. An instance that only
/// is to stay away is disconnected instead.
#[utoipa::path(post, path = "/instances/{id}/logout", operation_id = "logout_instance", tag = "instances",
    responses(
        (status = 200, description = "It is nobody's device any more.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 501, description = "The provider of this instance has no phone to be linked to.", body = ErrorBody),
    ))]
pub async fn logout(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.logout(&id).await?;
    instance_response(&state, view, Some("Sesión cerrada"))
}

/// An instance in a state in which no phone can be linked.
fn pairing_error(error: instance::Error) -> ApiError {
    match error {
        instance::Error::NotConnected { .. } => {
            ApiError::new(ErrorKind::Unavailable, format!("QR no disponible: {error}"))
        }
        error => error.into(),
    }
}
