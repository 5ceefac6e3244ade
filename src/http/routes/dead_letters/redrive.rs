//! `POST …/dead-letters/…/redrive`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::DeadLetterAction;
use super::dto::DeadLetterSelection;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, MessageIdPath, TargetInstance};
use crate::http::routes::messages;
use crate::http::routes::messages::dto::MessageResponse;
use crate::http::{AppState, json};

/// The number of redriven dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedriveResponse {
    success: bool,
    data: RedriveResult,
}

#[derive(Debug, Serialize, ToSchema)]
struct RedriveResult {
    redriven: usize,
}

/// Puts a dead letter back into its queue, with new attempts. A message with an unknown outcome may arrive twice.
#[utoipa::path(post, path = "/instances/{id}/dead-letters/{message_id}/redrive", operation_id = "redrive_dead_letter",
    tag = "dead letters", params(TargetInstance, MessageIdPath), responses(
        (status = 200, description = "It is queued.", body = MessageResponse),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is not a dead letter.", body = ErrorBody),
    ))]
pub async fn redrive(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    let message = DeadLetterAction::Redrive.apply_to_one(&state, &id, &name).await?;
    messages::load_response(&state, &id, message)
}

/// Puts the selected dead letters back into their queue.
#[utoipa::path(post, path = "/instances/{id}/dead-letters/redrive", operation_id = "redrive_dead_letters",
    tag = "dead letters", request_body = Option<DeadLetterSelection>, params(TargetInstance), responses(
        (status = 200, description = "They are queued.", body = RedriveResponse),
        (status = 400, description = "The filter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn redrive_all(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<RedriveResponse>, ApiError> {
    // An unknown instance is reported before an invalid filter.
    state.services.instances.get(&id)?;
    let which: DeadLetterSelection =
        if body.trim_ascii().is_empty() { DeadLetterSelection::default() } else { json::parse(&body)? };
    let redriven = DeadLetterAction::Redrive.apply_to_selected(&state, &id, &which).await?;
    Ok(Json(RedriveResponse { success: true, data: RedriveResult { redriven } }))
}
