//! The accept loop: so many connections, each with its deadlines, and an end that lets answers out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::api_door::Peer;
use super::{AppState, router};

/// The pause after a connection could not be accepted, for example because there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `shutdown` is cancelled. Then nothing new is accepted, requests under way may finish for
/// `drain`, and what is left is cut off.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken, drain: Duration) {
    let places = Arc::new(Semaphore::new(state.options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(state.options.read_timeout);
    let service = router(state);
    let graceful = GracefulShutdown::new();
    let cut_off = CancellationToken::new();

    let accepting = async {
        loop {
            // A place first: whoever finds none waits in the kernel's queue.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (stream, peer) = accept(&listener).await;
            let service = service.clone().map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                request
            });
            let connection =
                protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            let (connection, cut_off) = (graceful.watch(connection), cut_off.clone());
            tokio::spawn(async move {
                if let Some(Err(cause)) = cut_off.run_until_cancelled(connection).await {
                    tracing::debug!(%cause, "a connection broke off");
                }
                drop(place);
            });
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);

    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(?drain, "requests were still under way at the deadline and are cut off");
        cut_off.cancel();
    }
}

/// The next connection, however long it takes.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are written whole; waiting for more would only delay them.
                if let Err(cause) = stream.set_nodelay(true) {
                    tracing::debug!(%cause, "TCP_NODELAY could not be set");
                }
                return (stream, peer);
            }
            Err(cause) => {
                tracing::warn!(%cause, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
