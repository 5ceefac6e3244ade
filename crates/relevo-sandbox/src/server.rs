//! The accept loop and the routes.
//!
//! The loop uses hyper directly, because a fault must be able to cut a connection without an answer: hyper cuts it
//! when the service returns an error. A handler requests this by marking its response.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::errors::AbortConnection;
use crate::state::SandboxState;
use crate::{control, graph, inbound, media, messages};

/// Maximum size of a message and of a request to the control plane, in bytes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// Maximum time that open requests may take after shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay after a failed accept, which is usually caused by a lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until `shutdown` is cancelled, then waits at most [`SHUTDOWN_TIMEOUT`] for open requests.
pub async fn run(listener: TcpListener, shared: Arc<SandboxState>, shutdown: CancellationToken) {
    let closing = shared.closing.clone();
    let slots = Arc::new(Semaphore::new(shared.options.max_connections));
    let router = routes(shared);
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, slot) = tokio::select! {
            next = next_connection(&listener, &slots) => match next {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "sandbox failed to accept connection; retrying");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        tokio::spawn(serve(stream, slot, router.clone(), graceful.watcher()));
    }
    drop(listener);
    closing.cancel();
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::debug!("sandbox stopped with open requests");
    }
}

async fn next_connection(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, slot))
}

async fn serve(stream: TcpStream, slot: OwnedSemaphorePermit, router: Router, watcher: Watcher) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let answer = router.clone().call(request);
        async move { response_or_abort(answer.await) }
    });
    let connection =
        http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::trace!(%error, "connection ended with an error");
    }
    drop(slot);
}

fn response_or_abort(answer: Result<Response, Infallible>) -> Result<Response, ConnectionAborted> {
    match answer {
        Ok(response) if response.extensions().get::<AbortConnection>().is_some() => Err(ConnectionAborted),
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// Error that makes hyper drop the connection.
#[derive(Debug)]
struct ConnectionAborted;

impl fmt::Display for ConnectionAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection cut by a fault")
    }
}

impl std::error::Error for ConnectionAborted {}

fn routes(shared: Arc<SandboxState>) -> Router {
    // Allows the form fields around the largest file; `media::upload` limits the file itself.
    let upload = post(media::upload).layer(DefaultBodyLimit::max(media::MAX_FILE_BYTES + MAX_BODY_BYTES));
    Router::new()
        .route("/", get(control::index))
        .route("/{version}/{id}/messages", post(messages::post))
        .route("/{version}/{id}/media", upload)
        .route("/{version}/{id}", get(graph::get_object).delete(media::delete))
        .route("/whatsapp_business/attachments/{id}", get(media::download))
        .route("/_sandbox/messages", get(control::messages))
        .route("/_sandbox/stats", get(control::stats))
        .route("/_sandbox/reset", post(control::reset))
        .route("/_sandbox/inbound", post(inbound::post))
        .route("/_sandbox/statuses", post(control::post_statuses))
        .route("/_sandbox/webhook", post(control::set_webhook))
        .route("/_sandbox/faults", post(control::arm).get(control::faults).delete(control::disarm))
        .fallback(graph::unknown_path)
        .method_not_allowed_fallback(graph::unknown_path)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(shared)
}
