//! `/events` and `/instances/{id}/events`: the event log in pages, as server-sent events and as WebSocket frames.

mod dto;
pub(in crate::http) mod list;
pub(in crate::http) mod stream;
pub(in crate::http) mod ws;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use crate::events::{self, EventFilter, LogCursor};
use crate::http::AppState;
use crate::http::connection::Connection;
use crate::http::error::ApiError;
use crate::http::extract::QueryParams;
use crate::http::stream::reader::{EventReader, EventScope};
use dto::EventQuery;
use relevo_domain::{InstanceId, ValidationError};

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

/// A request for a page or a stream of events.
pub(in crate::http) struct EventRequest {
    query: EventQuery,
    headers: HeaderMap,
    connection: Option<Connection>,
}

impl FromRequestParts<AppState> for EventRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let QueryParams(query) = QueryParams::from_request_parts(parts, state).await?;
        let connection = parts.extensions.get().cloned();
        Ok(Self { query, headers: parts.headers.clone(), connection })
    }
}

impl IntoParams for EventRequest {
    fn into_params(location: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        EventQuery::into_params(location)
    }
}

/// The scope of one instance.
fn instance_scope(state: &AppState, id: &InstanceId) -> Result<EventScope, ApiError> {
    Ok(EventScope::Instance(state.services.instances.get(id)?.number))
}
