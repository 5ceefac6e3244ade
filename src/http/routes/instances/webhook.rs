//! `/instances/{id}/webhook`: the one endpoint of an instance in the documented gateway.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::routes::webhooks;
use crate::http::routes::webhooks::dto::{EndpointResponse, NewEndpoint, SuccessResponse};
use crate::http::{AppState, json};
use crate::webhook::{EndpointConfig, EndpointView};
use relevo_domain::InstanceId;

/// The webhook of an instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceWebhook {
    #[schema(example = "shop")]
    instance_id: String,
    #[schema(example = "https://example.com/events")]
    url: String,
    /// `all` selects every event.
    events: Vec<String>,
    /// Asterisks, if a secret is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'static str>,
    enabled: bool,
    created_at: String,
    updated_at: String,
}

impl InstanceWebhook {
    fn new(instance: InstanceId, view: EndpointView) -> Self {
        Self {
            instance_id: instance.into(),
            url: view.url.into(),
            events: view.events.names(),
            secret: view.secret,
            enabled: view.disabled.is_none(),
            created_at: view.created_at.to_string(),
            updated_at: view.updated_at.to_string(),
        }
    }
}

/// Sets the webhook of an instance. It replaces the previous webhook and takes over its backlog.
#[utoipa::path(post, path = "/instances/{id}/webhook", operation_id = "set_webhook", tag = "webhooks",
    request_body = NewEndpoint, params(TargetInstance), responses(
        (status = 200, description = "It is set, durably.", body = EndpointResponse),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn set(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<EndpointResponse>, ApiError> {
    let request: NewEndpoint = json::parse(&body)?;
    let keeps_secret = request.keeps_secret();
    let config = request.into_config()?;
    // The mask is no secret.
    let config = EndpointConfig { secret: config.secret.filter(|_| !keeps_secret), ..config };
    let view = state.services.accounts.set_webhook(id, config, keeps_secret).await?;
    Ok(Json(EndpointResponse::new(webhooks::load_endpoint(&state, view).await?)))
}

/// The webhook of an instance.
#[utoipa::path(get, path = "/instances/{id}/webhook", operation_id = "get_webhook", tag = "webhooks", params(TargetInstance), responses(
    (status = 200, description = "The webhook.", body = InstanceWebhook),
    (status = 404, description = "No such instance, or it has no webhook.", body = ErrorBody),
))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceWebhook>, ApiError> {
    let view = state.services.accounts.webhook(&id)?;
    Ok(Json(InstanceWebhook::new(id, view)))
}

/// Deletes the webhook of an instance with its backlog.
#[utoipa::path(delete, path = "/instances/{id}/webhook", operation_id = "delete_webhook", tag = "webhooks",
    params(TargetInstance), responses(
        (status = 200, description = "It is deleted.", body = SuccessResponse),
        (status = 404, description = "No such instance, or it has no webhook.", body = ErrorBody),
    ))]
pub async fn delete(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<SuccessResponse>, ApiError> {
    state.services.accounts.delete_webhook(id).await?;
    Ok(SuccessResponse::json())
}
