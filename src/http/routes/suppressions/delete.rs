//! `DELETE /suppressions/{phone}`.

use axum::Json;
use axum::extract::State;

use super::dto::SuppressionDeletedResponse;
use super::{RecipientPath, not_suppressed};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};

/// Removes a phone from the suppression list.
#[utoipa::path(delete, path = "/suppressions/{phone}", operation_id = "delete_suppression", tag = "suppressions",
    params(RecipientPath), responses(
        (status = 200, description = "It is removed, durably.", body = SuppressionDeletedResponse),
        (status = 400, description = "The phone is invalid.", body = ErrorBody),
        (status = 404, description = "It is not on the list.", body = ErrorBody),
    ))]
pub async fn delete(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    RecipientPath(recipient): RecipientPath,
) -> Result<Json<SuppressionDeletedResponse>, ApiError> {
    if state.services.suppressions.release(recipient.clone()).await? {
        Ok(Json(SuppressionDeletedResponse { success: true }))
    } else {
        Err(not_suppressed(&recipient))
    }
}
