//! `/events` and `/instances/{id}/events`: the event log in pages, as server-sent events and as WebSocket frames.

mod dto;
pub(in crate::http) mod list;
pub(in crate::http) mod stream;
pub(in crate::http) mod ws;

use axum::extract::Extension;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::events::{self, EventFilter, LogCursor};
use crate::http::AppState;
use crate::http::connection::Connection;
use crate::http::error::ApiError;
use crate::http::stream::reader::{EventReader, EventScope};
use crate::http::stream::sse::accepts_event_stream;
use dto::EventQuery;
use list::read_page;
use relevo_domain::ValidationError;
use stream::sse_response;

/// Parses `after`. An empty text is the beginning of the log.
async fn parse_cursor(state: &AppState, scope: EventScope, after: &str) -> Result<LogCursor, ApiError> {
    if after.is_empty() {
        return Ok(LogCursor::default());
    }
    let mut places = match scope {
        EventScope::Instance(number) => {
            let sequence = after
                .parse()
                .map_err(|_| ValidationError::new("after", "must be the sequence of an event"))?;
            LogCursor::single(number, sequence)
        }
        EventScope::All => LogCursor::decode(after)?,
    };
    let known = scope.instances(&state.services.instances.names().borrow());
    places.retain(|number| known.contains(&number));
    state.services.events.check_cursor(&places)?;
    Ok(places)
}

/// A live reader. Without `after` it begins with new events.
async fn open_reader(
    state: &AppState,
    scope: EventScope,
    kinds: EventFilter,
    after: Option<&str>,
) -> Result<EventReader, ApiError> {
    let from = match after {
        Some(after) => parse_cursor(state, scope, after).await?,
        None => {
            let instances = scope.instances(&state.services.instances.names().borrow());
            let log = &state.services.events;
            log.wait_until_durable(&instances).await.map_err(events::Error::from)?;
            log.end_cursor(&instances).map_err(events::Error::from)?
        }
    };
    Ok(EventReader::new(&state.services, scope, kinds, from))
}

async fn page_or_stream(
    state: &AppState,
    scope: EventScope,
    query: &EventQuery,
    headers: &HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    if accepts_event_stream(headers) {
        return sse_response(state, scope, query, headers, connection).await;
    }
    Ok(read_page(state, scope, query).await?.into_response())
}
