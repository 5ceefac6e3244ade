//! `GET /instances/{id}/scheduled`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::dto::MessageBody;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryParams, TargetInstance};
use crate::http::page::{self, PageResponse};
use crate::queue::{MessageView, ScheduleCursor};
use relevo_domain::{Timestamp, ValidationError};

/// The query of scheduled messages.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ScheduledQuery {
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// Scheduled messages, the next one first.
#[utoipa::path(get, path = "/instances/{id}/scheduled", operation_id = "list_scheduled", tag = "messages",
    params(TargetInstance, ScheduledQuery), responses(
        (status = 200, description = "A page of messages; `next_attempt_at` is their time.", body = PageResponse<MessageBody>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(query): QueryParams<ScheduledQuery>,
) -> Result<Json<PageResponse<MessageBody>>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let limit = page::validate_limit(query.limit)?;
    let after = query.after.as_deref().map(parse_cursor).transpose()?;
    let found = state.services.queue.scheduled(number, after, limit).await?;
    Ok(Json(PageResponse::new(found, limit, encode_cursor)))
}

/// The time in milliseconds, a dash, and the message id.
fn encode_cursor(view: &MessageView) -> Option<String> {
    view.due.map(|due| format!("{}-{}", due.millis(), view.id))
}

fn parse_cursor(text: &str) -> Result<ScheduleCursor, ValidationError> {
    let parts =
        text.split_once('-').and_then(|(at, id)| Some((Timestamp(at.parse().ok()?), id.parse().ok()?)));
    parts.ok_or_else(|| ValidationError::new("after", "must be the `next` of the page before"))
}
