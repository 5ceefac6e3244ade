//! `GET …/events/stream`.

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::dto::EventQuery;
use super::open_reader;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::connection::Connection;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryParams, TargetInstance};
use crate::http::stream::reader::EventScope;
use crate::http::stream::sse;

/// The cursor of an `EventSource` that reconnects.
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) async fn sse_response(
    state: &AppState,
    scope: EventScope,
    query: &EventQuery,
    headers: &HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let last = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    let after = last.or(query.after.as_deref());
    let reader = open_reader(state, scope, query.kinds()?, after).await?;
    sse::response(state, reader, connection)
}

/// The events of an instance as server-sent events. `id` is the sequence, `event` the type, and `data` the event as
/// in pages. `Last-Event-ID` wins over `after`.
#[utoipa::path(get, path = "/instances/{id}/events/stream", operation_id = "stream_instance_events",
    tag = "events", params(TargetInstance, EventQuery), responses(
        (status = 200, description = "Events, until either side closes the stream.", content_type = "text/event-stream",
            body = String),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 503, description = "The limit of streams is reached.", body = ErrorBody),
    ))]
pub async fn stream_for_instance(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(query): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let scope = EventScope::Instance(state.services.instances.get(&id)?.number);
    sse_response(&state, scope, &query, &headers, connection).await
}

/// The same for all instances; `id` is an opaque cursor.
#[utoipa::path(get, path = "/events/stream", operation_id = "stream_events", tag = "events",
    params(EventQuery), responses(
        (status = 200, description = "Events, until either side closes the stream.", content_type = "text/event-stream",
            body = String),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 503, description = "The limit of streams is reached.", body = ErrorBody),
    ))]
pub async fn stream_all(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(query): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    sse_response(&state, EventScope::All, &query, &headers, connection).await
}
