//! `DELETE /webhooks/{endpoint_id}`.

use axum::Json;
use axum::extract::State;

use super::dto::SuccessResponse;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::EndpointIdPath;

/// Deletes an endpoint with its cursor and its parked events.
#[utoipa::path(delete, path = "/webhooks/{endpoint_id}", operation_id = "delete_endpoint", tag = "webhooks",
    params(EndpointIdPath), responses(
        (status = 200, description = "It is deleted.", body = SuccessResponse),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn delete(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
) -> Result<Json<SuccessResponse>, ApiError> {
    state.services.webhooks.delete(id).await?;
    Ok(SuccessResponse::json())
}
