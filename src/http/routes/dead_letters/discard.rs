//! `DELETE …/dead-letters…`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::DeadLetterAction;
use super::dto::DeadLetterSelection;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{MessageIdPath, QueryParams, TargetInstance};

/// The number of discarded dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiscardResponse {
    success: bool,
    data: DiscardResult,
}

#[derive(Debug, Serialize, ToSchema)]
struct DiscardResult {
    discarded: usize,
}

/// Deletes a dead letter and its content; its status stays available.
#[utoipa::path(delete, path = "/instances/{id}/dead-letters/{message_id}", operation_id = "discard_dead_letter",
    tag = "dead letters", params(TargetInstance, MessageIdPath), responses(
        (status = 200, description = "It is deleted.", body = DiscardResponse),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is not a dead letter.", body = ErrorBody),
    ))]
pub async fn discard(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<DiscardResponse>, ApiError> {
    DeadLetterAction::Discard.apply_to_one(&state, &id, &name).await?;
    Ok(Json(DiscardResponse { success: true, data: DiscardResult { discarded: 1 } }))
}

/// Deletes the selected dead letters.
#[utoipa::path(delete, path = "/instances/{id}/dead-letters", operation_id = "discard_dead_letters",
    tag = "dead letters", params(TargetInstance, DeadLetterSelection), responses(
        (status = 200, description = "They are deleted.", body = DiscardResponse),
        (status = 400, description = "The filter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn discard_all(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(which): QueryParams<DeadLetterSelection>,
) -> Result<Json<DiscardResponse>, ApiError> {
    let discarded = DeadLetterAction::Discard.apply_to_selected(&state, &id, &which).await?;
    Ok(Json(DiscardResponse { success: true, data: DiscardResult { discarded } }))
}
