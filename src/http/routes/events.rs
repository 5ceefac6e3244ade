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

use crate::events::{self, Kinds, Places};
use crate::http::AppState;
use crate::http::connection::Connection;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryOf, Target};
use crate::http::feed::{Feed, Scope, Told};
use crate::http::streams::{EVENT_STREAM, StreamPlace, accepts_event_stream};
use relevo_domain::{InstanceId, Invalid};

/// Events of a page when nobody says how many, and at most.
const DEFAULT_LIMIT: usize = 100;
const MOST: usize = 1000;

/// A page ends with the event that reaches so many bytes.
const PAGE_BYTES: usize = 4 << 20;

/// How often a stream without events shows that it lives, or oftener where patience is shorter. Proxies give up on
/// silence after 30 or 60 s.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where an `EventSource` was when it lost its connection.
const LAST_EVENT_ID: &str = "last-event-id";

/// Tells a browser to come back after so many milliseconds when a stream ends.
const GREETING: &str = "retry: 2000\n\n";

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
pub struct Asked {
    /// The sequence, or the `next`, behind which to begin. Empty: with the oldest event. A stream without it tells
    /// what happens from now on.
    pub after: Option<String>,
    /// Kinds of events, separated by commas. Without it, or with `all`, it is every event.
    pub types: Option<String>,
    /// 1 to 1000; 100 without it. Streams have no limit.
    limit: Option<usize>,
}

impl Asked {
    pub fn kinds(&self) -> Result<Kinds, Invalid> {
        let names = self.types.as_deref().unwrap_or_default().split(',').map(str::trim);
        Kinds::named("types", names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    fn limit(&self) -> Result<usize, Invalid> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MOST => Ok(limit),
            _ => Err(Invalid::new("limit", format!("must be 1 to {MOST}"))),
        }
    }
}

impl EventEntry {
    fn of(item: events::Item, name: InstanceId) -> Self {
        let events::Envelope { sequence, event } = item.envelope;
        Self {
            sequence,
            kind: event.kind,
            timestamp: event.at.seconds(),
            time: event.at.to_string(),
            instance_id: name.into(),
            data: event.data,
        }
    }
}

/// Where to begin: `after` as it was given. An empty one is the beginning.
async fn place(state: &AppState, scope: Scope, after: &str) -> Result<Places, ApiError> {
    if after.is_empty() {
        return Ok(Places::default());
    }
    let mut places = match scope {
        Scope::Instance(number) => {
            let sequence =
                after.parse().map_err(|_| Invalid::new("after", "must be the sequence of an event"))?;
            Places::one(number, sequence)
        }
        Scope::All => Places::decode(after)?,
    };
    let known = scope.instances(&state.services.instances.names().borrow());
    places.retain(|number| known.contains(&number));
    state.services.events.check(&places)?;
    Ok(places)
}

/// A reader that stays. Without a place it begins with what comes next.
pub(super) async fn feed(
    state: &AppState,
    scope: Scope,
    kinds: Kinds,
    after: Option<&str>,
) -> Result<Feed, ApiError> {
    let from = match after {
        Some(after) => place(state, scope, after).await?,
        None => {
            let instances = scope.instances(&state.services.instances.names().borrow());
            let log = &state.services.events;
            log.settle(&instances).await.map_err(events::Error::from)?;
            log.end(&instances).map_err(events::Error::from)?
        }
    };
    Ok(Feed::new(&state.services, scope, kinds, from))
}

async fn page(state: &AppState, scope: Scope, asked: &Asked) -> Result<Json<EventPage>, ApiError> {
    let (limit, kinds) = (asked.limit()?, asked.kinds()?);
    let from = place(state, scope, asked.after.as_deref().unwrap_or_default()).await?;
    let known = state.services.instances.names().borrow().clone();
    let wanted = events::Wanted { kinds, limit, bytes: PAGE_BYTES, now: state.services.clock.now() };
    let (log, instances) = (&state.services.events, scope.instances(&known));
    log.settle(&instances).await.map_err(events::Error::from)?;
    let found = log.page(&instances, &from, &wanted).await.map_err(events::Error::from)?;
    let entry = |item: events::Item| {
        let name = known.iter().find(|(number, _)| *number == item.instance)?.1.clone();
        Some(EventEntry::of(item, name))
    };
    Ok(Json(EventPage {
        success: true,
        data: found.items.into_iter().filter_map(entry).collect(),
        next: scope.write(&found.next),
        more: !found.at_end,
    }))
}

/// What the body of a stream is made of. The next piece is only looked for when the one before it is on its way.
struct Source {
    feed: Feed,
    heartbeat: Interval,
    place: StreamPlace,
    /// Changed whenever a piece is asked for.
    asked: watch::Sender<()>,
    greeted: bool,
}

impl Source {
    /// The next piece; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        self.asked.send_replace(());
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Bytes::from_static(GREETING.as_bytes()));
        }
        tokio::select! {
            () = self.place.stopping() => None,
            _ = self.heartbeat.tick() => Some(Bytes::from_static(b":\n\n")),
            told = self.feed.next() => match told {
                Ok(told) => told.map(piece),
                Err(error) => {
                    tracing::error!(%error, "a stream of events ends because the log cannot be read");
                    None
                }
            },
        }
    }
}

/// An event in the form of server-sent events. JSON holds no line breaks.
fn piece(told: Told) -> Bytes {
    let Told { item, name, cursor } = told;
    let kind = item.envelope.event.kind.replace(['\r', '\n'], " ");
    let entry = serde_json::to_string(&EventEntry::of(item, name)).unwrap_or_default();
    format!("id: {cursor}\nevent: {kind}\ndata: {entry}\n\n").into()
}

async fn stream(
    state: &AppState,
    scope: Scope,
    asked: &Asked,
    headers: &HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let last = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    let after = last.or(asked.after.as_deref());
    let feed = feed(state, scope, asked.kinds()?, after).await?;
    let place = state.streams.open()?;
    let patience = state.options.stream_patience;
    let pause = HEARTBEAT.min(patience).max(Duration::from_millis(1));
    let mut heartbeat = tokio::time::interval_at(Instant::now() + pause, pause);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asked = watch::Sender::new(());
    if let Some(Extension(connection)) = connection {
        connection.give_place_back();
        tokio::spawn(watch_over(asked.subscribe(), connection, pause + patience));
    }
    let source = Source { feed, heartbeat, place, asked, greeted: false };
    let body = stream::unfold(source, async |mut source| {
        let piece = source.next().await?;
        Some((Ok::<_, Infallible>(piece), source))
    });
    let headers = [
        (CONTENT_TYPE, EVENT_STREAM),
        (CACHE_CONTROL, "no-cache"),
        // Its place among ordinary connections is taken by another.
        (CONNECTION, "close"),
        (http::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Cuts a connection whose stream is asked for nothing, not even for a heartbeat, because its reader takes nothing.
async fn watch_over(mut asked: watch::Receiver<()>, connection: Connection, patience: Duration) {
    loop {
        match tokio::time::timeout(patience, asked.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::info!("a stream of events is cut off because its reader takes nothing");
                return connection.cut();
            }
        }
    }
}

/// What happened to an instance, oldest first. With `Accept: text/event-stream` it is the stream at `…/events/stream`.
#[utoipa::path(get, path = "/instances/{id}/events", operation_id = "list_instance_events", tag = "events",
    params(Asked), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn of_instance(
    State(state): State<AppState>,
    Target(id): Target,
    QueryOf(asked): QueryOf<Asked>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let scope = Scope::Instance(state.services.instances.get(&id)?.number);
    page_or_stream(&state, scope, &asked, &headers, connection).await
}

/// What happened to all instances: each one's events in their order, and older ones of one before newer ones of
/// another. With `Accept: text/event-stream` it is the stream at `/events/stream`.
#[utoipa::path(get, path = "/events", operation_id = "list_events", tag = "events",
    params(Asked), responses(
        (status = 200, description = "A page of events.", body = EventPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn of_all(
    State(state): State<AppState>,
    QueryOf(asked): QueryOf<Asked>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    page_or_stream(&state, Scope::All, &asked, &headers, connection).await
}

async fn page_or_stream(
    state: &AppState,
    scope: Scope,
    asked: &Asked,
    headers: &HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    if accepts_event_stream(headers) {
        return stream(state, scope, asked, headers, connection).await;
    }
    Ok(page(state, scope, asked).await?.into_response())
}

/// What happens to an instance, as server-sent events. `id` is the event's sequence, `event` its type, `data` what
/// the pages give. `Last-Event-ID` wins over `after`.
#[utoipa::path(get, path = "/instances/{id}/events/stream", operation_id = "stream_instance_events",
    tag = "events", params(Asked), responses(
        (status = 200, description = "Events, until either side ends it.", content_type = "text/event-stream",
            body = String),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 503, description = "There are as many streams as there may be.", body = ErrorBody),
    ))]
pub async fn stream_of_instance(
    State(state): State<AppState>,
    Target(id): Target,
    QueryOf(asked): QueryOf<Asked>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    let scope = Scope::Instance(state.services.instances.get(&id)?.number);
    stream(&state, scope, &asked, &headers, connection).await
}

/// The same for all instances; `id` is an opaque word.
#[utoipa::path(get, path = "/events/stream", operation_id = "stream_events", tag = "events",
    params(Asked), responses(
        (status = 200, description = "Events, until either side ends it.", content_type = "text/event-stream",
            body = String),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 503, description = "There are as many streams as there may be.", body = ErrorBody),
    ))]
pub async fn stream_of_all(
    State(state): State<AppState>,
    QueryOf(asked): QueryOf<Asked>,
    headers: HeaderMap,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
    stream(&state, Scope::All, &asked, &headers, connection).await
}
