//! `POST /api/numbers/clear`.

use axum::Json;
use axum::extract::State;

use super::dto::NumbersClearedResponse;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::api::error::ApplicationError;

/// Deletes all numbers.
#[utoipa::path(post, path = "/api/numbers/clear", operation_id = "clear_numbers", tag = "numbers", responses(
    (status = 200, description = "They are deleted.", body = NumbersClearedResponse),
))]
pub async fn clear(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
) -> Result<Json<NumbersClearedResponse>, ApplicationError> {
    let deleted = state.services.numbers.clear().await?;
    Ok(Json(NumbersClearedResponse { success: true, deleted, message: format!("Deleted {deleted} numbers") }))
}
