//! `/webhooks/{endpoint_id}/parked…`: events that an endpoint did not accept.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::dto::SuccessResponse;
use super::resolve_event;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{EndpointIdPath, EventPath, QueryParams};
use crate::http::page::{self, PageResponse};
use crate::webhook::{self, EventRef, ParkedView};
use relevo_domain::{InstanceNumber, ValidationError};

/// Maximum number of parked events of a page: the limit of the webhook module.
const MAX_PARKED: usize = 100;

/// An event that the receiver rejected, and that was parked so that later events are delivered.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedDelivery {
    /// Missing when the instance was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    /// The sequence of the event in the log of its instance.
    sequence: u64,
    parked_at: String,
    /// `refused` or `exhausted`.
    reason: &'static str,
    attempts: u32,
    /// The error of the last attempt.
    error: String,
    /// Missing when the log no longer retains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<ParkedEvent>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ParkedEvent {
    #[schema(example = "message_ack")]
    event: String,
    at: String,
    #[schema(value_type = Object)]
    data: Value,
}

/// The query of parked events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ParkedQuery {
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<String>,
    /// 1 to 500, of which at most 100 are returned; 50 without it.
    limit: Option<usize>,
}

/// The outcome of a replay.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayResponse {
    success: bool,
    data: ReplayResult,
}

#[derive(Debug, Serialize, ToSchema)]
struct ReplayResult {
    /// The number of events that were delivered and are no longer parked.
    delivered: usize,
    /// The first event that was not accepted. It and the following events stay parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<ReplayFailure>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ReplayFailure {
    sequence: u64,
    error: String,
}

impl From<ParkedView> for ParkedDelivery {
    fn from(view: ParkedView) -> Self {
        Self {
            instance_id: view.instance.map(String::from),
            sequence: view.event_ref.sequence,
            parked_at: view.at.to_string(),
            reason: view.reason.as_str(),
            attempts: view.attempts,
            error: view.error,
            event: view.event.map(|event| ParkedEvent {
                event: event.kind.to_string(),
                at: event.at.to_string(),
                data: event.data,
            }),
        }
    }
}

/// The number of the instance, a dash, and the sequence.
fn encode_cursor(view: &ParkedView) -> Option<String> {
    Some(format!("{}-{}", view.event_ref.instance.get(), view.event_ref.sequence))
}

fn parse_cursor(text: &str) -> Result<EventRef, ValidationError> {
    let parts = text.split_once('-').and_then(|(instance, sequence)| {
        let instance = InstanceNumber::from_be_bytes(instance.parse::<u32>().ok()?.to_be_bytes())?;
        Some(EventRef { instance, sequence: sequence.parse().ok()? })
    });
    parts.ok_or_else(|| ValidationError::new("after", "must be the `next` of the page before"))
}

/// The parked events of an endpoint, in order.
#[utoipa::path(get, path = "/webhooks/{endpoint_id}/parked", operation_id = "list_parked", tag = "webhooks",
    params(EndpointIdPath, ParkedQuery), responses(
        (status = 200, description = "A page.", body = PageResponse<ParkedDelivery>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn list_parked(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    QueryParams(query): QueryParams<ParkedQuery>,
) -> Result<Json<PageResponse<ParkedDelivery>>, ApiError> {
    let limit = page::validate_limit(query.limit)?.min(MAX_PARKED);
    let after = query.after.as_deref().map(parse_cursor).transpose()?;
    let found = state.services.webhooks.parked(id, after, limit).await?;
    Ok(Json(PageResponse::new(found, limit, encode_cursor)))
}

/// Attempts up to 100 parked events again, in order, until one is not accepted.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/parked/replay", operation_id = "replay_parked",
    tag = "webhooks", params(EndpointIdPath), responses(
        (status = 200, description = "The outcome.", body = ReplayResponse),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn replay_parked(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
) -> Result<Json<ReplayResponse>, ApiError> {
    Ok(replay_response(state.services.webhooks.replay_all_parked(id).await?))
}

/// Attempts one parked event once.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/parked/{instance_id}/{sequence}/replay",
    operation_id = "replay_parked_event", tag = "webhooks", params(EndpointIdPath, EventPath), responses(
        (status = 200, description = "The outcome.", body = ReplayResponse),
        (status = 404, description = "No such endpoint, or the event is not parked or no longer retained.",
            body = ErrorBody),
    ))]
pub async fn replay_parked_event(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    name: EventPath,
) -> Result<Json<ReplayResponse>, ApiError> {
    let replayed = state.services.webhooks.replay_parked(id, resolve_event(&state, &name)?).await?;
    Ok(replay_response(replayed))
}

/// Deletes a parked event.
#[utoipa::path(delete, path = "/webhooks/{endpoint_id}/parked/{instance_id}/{sequence}",
    operation_id = "discard_parked_event", tag = "webhooks", params(EndpointIdPath, EventPath), responses(
        (status = 200, description = "It is no longer parked.", body = SuccessResponse),
        (status = 404, description = "No such endpoint, or the event is not parked.", body = ErrorBody),
    ))]
pub async fn discard(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    name: EventPath,
) -> Result<Json<SuccessResponse>, ApiError> {
    state.services.webhooks.discard_parked(id, resolve_event(&state, &name)?).await?;
    Ok(SuccessResponse::json())
}

fn replay_response(replayed: webhook::ReplayOutcome) -> Json<ReplayResponse> {
    let failed = replayed.failed.map(|(place, error)| ReplayFailure { sequence: place.sequence, error });
    let data = ReplayResult { delivered: replayed.delivered.len(), failed };
    Json(ReplayResponse { success: true, data })
}
