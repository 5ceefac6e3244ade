//! `PUT /webhooks/{endpoint_id}`.

use axum::Json;
use axum::extract::State;

use super::dto::{EndpointChanges, EndpointResponse};
use super::endpoint_response;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{EndpointIdPath, JsonBody};
use crate::http::{AppState, json};

/// Updates an endpoint. It keeps its cursor, and is attempted at once.
#[utoipa::path(put, path = "/webhooks/{endpoint_id}", operation_id = "update_endpoint", tag = "webhooks",
    request_body = EndpointChanges, params(EndpointIdPath), responses(
        (status = 200, description = "It is updated, durably.", body = EndpointResponse),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn update(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    JsonBody(body): JsonBody,
) -> Result<Json<EndpointResponse>, ApiError> {
    let changes = json::parse::<EndpointChanges>(&body)?.into_update()?;
    let view = state.services.webhooks.update(id, changes).await?;
    endpoint_response(&state, view).await
}
