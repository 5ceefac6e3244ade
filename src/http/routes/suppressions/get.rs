//! `GET /suppressions/{phone}`.

use axum::Json;
use axum::extract::State;

use super::dto::SuppressionResponse;
use super::{RecipientPath, not_suppressed};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};

/// Shows somebody's entry.
#[utoipa::path(get, path = "/suppressions/{phone}", operation_id = "get_suppression", tag = "suppressions",
    params(RecipientPath), responses(
        (status = 200, description = "They are on the list.", body = SuppressionResponse),
        (status = 400, description = "This is no phone.", body = ErrorBody),
        (status = 404, description = "They are not.", body = ErrorBody),
    ))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    RecipientPath(who): RecipientPath,
) -> Result<Json<SuppressionResponse>, ApiError> {
    let found = state.services.suppressions.get(&who)?.ok_or_else(|| not_suppressed(&who))?;
    Ok(Json(SuppressionResponse { success: true, data: found.into() }))
}
