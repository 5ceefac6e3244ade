//! `/webhooks` and `/instances/{id}/webhooks`: where events are delivered, and how that goes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{EndpointIdPath, JsonBody, TargetInstance};
use crate::http::{AppState, json};
use crate::webhook::{EndpointConfig, EndpointScope, EndpointUpdate, EndpointView, Events, Lag, SECRET_MASK};
use relevo_domain::{InstanceId, InstanceNumber, Secret, ValidationError};

use super::settings::{double_option, parse_http_url};

/// A new endpoint.
#[derive(Deserialize, ToSchema)]
pub struct NewEndpoint {
    #[serde(default)]
    #[schema(required = true, example = "https://example.com/events")]
    url: String,
    /// Names of events, such as `message_ack`. Without any, or with `all`, it is every event.
    #[serde(default)]
    events: Vec<String>,
    /// Signs deliveries. Never given back.
    secret: Option<String>,
    enabled: Option<bool>,
}

/// What changes about an endpoint; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub struct EndpointChanges {
    url: Option<String>,
    events: Option<Vec<String>>,
    /// `null`, or an empty text, takes it away.
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>)]
    secret: Option<Option<String>>,
    enabled: Option<bool>,
}

/// An endpoint, how it fares and how far behind it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Endpoint {
    #[schema(example = "ep_30313233343536373839616263646566")]
    endpoint_id: String,
    /// Whose events it gets; not there when it gets those of all instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    /// Whether it is the one at `/instances/{id}/webhook`.
    primary: bool,
    url: String,
    events: Vec<String>,
    /// Asterisks, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'static str>,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled: Option<EndpointDisabled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<EndpointFailure>,
    counts: EndpointCounts,
    lag: EndpointLag,
    /// RFC 3339, as all times here.
    created_at: String,
    updated_at: String,
}

/// Since when, and why, an endpoint gets nothing. What it misses is kept for it as long as events are kept.
#[derive(Debug, Serialize, ToSchema)]
struct EndpointDisabled {
    at: String,
    /// `requested`, or what its receiver did for so long.
    reason: String,
}

/// An event that the receiver does not take.
#[derive(Debug, Serialize, ToSchema)]
struct EndpointFailure {
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    since: String,
    attempts: u32,
    /// What the last attempt met.
    error: String,
    next_attempt_at: String,
}

/// What happened since the node started.
#[derive(Debug, Serialize, ToSchema)]
struct EndpointCounts {
    delivered: u64,
    /// Attempts that failed.
    failed: u64,
    /// Events put aside.
    parked: u64,
    /// Events that were forgotten before they could be delivered.
    missed: u64,
}

/// How far an endpoint is behind.
#[derive(Debug, Serialize, ToSchema)]
struct EndpointLag {
    /// Events that it was not told of yet, wanted or not.
    events: u64,
    /// The age of the oldest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seconds: Option<u64>,
}

/// One endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointResponse {
    success: bool,
    data: Endpoint,
}

/// Endpoints, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointList {
    success: bool,
    data: Vec<Endpoint>,
    total: usize,
}

/// It was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuccessResponse {
    success: bool,
}

impl EndpointResponse {
    pub fn new(data: Endpoint) -> Self {
        Self { success: true, data }
    }
}

impl SuccessResponse {
    pub fn json() -> Json<Self> {
        Json(Self { success: true })
    }
}

impl NewEndpoint {
    pub fn into_config(self) -> Result<EndpointConfig, ValidationError> {
        Ok(EndpointConfig {
            url: required_url(self.url)?,
            secret: self.secret.map(Secret::new),
            events: Events::parse(self.events)?,
            enabled: self.enabled.unwrap_or(true),
        })
    }

    /// Whether the secret is what was shown in its place: the one that is there is meant.
    pub fn keeps_secret(&self) -> bool {
        self.secret.as_deref() == Some(SECRET_MASK)
    }
}

impl EndpointChanges {
    fn into_update(self) -> Result<EndpointUpdate, ValidationError> {
        let secret = self.secret.filter(|secret| secret.as_deref() != Some(SECRET_MASK));
        Ok(EndpointUpdate {
            url: self.url.map(required_url).transpose()?,
            secret: secret.map(|secret| secret.map(Secret::new)),
            events: self.events.map(Events::parse).transpose()?,
            enabled: self.enabled,
        })
    }
}

fn required_url(text: String) -> Result<Url, ValidationError> {
    parse_http_url("url", Some(text))?.ok_or_else(|| ValidationError::new("url", "url es requerido"))
}

/// Shows an endpoint with how far it is behind.
pub(super) async fn load_endpoint(state: &AppState, view: EndpointView) -> Result<Endpoint, ApiError> {
    let Lag { events, oldest } = state.services.webhooks.lag(view.id).await?;
    let name = |number| instance_name(state, number).map(String::from);
    Ok(Endpoint {
        endpoint_id: view.id.to_string(),
        instance_id: match view.scope {
            EndpointScope::Instance(number) => name(number),
            EndpointScope::All => None,
        },
        primary: view.primary,
        url: view.url.into(),
        events: view.events.names(),
        secret: view.secret,
        enabled: view.disabled.is_none(),
        disabled: view.disabled.map(|it| EndpointDisabled { at: it.at.to_string(), reason: it.reason }),
        trouble: view.failures.map(|it| EndpointFailure {
            instance_id: name(it.instance),
            since: it.since.to_string(),
            attempts: it.attempts,
            error: it.error,
            next_attempt_at: it.next_attempt.to_string(),
        }),
        counts: EndpointCounts {
            delivered: view.counts.delivered,
            failed: view.counts.failed,
            parked: view.counts.parked,
            missed: view.counts.missed,
        },
        lag: EndpointLag { events, oldest_seconds: oldest.map(|age| age.as_secs()) },
        created_at: view.created_at.to_string(),
        updated_at: view.updated_at.to_string(),
    })
}

fn instance_name(state: &AppState, number: InstanceNumber) -> Option<InstanceId> {
    let names = state.services.instances.names().borrow().clone();
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| name.clone())
}

async fn endpoint_response(state: &AppState, view: EndpointView) -> Result<Json<EndpointResponse>, ApiError> {
    Ok(Json(EndpointResponse::new(load_endpoint(state, view).await?)))
}

async fn list_endpoints(
    state: &AppState,
    scope: Option<EndpointScope>,
) -> Result<Json<EndpointList>, ApiError> {
    let mut data = Vec::new();
    for view in state.services.webhooks.list(scope) {
        let id = view.id;
        match load_endpoint(state, view).await {
            Ok(endpoint) => data.push(endpoint),
            // Deleted since the list was made.
            Err(_) if state.services.webhooks.get(id).is_err() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Json(EndpointList { success: true, total: data.len(), data }))
}

async fn create_endpoint(
    state: &AppState,
    scope: EndpointScope,
    body: &[u8],
) -> Result<(StatusCode, Json<EndpointResponse>), ApiError> {
    let config = json::parse::<NewEndpoint>(body)?.into_config()?;
    let view = state.services.webhooks.create(scope, config).await?;
    Ok((StatusCode::CREATED, endpoint_response(state, view).await?))
}

/// Creates one more endpoint for an instance. It is told of what happens from now on.
#[utoipa::path(post, path = "/instances/{id}/webhooks", operation_id = "create_instance_endpoint", tag = "webhooks",
    request_body = NewEndpoint, responses(
        (status = 201, description = "It exists, durably.", body = EndpointResponse),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 409, description = "There are as many as there may be.", body = ErrorBody),
    ))]
pub async fn create_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<EndpointResponse>), ApiError> {
    let number = state.services.instances.get(&id)?.number;
    create_endpoint(&state, EndpointScope::Instance(number), &body).await
}

/// The endpoints of one instance alone.
#[utoipa::path(get, path = "/instances/{id}/webhooks", operation_id = "list_instance_endpoints", tag = "webhooks",
    responses(
        (status = 200, description = "Its endpoints.", body = EndpointList),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<EndpointList>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    list_endpoints(&state, Some(EndpointScope::Instance(number))).await
}

/// Creates an endpoint for the events of all instances, also of those that are created later.
#[utoipa::path(post, path = "/webhooks", operation_id = "create_endpoint", tag = "webhooks",
    request_body = NewEndpoint, responses(
        (status = 201, description = "It exists, durably.", body = EndpointResponse),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 409, description = "There are as many as there may be.", body = ErrorBody),
    ))]
pub async fn create(
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<EndpointResponse>), ApiError> {
    create_endpoint(&state, EndpointScope::All, &body).await
}

/// Every endpoint of the node.
#[utoipa::path(get, path = "/webhooks", operation_id = "list_endpoints", tag = "webhooks", responses(
    (status = 200, description = "All endpoints.", body = EndpointList),
))]
pub async fn list(State(state): State<AppState>) -> Result<Json<EndpointList>, ApiError> {
    list_endpoints(&state, None).await
}

/// One endpoint.
#[utoipa::path(get, path = "/webhooks/{endpoint_id}", operation_id = "get_endpoint", tag = "webhooks", responses(
    (status = 200, description = "The endpoint.", body = EndpointResponse),
    (status = 404, description = "No such endpoint.", body = ErrorBody),
))]
pub async fn get(
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
) -> Result<Json<EndpointResponse>, ApiError> {
    endpoint_response(&state, state.services.webhooks.get(id)?).await
}

/// Changes an endpoint. It keeps its place, and is attempted anew.
#[utoipa::path(put, path = "/webhooks/{endpoint_id}", operation_id = "update_endpoint", tag = "webhooks",
    request_body = EndpointChanges, responses(
        (status = 200, description = "It is changed, durably.", body = EndpointResponse),
        (status = 400, description = "The URL, an event's name or the secret is wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn update(
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    JsonBody(body): JsonBody,
) -> Result<Json<EndpointResponse>, ApiError> {
    let changes = json::parse::<EndpointChanges>(&body)?.into_update()?;
    let view = state.services.webhooks.update(id, changes).await?;
    endpoint_response(&state, view).await
}

/// Deletes an endpoint with its place and what it has parked.
#[utoipa::path(delete, path = "/webhooks/{endpoint_id}", operation_id = "delete_endpoint", tag = "webhooks",
    responses(
        (status = 200, description = "It is gone.", body = SuccessResponse),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn delete(
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
) -> Result<Json<SuccessResponse>, ApiError> {
    state.services.webhooks.delete(id).await?;
    Ok(SuccessResponse::json())
}

/// Enables an endpoint; it gets what it missed. One that is enabled is attempted at once.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/enable", operation_id = "enable_endpoint", tag = "webhooks",
    responses(
        (status = 200, description = "It is enabled.", body = EndpointResponse),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn enable(
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
) -> Result<Json<EndpointResponse>, ApiError> {
    let view = state.services.webhooks.enable(id).await?;
    endpoint_response(&state, view).await
}
