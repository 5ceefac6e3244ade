//! `DELETE /instances/{id}`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// The instance was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceDeletedResponse {
    success: bool,
    message: &'static str,
}

/// Deletes an instance with its queue, its events, its keys and its webhook endpoints. A linked device is unlinked first.
#[utoipa::path(delete, path = "/instances/{id}", operation_id = "delete_instance", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "It is deleted.", body = InstanceDeletedResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn delete(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceDeletedResponse>, ApiError> {
    state.services.accounts.delete(id).await?;
    Ok(Json(InstanceDeletedResponse { success: true, message: "Instancia eliminada exitosamente" }))
}
