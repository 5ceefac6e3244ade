//! `/instances/{id}/webhook`: the one endpoint of an instance in the documented gateway.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::routes::webhooks;
use crate::http::routes::webhooks::dto::{EndpointResponse, NewEndpoint, SuccessResponse};
use crate::http::{AppState, json};
use crate::webhook::{EndpointConfig, EndpointUpdate, EndpointView, Events};
use relevo_domain::{ErrorKind, InstanceId, InstanceNumber};

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
    let number = state.services.instances.get(&id)?.number;
    let request: NewEndpoint = json::parse(&body)?;
    let webhooks = &state.services.webhooks;
    let present = webhooks.primary(number).filter(|_| request.keeps_secret());
    let config = request.into_config()?;
    let view = match present {
        None => webhooks.set_primary(number, config).await?,
        Some(present) => {
            let EndpointConfig { url, events, enabled, .. } = config;
            let update =
                EndpointUpdate { url: Some(url), secret: None, events: Some(events), enabled: Some(enabled) };
            webhooks.update(present.id, update).await?
        }
    };
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
    let number = state.services.instances.get(&id)?.number;
    let view = state.services.webhooks.primary(number).ok_or_else(webhook_not_found)?;
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
    let number = state.services.instances.get(&id)?.number;
    match state.services.webhooks.remove_primary(number).await? {
        true => Ok(SuccessResponse::json()),
        false => Err(webhook_not_found()),
    }
}

fn webhook_not_found() -> ApiError {
    let details = "this instance has no webhook; set one with POST /instances/{id}/webhook";
    ApiError::new(ErrorKind::NotFound, details)
}

/// Applies the `webhook_url` of an instance: creates or updates its endpoint for all events, or deletes it.
///
/// # Errors
///
/// The endpoint cannot be created, updated or deleted.
pub(super) async fn set_webhook(
    state: &AppState,
    number: InstanceNumber,
    url: Option<Url>,
) -> Result<(), ApiError> {
    let webhooks = &state.services.webhooks;
    match (webhooks.primary(number), url) {
        (_, None) => webhooks.remove_primary(number).await.map(drop),
        (None, Some(url)) => {
            let config = EndpointConfig { url, secret: None, events: Events::All, enabled: true };
            webhooks.set_primary(number, config).await.map(drop)
        }
        (Some(present), Some(url)) if present.url == url => Ok(()),
        (Some(present), Some(url)) => {
            let update = EndpointUpdate { url: Some(url), ..EndpointUpdate::default() };
            webhooks.update(present.id, update).await.map(drop)
        }
    }
    .map_err(with_webhook_url_field)
}

/// Validates a `webhook_url` before anything is changed.
///
/// # Errors
///
/// The URL is invalid or not permitted.
pub(super) async fn check_webhook_url(state: &AppState, url: Option<&Url>) -> Result<(), ApiError> {
    match url {
        Some(url) => state.services.webhooks.check_url(url).await.map_err(with_webhook_url_field),
        None => Ok(()),
    }
}

fn with_webhook_url_field(error: crate::webhook::Error) -> ApiError {
    let wrong = error.kind() == ErrorKind::Invalid;
    let error = ApiError::from(error);
    if wrong { error.with_field("webhook_url") } else { error }
}
