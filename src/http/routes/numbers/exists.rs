//! `GET /api/numbers/{phone}/exists`.

use axum::Json;
use axum::extract::State;

use super::dto::NumberExistsResponse;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;
use crate::http::api::extract::PhonePath;

/// Checks whether a number exists.
#[utoipa::path(get, path = "/api/numbers/{phone}/exists", operation_id = "number_exists", tag = "numbers",
    params(PhonePath), responses((status = 200, description = "Whether it exists.", body = NumberExistsResponse)))]
pub async fn exists(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    PhonePath(phone): PhonePath,
) -> Result<Json<NumberExistsResponse>, ApplicationError> {
    let exists = state.services.numbers.get(&phone)?.is_some();
    Ok(Json(NumberExistsResponse { success: true, exists, phone }))
}
