//! `GET /api/numbers/{phone}`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::dto::{NumberActionResponse, NumberResponse};
use super::not_found;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;
use crate::http::api::extract::PhonePath;

/// Returns one number.
#[utoipa::path(get, path = "/api/numbers/{phone}", operation_id = "get_number", tag = "numbers", params(PhonePath), responses(
    (status = 200, description = "The number.", body = NumberResponse),
    (status = 404, description = "No such number.", body = NumberActionResponse),
))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    PhonePath(phone): PhonePath,
) -> Result<Response, ApplicationError> {
    Ok(match state.services.numbers.get(&phone)? {
        Some(number) => Json(NumberResponse { success: true, number: number.into() }).into_response(),
        None => not_found(),
    })
}
