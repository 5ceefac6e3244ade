//! `POST /webhooks/{endpoint_id}/replay`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::dto::SuccessResponse;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{EndpointIdPath, JsonBody};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json};
use crate::webhook::ReplayFrom;
use relevo_domain::{InstanceId, ValidationError};

/// The start of a replay: a sequence or a time.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ReplayRequest {
    /// Only this instance. Required with `sequence` for an endpoint of all instances.
    instance_id: Option<String>,
    /// The sequence of the first event.
    sequence: Option<u64>,
    /// The time of the first event: RFC 3339 or Unix seconds.
    #[schema(value_type = Option<String>)]
    time: Option<RequestTimestamp>,
}

/// Moves the cursor of an endpoint: every event from there on is delivered, again if it was delivered before.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/replay", operation_id = "replay_from", tag = "webhooks",
    request_body = ReplayRequest, params(EndpointIdPath), responses(
        (status = 200, description = "The cursor is moved, durably.", body = SuccessResponse),
        (status = 400, description = "The sequence or time is missing or wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint, or no such instance.", body = ErrorBody),
    ))]
pub async fn replay_from(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    JsonBody(body): JsonBody,
) -> Result<Json<SuccessResponse>, ApiError> {
    let request: ReplayRequest = json::parse(&body)?;
    let from = match (request.sequence, request.time) {
        (Some(sequence), None) => ReplayFrom::Sequence(sequence),
        (None, Some(moment)) => ReplayFrom::Time(moment.0),
        _ => return Err(ValidationError::new("sequence", "give either sequence or time").into()),
    };
    let instance = request.instance_id.map(|name| name.parse::<InstanceId>()).transpose()?;
    let instance = instance.map(|name| state.services.instances.get(&name)).transpose()?;
    state.services.webhooks.replay_from(id, instance.map(|view| view.number), from).await?;
    Ok(SuccessResponse::json())
}
