//! Server-sent events: the response, its heartbeats, and the abort of stalled connections.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
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

/// Whether `Accept` names server-sent events.
pub(in crate::http) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|kind| kind.trim().starts_with(EVENT_STREAM_TYPE))
}

/// Interval of heartbeats on an idle stream, or less when the stream timeout is shorter. Proxies close idle
/// connections after 30 or 60 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Delay before a browser reconnects after the stream ends, in milliseconds.
const RETRY_FIELD: &str = "retry: 2000\n\n";

/// The source of the body. The next chunk is produced when the previous one has been written.
struct SseBody {
    reader: EventReader,
    heartbeat: Interval,
    slot: StreamSlot,
    /// Changes whenever a chunk is requested.
    polled: watch::Sender<()>,
    retry_sent: bool,
}

impl SseBody {
    /// The next chunk; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        self.polled.send_replace(());
        if !std::mem::replace(&mut self.retry_sent, true) {
            return Some(Bytes::from_static(RETRY_FIELD.as_bytes()));
        }
        tokio::select! {
            () = self.slot.wait_for_shutdown() => None,
            _ = self.heartbeat.tick() => Some(Bytes::from_static(b":\n\n")),
            event = self.reader.next() => match event {
                Ok(event) => event.map(sse_frame),
                Err(error) => {
                    tracing::error!(%error, "event log read failed; closing event stream");
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
    connection: Option<Connection>,
) -> Result<Response, ApiError> {
    let slot = state.stream_slots.acquire()?;
    let timeout = state.options.stream_patience;
    let pause = HEARTBEAT_INTERVAL.min(timeout).max(Duration::from_millis(1));
    let mut heartbeat = tokio::time::interval_at(Instant::now() + pause, pause);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let polled = watch::Sender::new(());
    if let Some(connection) = connection {
        connection.release_place();
        tokio::spawn(abort_stalled(polled.subscribe(), connection, pause + timeout));
    }
    let source = SseBody { reader, heartbeat, slot, polled, retry_sent: false };
    let body = stream::unfold(source, async |mut source| {
        let piece = source.next().await?;
        Some((Ok::<_, Infallible>(piece), source))
    });
    let headers = [
        (CONTENT_TYPE, EVENT_STREAM_TYPE),
        (CACHE_CONTROL, "no-cache"),
        // The place of the connection has been released, so the connection must not be reused.
        (CONNECTION, "close"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// An event in the form of server-sent events. JSON holds no line breaks.
fn sse_frame(event: StreamedEvent) -> Bytes {
    let StreamedEvent { item, instance_id: name, cursor } = event;
    let kind = item.envelope.event.kind.as_str().replace(['\r', '\n'], " ");
    let entry = serde_json::to_string(&EventEntry::new(item, name)).unwrap_or_default();
    format!("id: {cursor}\nevent: {kind}\ndata: {entry}\n\n").into()
}

/// Aborts the connection when no chunk is requested within `timeout`, because its client reads nothing.
async fn abort_stalled(mut polled: watch::Receiver<()>, connection: Connection, timeout: Duration) {
    loop {
        match tokio::time::timeout(timeout, polled.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::info!("event stream stalled; closing connection");
                return connection.abort();
            }
        }
    }
}
