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

/// From where an endpoint is told again: a sequence or a time.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ReplayRequest {
    /// One instance alone. Required with `sequence` for an endpoint of all instances.
    instance_id: Option<String>,
    /// The first event, by its place in the log of its instance.
    sequence: Option<u64>,
    /// The first event that is not older: RFC 3339 or Unix seconds.
    #[schema(value_type = Option<String>)]
    time: Option<RequestTimestamp>,
}

/// Puts an endpoint back (or forward) to a place in the log: everything from there on is delivered, again if it was
/// before.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/replay", operation_id = "replay_from", tag = "webhooks",
    request_body = ReplayRequest, params(EndpointIdPath), responses(
        (status = 200, description = "It is told from there.", body = SuccessResponse),
        (status = 400, description = "The place is missing or wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint, or no such instance.", body = ErrorBody),
    ))]
pub async fn replay_from(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    JsonBody(body): JsonBody,
) -> Result<Json<SuccessResponse>, ApiError> {
    let asked: ReplayRequest = json::parse(&body)?;
    let from = match (asked.sequence, asked.time) {
        (Some(sequence), None) => ReplayFrom::Sequence(sequence),
        (None, Some(moment)) => ReplayFrom::Time(moment.0),
        _ => return Err(ValidationError::new("sequence", "give either sequence or time").into()),
    };
    let instance = asked.instance_id.map(|name| name.parse::<InstanceId>()).transpose()?;
    let instance = instance.map(|name| state.services.instances.get(&name)).transpose()?;
    state.services.webhooks.replay_from(id, instance.map(|view| view.number), from).await?;
    Ok(SuccessResponse::json())
}
