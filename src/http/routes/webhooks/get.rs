//! `GET /webhooks/{endpoint_id}`.

use axum::Json;
use axum::extract::State;

use super::dto::EndpointResponse;
use super::endpoint_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::EndpointIdPath;

/// One endpoint.
#[utoipa::path(get, path = "/webhooks/{endpoint_id}", operation_id = "get_endpoint", tag = "webhooks", params(EndpointIdPath), responses(
    (status = 200, description = "The endpoint.", body = EndpointResponse),
    (status = 404, description = "No such endpoint.", body = ErrorBody),
))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
) -> Result<Json<EndpointResponse>, ApiError> {
    endpoint_response(&state, state.services.webhooks.get(id)?).await
}
