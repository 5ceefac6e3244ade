//! `GET /api/numbers/{phone}/exists`.

use axum::Json;
use axum::extract::State;

use super::dto::NumberExistsResponse;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;
use crate::http::api::extract::PhonePath;

/// Tells whether there is such a number.
#[utoipa::path(get, path = "/api/numbers/{phone}/exists", operation_id = "number_exists", tag = "numbers",
    params(PhonePath), responses((status = 200, description = "Yes or no.", body = NumberExistsResponse)))]
pub async fn exists(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    PhonePath(phone): PhonePath,
) -> Result<Json<NumberExistsResponse>, ApplicationError> {
    let exists = state.services.numbers.get(&phone)?.is_some();
    Ok(Json(NumberExistsResponse { success: true, exists, phone }))
}
