//! `GET …/events`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::dto::{EventPage, EventQuery};
use super::{EventRequest, instance_scope, parse_cursor};
use crate::events;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::http::stream::entry::EventEntry;
use crate::http::stream::reader::EventScope;
use crate::http::stream::sse::accepts_event_stream;

/// A page ends with the event that reaches this size, in bytes.
const PAGE_BYTES: usize = 4 << 20;

async fn read_page(
    state: &AppState,
    scope: EventScope,
    query: &EventQuery,
) -> Result<Json<EventPage>, ApiError> {
    let (limit, kinds) = (query.limit()?, query.kinds()?);
    let from = parse_cursor(state, scope, query.after.as_deref().unwrap_or_default()).await?;
    let known = state.services.instances.names().borrow().clone();
    let page_query =
        events::LogPageQuery { kinds, limit, bytes: PAGE_BYTES, now: state.services.clock.now() };
    let (log, instances) = (&state.services.events, scope.instances(&known));
    log.wait_until_durable(&instances).await.map_err(events::Error::from)?;
    let found = log.page(&instances, &from, &page_query).await.map_err(events::Error::from)?;
    let entry = |item: events::LogItem| {
        let name = known.iter().find(|(number, _)| *number == item.instance)?.1.clone();
        Some(EventEntry::new(item, name))
    };
    Ok(Json(EventPage {
        success: true,
        data: found.items.into_iter().filter_map(entry).collect(),
        next: scope.encode_cursor(&found.next),
        more: !found.at_end,
    }))
}

impl EventRequest {
    /// A page, or with `Accept: text/event-stream` the stream.
    async fn page_or_stream(self, state: &AppState, scope: EventScope) -> Result<Response, ApiError> {
        if accepts_event_stream(&self.headers) {
            return self.stream(state, scope).await;
        }
        Ok(read_page(state, scope, &self.query).await?.into_response())
    }
}

/// The events of an instance, oldest first. With `Accept: text/event-stream` the response is the stream of
/// `…/events/stream`.
#[utoipa::path(get, path = "/instances/{id}/events", operation_id = "list_instance_events", tag = "events",
    params(TargetInstance, EventRequest), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list_for_instance(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    request: EventRequest,
) -> Result<Response, ApiError> {
    request.page_or_stream(&state, instance_scope(&state, &id)?).await
}

/// The events of all instances: in order within an instance, and older events before newer ones of other instances.
/// With `Accept: text/event-stream` the response is the stream of `/events/stream`.
#[utoipa::path(get, path = "/events", operation_id = "list_events", tag = "events",
    params(EventRequest), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_all(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    request: EventRequest,
) -> Result<Response, ApiError> {
    request.page_or_stream(&state, EventScope::All).await
}
