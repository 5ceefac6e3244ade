//! `GET /suppressions/{phone}`.

use axum::Json;
use axum::extract::State;

use super::dto::SuppressionResponse;
use super::{RecipientPath, not_suppressed};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};

/// Returns the entry of a phone.
#[utoipa::path(get, path = "/suppressions/{phone}", operation_id = "get_suppression", tag = "suppressions",
    params(RecipientPath), responses(
        (status = 200, description = "The entry.", body = SuppressionResponse),
        (status = 400, description = "The phone is invalid.", body = ErrorBody),
        (status = 404, description = "It is not on the list.", body = ErrorBody),
    ))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    RecipientPath(recipient): RecipientPath,
) -> Result<Json<SuppressionResponse>, ApiError> {
    let found = state.services.suppressions.get(&recipient)?.ok_or_else(|| not_suppressed(&recipient))?;
    Ok(Json(SuppressionResponse { success: true, data: found.into() }))
}
