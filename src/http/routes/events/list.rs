//! `GET …/events`.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::dto::{EventPage, EventQuery};
use super::{page_or_stream, parse_cursor};
use crate::events;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::connection::Connection;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryParams, TargetInstance};
use crate::http::stream::entry::EventEntry;
use crate::http::stream::reader::EventScope;

/// A page ends with the event that reaches this size, in bytes.
const PAGE_BYTES: usize = 4 << 20;

pub(super) async fn read_page(
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

/// The events of an instance, oldest first. With `Accept: text/event-stream` the response is the stream of
/// `…/events/stream`.
#[utoipa::path(get, path = "/instances/{id}/events", operation_id = "list_instance_events", tag = "events",
    params(TargetInstance, EventQuery), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list_for_instance(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(query): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let scope = EventScope::Instance(state.services.instances.get(&id)?.number);
    page_or_stream(&state, scope, &query, &headers, connection).await
}

/// The events of all instances: in order within an instance, and older events before newer ones of other instances.
/// With `Accept: text/event-stream` the response is the stream of `/events/stream`.
#[utoipa::path(get, path = "/events", operation_id = "list_events", tag = "events",
    params(EventQuery), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_all(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(query): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    page_or_stream(&state, EventScope::All, &query, &headers, connection).await
}
