//! Server-sent events: the response, its heartbeats, and the abort of stalled connections.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Extension;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::entry::EventEntry;
use super::reader::{EventReader, StreamedEvent};
use super::slots::StreamSlot;
use crate::http::AppState;
use crate::http::connection::Connection;
use crate::http::error::ApiError;

/// The media type of server-sent events.
const EVENT_STREAM_TYPE: &str = "text/event-stream";

/// Whether the caller wants server-sent events rather than a page.
pub(in crate::http) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.trim().starts_with(EVENT_STREAM_TYPE))
}

/// How often a stream without events shows that it lives, or oftener where patience is shorter. Proxies give up on
/// silence after 30 or 60 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Tells a browser to come back after so many milliseconds when a stream ends.
const RETRY_FIELD: &str = "retry: 2000\n\n";

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

/// The response that streams the events of `reader`.
///
/// # Errors
///
/// 503 when no stream slot is free, or the node stops.
pub(in crate::http) fn response(
    state: &AppState,
    reader: EventReader,
    connection: Option<Extension<Connection>>,
) -> Result<Response, ApiError> {
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
    let source = SseBody { reader, heartbeat, slot: place, polled: asked, retry_sent: false };
    let body = stream::unfold(source, async |mut source| {
        let piece = source.next().await?;
        Some((Ok::<_, Infallible>(piece), source))
    });
    let headers = [
        (CONTENT_TYPE, EVENT_STREAM_TYPE),
        (CACHE_CONTROL, "no-cache"),
        // Its place among ordinary connections is taken by another.
        (CONNECTION, "close"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// An event in the form of server-sent events. JSON holds no line breaks.
fn sse_frame(told: StreamedEvent) -> Bytes {
    let StreamedEvent { item, instance_id: name, cursor } = told;
    let kind = item.envelope.event.kind.replace(['\r', '\n'], " ");
    let entry = serde_json::to_string(&EventEntry::new(item, name)).unwrap_or_default();
    format!("id: {cursor}\nevent: {kind}\ndata: {entry}\n\n").into()
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
