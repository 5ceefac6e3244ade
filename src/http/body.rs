//! Reception of request bodies, bounded in size, time and memory.
//!
//! A body over its limit is rejected at once. The rest of it is read and discarded while the response is sent:
//! closing the connection instead would reset it, and the client would not see the response.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::Instant;

use relevo_domain::{ErrorKind, ValidationError};

use super::AppState;
use super::body_memory::{BodyMemory, MemoryShare};
use super::connection::Connection;
use super::error::ApiError;

/// Bodies up to this size are not counted where a key is required, in bytes.
const SMALL_BODY: usize = 256 << 10;

/// Bodies from this size on are parsed on a blocking thread, in bytes.
const OFF_THREAD_BYTES: usize = 64 << 10;

/// Bodies up to this size are not counted where no key is required, in bytes. Most deliveries of Meta are smaller.
const SMALL_OPEN_BODY: usize = 16 << 10;

/// A body without a known size starts with this capacity, and one with a known size with at most this, in bytes: memory
/// follows what arrives.
const FIRST_CAPACITY: usize = 64 << 10;

/// A rejected body is read up to this multiple of its limit …
const DISCARD_FACTOR: usize = 4;
/// … and for at most this long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A complete body.
pub(super) struct ReceivedBody {
    pub bytes: Bytes,
    /// The memory of a large body. Drop it when the body is no longer needed.
    pub memory: Option<BodyMemory>,
}

/// Rejects a request that announces a body larger than `limit`, before any of it is read.
///
/// # Errors
///
/// 413; the body is read and discarded in the background.
pub(super) fn check_announced_length(request: Request, limit: usize) -> Result<Request, ApiError> {
    if content_length(request.headers()).is_some_and(|length| length > limit) {
        discard(request, limit);
        return Err(ApiError::payload_too_large(limit));
    }
    Ok(request)
}

/// Parses a body. A large one is parsed on a blocking thread, so that other requests are not delayed.
///
/// # Errors
///
/// The error of `parse`, or a panic in it.
pub(super) async fn parse_off_thread<T, E>(
    body: Bytes,
    parse: impl FnOnce(&[u8]) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<ApiError> + Send + 'static,
{
    if body.len() < OFF_THREAD_BYTES {
        return parse(&body);
    }
    let parsed = tokio::task::spawn_blocking(move || parse(&body)).await;
    parsed.unwrap_or_else(|_| Err(ApiError::handler_panicked().into()))
}

/// Sees the bytes of a body as they arrive.
pub(super) trait BodyObserver {
    /// The next bytes.
    fn observe(&mut self, bytes: &[u8]) -> impl Future<Output = ()> + Send;
}

/// Nothing observes an ordinary body.
struct Unobserved;

impl BodyObserver for Unobserved {
    async fn observe(&mut self, _: &[u8]) {}
}

/// Receives the whole body of a request with a valid key.
///
/// # Errors
///
/// 413 when it is larger than `limit`, 408 when it does not arrive within the read timeout, 400 when the connection
/// ends early, and 503 when the memory of large bodies is used up for that long.
pub(super) async fn receive_body(
    request: Request,
    limit: usize,
    state: &AppState,
) -> Result<ReceivedBody, ApiError> {
    let connection = request.extensions().get::<Connection>().cloned();
    let share = (&state.body_memory, SMALL_BODY);
    let received = receive(request, limit, share, state.options.read_timeout, &mut Unobserved).await?;
    // A node without a key has no other proof.
    if let Some(connection) = connection {
        connection.prove_request();
    }
    Ok(received)
}

/// Receives the whole body of a request without a key, while `observer` sees its bytes. The same errors as
/// [`receive_body`]; 503 also when the body gives its memory to newer ones.
pub(super) async fn receive_open_body(
    request: Request,
    limit: usize,
    state: &AppState,
    observer: &mut (impl BodyObserver + Send),
) -> Result<ReceivedBody, ApiError> {
    let share = (&state.open_body_memory, SMALL_OPEN_BODY);
    receive(request, limit, share, state.options.read_timeout, observer).await
}

async fn receive(
    request: Request,
    limit: usize,
    (share, uncounted): (&MemoryShare, usize),
    timeout: Duration,
    observer: &mut (impl BodyObserver + Send),
) -> Result<ReceivedBody, ApiError> {
    let request = check_announced_length(request, limit)?;
    let announced = content_length(request.headers());
    let reception = Reception {
        body: request.into_body(),
        announced,
        limit,
        share,
        uncounted,
        timeout,
        deadline: Instant::now() + timeout,
    };
    reception.run(observer).await
}

/// A body that is arriving.
struct Reception<'a> {
    body: Body,
    announced: Option<usize>,
    limit: usize,
    share: &'a MemoryShare,
    /// Up to this size, the body takes no memory of the share.
    uncounted: usize,
    timeout: Duration,
    deadline: Instant,
}

impl Reception<'_> {
    async fn run(mut self, observer: &mut (impl BodyObserver + Send)) -> Result<ReceivedBody, ApiError> {
        let mut memory: Option<BodyMemory> = None;
        let Some(first) = self.next_chunk(None).await? else {
            return Ok(ReceivedBody { bytes: Bytes::new(), memory });
        };
        // Most bodies are one chunk: no copy is needed.
        if self.body.is_end_stream() && first.len() <= self.limit.min(self.uncounted) {
            observer.observe(&first).await;
            return Ok(ReceivedBody { bytes: first, memory });
        }
        let capacity = self.announced.unwrap_or(0).max(first.len()).min(FIRST_CAPACITY).min(self.limit);
        let mut whole = BytesMut::with_capacity(capacity);
        let mut next = Some(first);
        while let Some(chunk) = next {
            let length = whole.len() + chunk.len();
            if length > self.limit {
                tokio::spawn(discard_rest(self.body, self.limit));
                return Err(ApiError::payload_too_large(self.limit));
            }
            if let Some(memory) = &memory {
                grow(memory, chunk.len(), self.deadline).await?;
            } else if length > self.uncounted {
                let begun = memory.insert(self.share.begin());
                grow(begun, length, self.deadline).await?;
            }
            observer.observe(&chunk).await;
            whole.extend_from_slice(&chunk);
            next = self.next_chunk(memory.as_ref()).await?;
        }
        if let Some(memory) = &memory {
            memory.complete();
        }
        Ok(ReceivedBody { bytes: whole.freeze(), memory })
    }

    /// The next chunk of the body; `None` at its end.
    async fn next_chunk(&mut self, memory: Option<&BodyMemory>) -> Result<Option<Bytes>, ApiError> {
        let dropped = async {
            match memory {
                Some(memory) => memory.dropped().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = dropped => Err(no_memory()),
            next = tokio::time::timeout_at(self.deadline, read_chunk(&mut self.body)) => match next {
                Ok(next) => next,
                Err(_) => Err(ApiError::request_timeout(self.timeout)),
            },
        }
    }
}

/// Waits for memory, until the body must have arrived.
async fn grow(memory: &BodyMemory, bytes: usize, deadline: Instant) -> Result<(), ApiError> {
    tokio::select! {
        biased;
        () = memory.dropped() => Err(no_memory()),
        grown = tokio::time::timeout_at(deadline, memory.grow(bytes)) => grown.map_err(|_| no_memory()),
    }
}

fn no_memory() -> ApiError {
    ApiError::new(
        ErrorKind::Unavailable,
        "too many large requests are being received; try again later, or send media by URL",
    )
}

/// The next chunk of a body; `None` at its end.
async fn read_chunk(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Err(cause) => {
                tracing::debug!(%cause, "request body incomplete");
                return Err(ValidationError::new("body", "ended before it was complete").into());
            }
        }
    }
    Ok(None)
}

/// Reads and discards the rest of a rejected request in the background, so that the client receives the response.
pub(super) fn discard(request: Request, limit: usize) {
    // With `Expect`, the client has not begun to send, and the response tells it not to.
    let waits = request.headers().contains_key(EXPECT);
    if !waits && !request.body().is_end_stream() {
        tokio::spawn(discard_rest(request.into_body(), limit));
    }
}

async fn discard_rest(mut body: Body, limit: usize) {
    let mut left = limit.saturating_mul(DISCARD_FACTOR);
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::http::body_memory::ShortagePolicy;

    /// Counts the bytes that it sees.
    struct Count(usize);

    impl BodyObserver for Count {
        async fn observe(&mut self, bytes: &[u8]) {
            self.0 += bytes.len();
        }
    }

    fn chunks(sizes: &[usize]) -> Body {
        let chunks: Vec<_> =
            sizes.iter().map(|&size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size]))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    /// These chunks, and then nothing more.
    fn stalled(sizes: &[usize]) -> Body {
        let chunks: Vec<_> =
            sizes.iter().map(|&size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size]))).collect();
        Body::from_stream(stream::iter(chunks).chain(stream::pending()))
    }

    async fn receive_chunks(
        body: Body,
        limit: usize,
        share: &MemoryShare,
    ) -> Result<(usize, bool), ApiError> {
        let (request, mut seen) = (Request::new(body), Count(0));
        let timeout = Duration::from_secs(60);
        let received = receive(request, limit, (share, SMALL_OPEN_BODY), timeout, &mut seen).await?;
        assert_eq!(received.bytes.len(), seen.0);
        Ok((seen.0, received.memory.is_some()))
    }

    #[tokio::test]
    async fn body_over_its_limit_is_rejected() {
        let share = MemoryShare::new(1 << 20, ShortagePolicy::OldestFirst);
        let collect = async |sizes: &[usize]| receive_chunks(chunks(sizes), 10, &share).await;
        assert_eq!(collect(&[]).await.unwrap(), (0, false));
        assert_eq!(collect(&[10]).await.unwrap(), (10, false));
        assert_eq!(collect(&[4, 6]).await.unwrap(), (10, false));
        assert_eq!(collect(&[4, 7]).await.unwrap_err().status(), 413);
        assert_eq!(collect(&[11]).await.unwrap_err().status(), 413);
    }

    #[tokio::test]
    async fn body_takes_memory_as_it_grows() {
        let share = MemoryShare::new(1 << 20, ShortagePolicy::DropOldest);
        let limit = SMALL_OPEN_BODY * 2;
        let sizes = [SMALL_OPEN_BODY, 1];
        assert_eq!(receive_chunks(chunks(&sizes), limit, &share).await.unwrap(), (SMALL_OPEN_BODY + 1, true));
        assert_eq!(receive_chunks(chunks(&[limit]), limit, &share).await.unwrap(), (limit, true));
    }

    #[tokio::test(start_paused = true)]
    async fn announced_bytes_that_do_not_arrive_take_no_memory() {
        let share = MemoryShare::new(1 << 20, ShortagePolicy::OldestFirst);
        let stalled = stream::iter(0..100).map(|_| receive_chunks(stalled(&[1]), 1 << 20, &share));
        let mut stalled = stalled.buffer_unordered(100);
        let waiting = async { stalled.next().await };
        assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
        let whole = [1 << 19, 1 << 19];
        assert_eq!(receive_chunks(chunks(&whole), 1 << 20, &share).await.unwrap(), (1 << 20, true));
        assert_eq!(stalled.next().await.unwrap().unwrap_err().status(), 408);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_body_without_a_key_gives_way() {
        let share = MemoryShare::new(1 << 20, ShortagePolicy::DropOldest);
        let began = Instant::now();
        let first = receive_chunks(stalled(&[1 << 19, 1 << 18]), 1 << 20, &share);
        let second = receive_chunks(chunks(&[1 << 19]), 1 << 20, &share);
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first.unwrap_err().status(), 503);
        assert_eq!(second.unwrap(), (1 << 19, true));
        assert_eq!(began.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_body_with_a_key_keeps_its_memory_until_the_timeout() {
        let share = MemoryShare::new(1 << 20, ShortagePolicy::OldestFirst);
        let began = Instant::now();
        let first = receive_chunks(stalled(&[1 << 19, 1 << 18]), 1 << 20, &share);
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            receive_chunks(chunks(&[1 << 19]), 1 << 20, &share).await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first.unwrap_err().status(), 408);
        assert_eq!(second.unwrap(), (1 << 19, true));
        assert_eq!(began.elapsed().as_secs(), 60);
    }
}
