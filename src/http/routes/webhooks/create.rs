//! `POST …/webhooks`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::dto::{EndpointResponse, NewEndpoint};
use super::endpoint_response;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::{AppState, json};
use relevo_domain::InstanceId;

async fn create_endpoint(
    state: &AppState,
    instance: Option<InstanceId>,
    body: &[u8],
) -> Result<(StatusCode, Json<EndpointResponse>), ApiError> {
    let config = json::parse::<NewEndpoint>(body)?.into_config()?;
    let view = state.services.accounts.create_endpoint(instance, config).await?;
    Ok((StatusCode::CREATED, endpoint_response(state, view).await?))
}

/// Creates another endpoint for an instance. It receives new events.
#[utoipa::path(post, path = "/instances/{id}/webhooks", operation_id = "create_instance_endpoint", tag = "webhooks",
    request_body = NewEndpoint, params(TargetInstance), responses(
        (status = 201, description = "It is created, durably.", body = EndpointResponse),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 409, description = "The limit of endpoints is reached.", body = ErrorBody),
    ))]
pub async fn create_for_instance(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<EndpointResponse>), ApiError> {
    create_endpoint(&state, Some(id), &body).await
}

/// Creates an endpoint for the events of all instances, including instances that are created later.
#[utoipa::path(post, path = "/webhooks", operation_id = "create_endpoint", tag = "webhooks",
    request_body = NewEndpoint, responses(
        (status = 201, description = "It is created, durably.", body = EndpointResponse),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 409, description = "The limit of endpoints is reached.", body = ErrorBody),
    ))]
pub async fn create(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<EndpointResponse>), ApiError> {
    create_endpoint(&state, None, &body).await
}
