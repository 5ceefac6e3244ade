//! `DELETE /suppressions/{phone}`.

use axum::Json;
use axum::extract::State;

use super::dto::SuppressionDeletedResponse;
use super::{RecipientPath, not_suppressed};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};

/// Takes somebody off the list.
#[utoipa::path(delete, path = "/suppressions/{phone}", operation_id = "delete_suppression", tag = "suppressions",
    params(RecipientPath), responses(
        (status = 200, description = "They are off it, durably.", body = SuppressionDeletedResponse),
        (status = 400, description = "This is no phone.", body = ErrorBody),
        (status = 404, description = "They were not on it.", body = ErrorBody),
    ))]
pub async fn delete(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    RecipientPath(who): RecipientPath,
) -> Result<Json<SuppressionDeletedResponse>, ApiError> {
    if state.services.suppressions.release(who.clone()).await? {
        Ok(Json(SuppressionDeletedResponse { success: true }))
    } else {
        Err(not_suppressed(&who))
    }
}
