//! `/instances/{id}/scheduled`: messages whose sender chose their moment.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::AppState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryOf, Target};
use crate::http::page::{self, Page};
use crate::queue::{MessageView, ScheduleCursor};
use relevo_domain::{Invalid, Timestamp};

use super::message::Message;

/// Which page of scheduled messages.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// Messages that wait for their moment, the next one first.
#[utoipa::path(get, path = "/instances/{id}/scheduled", operation_id = "list_scheduled", tag = "messages",
    params(Wanted), responses(
        (status = 200, description = "A page of them; `next_attempt_at` is their moment.", body = Page<Message>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list(
    State(state): State<AppState>,
    Target(id): Target,
    QueryOf(wanted): QueryOf<Wanted>,
) -> Result<Json<Page<Message>>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let limit = page::limit(wanted.limit)?;
    let after = wanted.after.as_deref().map(parse).transpose()?;
    let found = state.services.queue.scheduled(number, after, limit).await?;
    Ok(Json(Page::of(found, limit, cursor)))
}

/// The moment in milliseconds, a dash, and the message.
fn cursor(view: &MessageView) -> Option<String> {
    view.due.map(|due| format!("{}-{}", due.millis(), view.id))
}

fn parse(text: &str) -> Result<ScheduleCursor, Invalid> {
    let parts =
        text.split_once('-').and_then(|(at, id)| Some((Timestamp(at.parse().ok()?), id.parse().ok()?)));
    parts.ok_or_else(|| Invalid::new("after", "must be the `next` of the page before"))
}
