//! Notices the end of a request: when its body was read or dropped, and its response was produced.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use hyper::body::{Frame, SizeHint};

use super::connection::Connection;

/// Reports the end of a request to its connection when the last body that holds it is dropped.
pub(super) struct RequestEnd(Connection);

impl RequestEnd {
    /// The end of the request in progress on `connection`.
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

impl Drop for RequestEnd {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// The body of a request or of its response.
pub(super) struct TrackedBody<B> {
    body: B,
    _end: Arc<RequestEnd>,
}

impl<B> TrackedBody<B> {
    /// A body whose request does not end before it is dropped.
    pub fn new(body: B, end: Arc<RequestEnd>) -> Self {
        Self { body, _end: end }
    }
}

impl<B: HttpBody + Unpin> HttpBody for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
