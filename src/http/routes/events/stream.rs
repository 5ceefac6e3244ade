//! `GET …/events/stream`.

use axum::extract::State;
use axum::response::Response;

use super::{EventRequest, instance_scope, open_reader};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::http::stream::reader::EventScope;
use crate::http::stream::sse;

/// The cursor of an `EventSource` that reconnects.
const LAST_EVENT_ID: &str = "last-event-id";

impl EventRequest {
    /// The stream of events.
    pub(super) async fn stream(self, state: &AppState, scope: EventScope) -> Result<Response, ApiError> {
        let last = self.headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok());
        let after = last.filter(|id| !id.is_empty()).or(self.query.after.as_deref());
        let reader = open_reader(state, scope, self.query.kinds()?, after).await?;
        sse::response(state, reader, self.connection)
    }
}

/// The events of an instance as server-sent events. `id` is the sequence, `event` the type, and `data` the event as
/// in pages. `Last-Event-ID` wins over `after`.
#[utoipa::path(get, path = "/instances/{id}/events/stream", operation_id = "stream_instance_events",
    tag = "events", params(TargetInstance, EventRequest), responses(
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
    request: EventRequest,
) -> Result<Response, ApiError> {
    request.stream(&state, instance_scope(&state, &id)?).await
}

/// The same for all instances; `id` is an opaque cursor.
#[utoipa::path(get, path = "/events/stream", operation_id = "stream_events", tag = "events",
    params(EventRequest), responses(
        (status = 200, description = "Events, until either side closes the stream.", content_type = "text/event-stream",
            body = String),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 503, description = "The limit of streams is reached.", body = ErrorBody),
    ))]
pub async fn stream_all(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    request: EventRequest,
) -> Result<Response, ApiError> {
    request.stream(&state, EventScope::All).await
}
