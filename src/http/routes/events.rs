//! `/events` and `/instances/{id}/events`: what happened, page by page or as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use utoipa::{IntoParams, ToSchema};

use crate::events::{self, EventFilter, LogCursor};
use crate::http::AppState;
use crate::http::connection::Connection;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryParams, TargetInstance};
use crate::http::feed::{EventReader, EventScope, StreamedEvent};
use crate::http::streams::{EVENT_STREAM_TYPE, StreamSlot, accepts_event_stream};
use relevo_domain::{InstanceId, ValidationError};

/// Events of a page when nobody says how many, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// A page ends with the event that reaches so many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// How often a stream without events shows that it lives, or oftener where patience is shorter. Proxies give up on
/// silence after 30 or 60 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Where an `EventSource` was when it lost its connection.
const LAST_EVENT_ID: &str = "last-event-id";

/// Tells a browser to come back after so many milliseconds when a stream ends.
const RETRY_FIELD: &str = "retry: 2000\n\n";

/// An event as every reader gets it.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventEntry {
    /// Its place in the log of its instance.
    sequence: u64,
    /// `gap` stands for events that the log has forgotten: its data says `from`, `to` and how many are `missing`.
    #[serde(rename = "type")]
    #[schema(example = "message_ack")]
    kind: String,
    /// Unix seconds.
    timestamp: u64,
    /// The same, in RFC 3339 with milliseconds.
    time: String,
    instance_id: String,
    #[schema(value_type = Object)]
    data: Value,
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    success: bool,
    data: Vec<EventEntry>,
    /// Give it as `after` to go on. There may be more behind a page that is not full, even behind an empty one.
    next: String,
    /// Whether there was more when the page was read.
    more: bool,
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// The sequence, or the `next`, behind which to begin. Empty: with the oldest event. A stream without it tells
    /// what happens from now on.
    pub after: Option<String>,
    /// Kinds of events, separated by commas. Without it, or with `all`, it is every event.
    pub types: Option<String>,
    /// 1 to 1000; 100 without it. Streams have no limit.
    limit: Option<usize>,
}

impl EventQuery {
    pub fn kinds(&self) -> Result<EventFilter, ValidationError> {
        let names = self.types.as_deref().unwrap_or_default().split(',').map(str::trim);
        EventFilter::from_names("types", names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    fn limit(&self) -> Result<usize, ValidationError> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(ValidationError::new("limit", format!("must be 1 to {MAX_LIMIT}"))),
        }
    }
}

impl EventEntry {
    fn new(item: events::LogItem, name: InstanceId) -> Self {
        let events::Envelope { sequence, event } = item.envelope;
        Self {
            sequence,
            kind: event.kind.to_string(),
            timestamp: event.at.seconds(),
            time: event.at.to_string(),
            instance_id: name.into(),
            data: event.data,
        }
    }
}

/// Where to begin: `after` as it was given. An empty one is the beginning.
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

/// A reader that stays. Without a place it begins with what comes next.
pub(super) async fn open_reader(
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

async fn read_page(
    state: &AppState,
    scope: EventScope,
    asked: &EventQuery,
) -> Result<Json<EventPage>, ApiError> {
    let (limit, kinds) = (asked.limit()?, asked.kinds()?);
    let from = parse_cursor(state, scope, asked.after.as_deref().unwrap_or_default()).await?;
    let known = state.services.instances.names().borrow().clone();
    let wanted = events::LogPageQuery { kinds, limit, bytes: PAGE_BYTES, now: state.services.clock.now() };
    let (log, instances) = (&state.services.events, scope.instances(&known));
    log.wait_until_durable(&instances).await.map_err(events::Error::from)?;
    let found = log.page(&instances, &from, &wanted).await.map_err(events::Error::from)?;
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

/// What the body of a stream is made of. The next piece is only looked for when the one before it is on its way.
struct SseBody {
    reader: EventReader,
    heartbeat: Interval,
    slot: StreamSlot,
    /// Changed whenever a piece is asked for.
    polled: watch::Sender<()>,
    retry_sent: bool,
}

impl SseBody {
    /// The next piece; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        self.polled.send_replace(());
        if !std::mem::replace(&mut self.retry_sent, true) {
            return Some(Bytes::from_static(RETRY_FIELD.as_bytes()));
        }
        tokio::select! {
            () = self.slot.wait_for_shutdown() => None,
            _ = self.heartbeat.tick() => Some(Bytes::from_static(b":\n\n")),
            told = self.reader.next() => match told {
                Ok(told) => told.map(sse_frame),
                Err(error) => {
                    tracing::error!(%error, "a stream of events ends because the log cannot be read");
                    None
                }
            },
        }
    }
}

/// An event in the form of server-sent events. JSON holds no line breaks.
fn sse_frame(told: StreamedEvent) -> Bytes {
    let StreamedEvent { item, instance_id: name, cursor } = told;
    let kind = item.envelope.event.kind.as_str().replace(['\r', '\n'], " ");
    let entry = serde_json::to_string(&EventEntry::new(item, name)).unwrap_or_default();
    format!("id: {cursor}\nevent: {kind}\ndata: {entry}\n\n").into()
}

async fn sse_response(
    state: &AppState,
    scope: EventScope,
    asked: &EventQuery,
    headers: &HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let last = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    let after = last.or(asked.after.as_deref());
    let feed = open_reader(state, scope, asked.kinds()?, after).await?;
    let place = state.stream_slots.acquire()?;
    let patience = state.options.stream_patience;
    let pause = HEARTBEAT_INTERVAL.min(patience).max(Duration::from_millis(1));
    let mut heartbeat = tokio::time::interval_at(Instant::now() + pause, pause);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asked = watch::Sender::new(());
    if let Some(Extension(connection)) = connection {
        connection.release_slot();
        tokio::spawn(abort_stalled(asked.subscribe(), connection, pause + patience));
    }
    let source = SseBody { reader: feed, heartbeat, slot: place, polled: asked, retry_sent: false };
    let body = stream::unfold(source, async |mut source| {
        let piece = source.next().await?;
        Some((Ok::<_, Infallible>(piece), source))
    });
    let headers = [
        (CONTENT_TYPE, EVENT_STREAM_TYPE),
        (CACHE_CONTROL, "no-cache"),
        // Its place among ordinary connections is taken by another.
        (CONNECTION, "close"),
        (http::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Cuts a connection whose stream is asked for nothing, not even for a heartbeat, because its reader takes nothing.
async fn abort_stalled(mut asked: watch::Receiver<()>, connection: Connection, patience: Duration) {
    loop {
        match tokio::time::timeout(patience, asked.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::info!("a stream of events is cut off because its reader takes nothing");
                return connection.abort();
            }
        }
    }
}

/// What happened to an instance, oldest first. With `Accept: text/event-stream` it is the stream at `…/events/stream`.
#[utoipa::path(get, path = "/instances/{id}/events", operation_id = "list_instance_events", tag = "events",
    params(EventQuery), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(asked): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let scope = EventScope::Instance(state.services.instances.get(&id)?.number);
    page_or_stream(&state, scope, &asked, &headers, connection).await
}

/// What happened to all instances: each one's events in their order, and older ones of one before newer ones of
/// another. With `Accept: text/event-stream` it is the stream at `/events/stream`.
#[utoipa::path(get, path = "/events", operation_id = "list_events", tag = "events",
    params(EventQuery), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_all(
    State(state): State<AppState>,
    QueryParams(asked): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    page_or_stream(&state, EventScope::All, &asked, &headers, connection).await
}

async fn page_or_stream(
    state: &AppState,
    scope: EventScope,
    asked: &EventQuery,
    headers: &HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    if accepts_event_stream(headers) {
        return sse_response(state, scope, asked, headers, connection).await;
    }
    Ok(read_page(state, scope, asked).await?.into_response())
}

/// What happens to an instance, as server-sent events. `id` is the event's sequence, `event` its type, `data` what
/// the pages give. `Last-Event-ID` wins over `after`.
#[utoipa::path(get, path = "/instances/{id}/events/stream", operation_id = "stream_instance_events",
    tag = "events", params(EventQuery), responses(
        (status = 200, description = "Events, until either side ends it.", content_type = "text/event-stream",
            body = String),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 503, description = "There are as many streams as there may be.", body = ErrorBody),
    ))]
pub async fn stream_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(asked): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let scope = EventScope::Instance(state.services.instances.get(&id)?.number);
    sse_response(&state, scope, &asked, &headers, connection).await
}

/// The same for all instances; `id` is an opaque word.
#[utoipa::path(get, path = "/events/stream", operation_id = "stream_events", tag = "events",
    params(EventQuery), responses(
        (status = 200, description = "Events, until either side ends it.", content_type = "text/event-stream",
            body = String),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 503, description = "There are as many streams as there may be.", body = ErrorBody),
    ))]
pub async fn stream_all(
    State(state): State<AppState>,
    QueryParams(asked): QueryParams<EventQuery>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    sse_response(&state, EventScope::All, &asked, &headers, connection).await
}
