//! `POST /instances/{id}/pair-code`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::qr::pairing_error;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::phone_text::PhoneText;
use crate::http::{AppState, json};
use relevo_domain::PhoneNumber;

/// The account to link.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PairCodeRequest<'a> {
    /// Its number in international format. Also read: `number`.
    #[serde(default, borrow, alias = "number")]
    #[schema(value_type = String, required = true, example = "573001234567")]
    phone: PhoneText<'a>,
}

/// The code to enter on the phone.
#[derive(Debug, Serialize, ToSchema)]
pub struct PairCodeResponse {
    success: bool,
    #[schema(example = "ABCD1234")]
    code: String,
    /// Seconds.
    #[schema(example = 180)]
    expires_in: u64,
}

/// Links the instance without a camera: WhatsApp shows a prompt on the phone with that number, where the user enters
/// the code of the response.
#[utoipa::path(post, path = "/instances/{id}/pair-code", operation_id = "get_pair_code", tag = "instances",
    request_body = PairCodeRequest, params(TargetInstance), responses(
        (status = 200, description = "The code, and its validity in seconds.", body = PairCodeResponse),
        (status = 400, description = "The number is wrong, or the instance is linked already.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 408, description = "WhatsApp was not ready in time.", body = ErrorBody),
        (status = 429, description = "WhatsApp asks to wait; see `Retry-After`.", body = ErrorBody),
        (status = 501, description = "The provider of this instance does not link to a phone.", body = ErrorBody),
        (status = 503, description = "It cannot be paired now; the reason is in `details`.", body = ErrorBody),
    ))]
pub async fn pair_code(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<PairCodeResponse>, ApiError> {
    let request: PairCodeRequest<'_> = json::parse(&body)?;
    let phone = PhoneNumber::read(request.phone.as_str(), state.options.default_country)?;
    let pair = state.services.instances.request_pairing_code(&id, &phone).await.map_err(pairing_error)?;
    Ok(Json(PairCodeResponse { success: true, code: pair.code, expires_in: pair.valid_for.as_secs() }))
}
