//! Reception of request bodies, bounded in size, time and memory.
//!
//! A body over its limit is rejected at once. The rest of it is read and discarded while the response is sent:
//! closing the connection instead would reset it, and the client would not see the response.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use relevo_domain::{ErrorKind, ValidationError};

use super::AppState;
use super::error::ApiError;

/// Bodies up to this size need no permit of the memory budget, in bytes.
const SMALL_BODY: usize = 256 << 10;

/// Bodies from this size on are parsed on a blocking thread, in bytes.
const OFF_THREAD_BYTES: usize = 64 << 10;

/// Number of bodies of the largest permitted size that fit into the memory budget.
const MAX_LARGE_BODIES: usize = 4;

/// A rejected body is read up to this multiple of its limit …
const DISCARD_FACTOR: usize = 4;
/// … and for at most this long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// The memory that all large bodies share, in KiB.
pub(super) struct MemoryBudget {
    semaphore: Arc<Semaphore>,
    capacity_kib: u32,
}

impl MemoryBudget {
    /// A budget for bodies of up to `largest` bytes.
    pub fn new(largest: usize) -> Self {
        let capacity_kib =
            to_kib(largest.saturating_mul(MAX_LARGE_BODIES).max(SMALL_BODY * MAX_LARGE_BODIES));
        let permits =
            usize::try_from(capacity_kib).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { semaphore: Arc::new(Semaphore::new(permits)), capacity_kib }
    }

    /// Waits for `bytes` of memory, at most `timeout`.
    async fn acquire(&self, bytes: usize, timeout: Duration) -> Result<OwnedSemaphorePermit, ApiError> {
        let acquired = self.semaphore.clone().acquire_many_owned(to_kib(bytes).min(self.capacity_kib));
        match tokio::time::timeout(timeout, acquired).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::new(
                ErrorKind::Unavailable,
                "too many large requests are being received; try again later, or send media by URL",
            )),
        }
    }
}

fn to_kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

/// A complete body.
pub(super) struct ReceivedBody {
    pub bytes: Bytes,
    /// The memory permit of a large body. Drop it when the body is no longer needed.
    pub memory_permit: Option<OwnedSemaphorePermit>,
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

/// Receives the whole body of a request.
///
/// # Errors
///
/// 413 when it is larger than `limit`, 408 when it does not arrive within the read timeout, 400 when the connection
/// ends early, and 503 when the memory budget is exhausted for that long.
pub(super) async fn receive_body(
    request: Request,
    limit: usize,
    state: &AppState,
) -> Result<ReceivedBody, ApiError> {
    let request = check_announced_length(request, limit)?;
    let announced = content_length(request.headers());
    let timeout = state.options.read_timeout;
    let mut permit = None;
    if let Some(length) = announced.filter(|&length| length > SMALL_BODY) {
        permit = Some(state.memory_budget.acquire(length, timeout).await?);
    }
    let collecting =
        collect(request.into_body(), announced, limit, &state.memory_budget, &mut permit, timeout);
    let bytes = match tokio::time::timeout(timeout, collecting).await {
        Ok(collected) => collected?,
        Err(_) => return Err(ApiError::request_timeout(timeout)),
    };
    Ok(ReceivedBody { bytes, memory_permit: permit })
}

async fn collect(
    mut body: Body,
    announced: Option<usize>,
    limit: usize,
    budget: &MemoryBudget,
    permit: &mut Option<OwnedSemaphorePermit>,
    timeout: Duration,
) -> Result<Bytes, ApiError> {
    let Some(first) = next_chunk(&mut body).await? else { return Ok(Bytes::new()) };
    // Most bodies are one chunk: no copy is needed.
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(first.len()).min(limit));
    let mut next = Some(first);
    while let Some(chunk) = next {
        let length = whole.len() + chunk.len();
        if length > limit {
            tokio::spawn(discard_rest(body, limit));
            return Err(ApiError::payload_too_large(limit));
        }
        if length > SMALL_BODY && permit.is_none() {
            *permit = Some(budget.acquire(limit, timeout).await?);
        }
        whole.extend_from_slice(&chunk);
        next = next_chunk(&mut body).await?;
    }
    Ok(whole.freeze())
}

/// The next chunk of a body; `None` at its end.
async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
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
    use futures_util::stream;

    use super::*;

    fn chunks(sizes: &[usize]) -> Body {
        let chunks: Vec<_> =
            sizes.iter().map(|&size| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size]))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    async fn collect_chunks(sizes: &[usize], limit: usize) -> Result<(usize, bool), ApiError> {
        let budget = MemoryBudget::new(limit);
        let mut permit = None;
        let second = Duration::from_secs(1);
        let bytes = collect(chunks(sizes), None, limit, &budget, &mut permit, second).await?;
        Ok((bytes.len(), permit.is_some()))
    }

    #[tokio::test]
    async fn body_over_its_limit_is_rejected() {
        assert_eq!(collect_chunks(&[], 10).await.unwrap(), (0, false));
        assert_eq!(collect_chunks(&[4, 6], 10).await.unwrap(), (10, false));
        assert_eq!(collect_chunks(&[4, 7], 10).await.unwrap_err().status(), 413);
        assert_eq!(collect_chunks(&[11], 10).await.unwrap_err().status(), 413);
    }

    #[tokio::test]
    async fn body_without_content_length_acquires_memory_as_it_grows() {
        assert_eq!(collect_chunks(&[SMALL_BODY, 1], SMALL_BODY * 2).await.unwrap(), (SMALL_BODY + 1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_wait_for_memory_until_the_timeout() {
        let budget = MemoryBudget::new(1 << 20);
        let mut held = Vec::new();
        for _ in 0..MAX_LARGE_BODIES {
            held.push(budget.acquire(1 << 20, Duration::ZERO).await.unwrap());
        }
        assert_eq!(budget.acquire(1 << 20, Duration::from_secs(1)).await.unwrap_err().status(), 503);
        held.pop();
        assert!(budget.acquire(1 << 20, Duration::from_secs(1)).await.is_ok());
    }
}
