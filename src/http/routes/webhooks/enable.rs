//! `POST /webhooks/{endpoint_id}/enable`.

use axum::Json;
use axum::extract::State;

use super::dto::EndpointResponse;
use super::endpoint_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::EndpointIdPath;

/// Enables an endpoint; it receives the events that it missed. If it is enabled already, it is attempted at once.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/enable", operation_id = "enable_endpoint", tag = "webhooks",
    params(EndpointIdPath), responses(
        (status = 200, description = "It is enabled.", body = EndpointResponse),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn enable(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
) -> Result<Json<EndpointResponse>, ApiError> {
    let view = state.services.webhooks.enable(id).await?;
    endpoint_response(&state, view).await
}
