//! `/instances/{id}/webhook`: the one endpoint that clients of the documented gateway know.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, Target};
use crate::http::{AppState, json};
use crate::webhook::{EndpointConfig, EndpointUpdate, EndpointView, Events};
use relevo_domain::{ErrorKind, InstanceId, InstanceNumber};

use super::endpoints::{self, EndpointAnswer, NewEndpoint, Success};

/// An instance's webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct Webhook {
    #[schema(example = "shop")]
    instance_id: String,
    #[schema(example = "https://example.com/events")]
    url: String,
    /// `all` is every event.
    events: Vec<String>,
    /// Asterisks, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'static str>,
    enabled: bool,
    created_at: String,
    updated_at: String,
}

impl Webhook {
    fn of(instance: InstanceId, view: EndpointView) -> Self {
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

/// Sets an instance's webhook. It replaces the one before, whose backlog it gets.
#[utoipa::path(post, path = "/instances/{id}/webhook", operation_id = "set_webhook", tag = "webhooks",
    request_body = NewEndpoint, responses(
        (status = 200, description = "It is set, durably.", body = EndpointAnswer),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn set(
    State(state): State<AppState>,
    Target(id): Target,
    JsonBody(body): JsonBody,
) -> Result<Json<EndpointAnswer>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let asked: NewEndpoint = json::parse(&body)?;
    let webhooks = &state.services.webhooks;
    let present = webhooks.primary(number).filter(|_| asked.keeps_secret());
    let config = asked.into_config()?;
    let view = match present {
        None => webhooks.set_primary(number, config).await?,
        Some(present) => {
            let EndpointConfig { url, events, enabled, .. } = config;
            let update =
                EndpointUpdate { url: Some(url), secret: None, events: Some(events), enabled: Some(enabled) };
            webhooks.update(present.id, update).await?
        }
    };
    Ok(Json(EndpointAnswer::of(endpoints::shown(&state, view).await?)))
}

/// An instance's webhook.
#[utoipa::path(get, path = "/instances/{id}/webhook", operation_id = "get_webhook", tag = "webhooks", responses(
    (status = 200, description = "The webhook.", body = Webhook),
    (status = 404, description = "No such instance, or it has no webhook.", body = ErrorBody),
))]
pub async fn get(State(state): State<AppState>, Target(id): Target) -> Result<Json<Webhook>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let view = state.services.webhooks.primary(number).ok_or_else(none)?;
    Ok(Json(Webhook::of(id, view)))
}

/// Deletes an instance's webhook, with its backlog.
#[utoipa::path(delete, path = "/instances/{id}/webhook", operation_id = "delete_webhook", tag = "webhooks",
    responses(
        (status = 200, description = "It is gone.", body = Success),
        (status = 404, description = "No such instance, or it has no webhook.", body = ErrorBody),
    ))]
pub async fn delete(State(state): State<AppState>, Target(id): Target) -> Result<Json<Success>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    match state.services.webhooks.remove_primary(number).await? {
        true => Ok(Success::answer()),
        false => Err(none()),
    }
}

fn none() -> ApiError {
    let details = "this instance has no webhook; set one with POST /instances/{id}/webhook";
    ApiError::new(ErrorKind::NotFound, details)
}

/// What `webhook_url` of an instance asks for: an endpoint for every event, or for the one that is there another
/// URL, or none any more.
pub(super) async fn aim(state: &AppState, number: InstanceNumber, url: Option<Url>) -> Result<(), ApiError> {
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
    .map_err(at_webhook_url)
}

/// Refuses a `webhook_url` before anything else is done.
pub(super) async fn check(state: &AppState, url: Option<&Url>) -> Result<(), ApiError> {
    match url {
        Some(url) => state.services.webhooks.permits(url).await.map_err(at_webhook_url),
        None => Ok(()),
    }
}

fn at_webhook_url(error: crate::webhook::Error) -> ApiError {
    let wrong = error.kind() == ErrorKind::Invalid;
    let error = ApiError::from(error);
    if wrong { error.at("webhook_url") } else { error }
}
