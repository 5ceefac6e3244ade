//! The accept loop: a bounded number of connections, timeouts of each, and a graceful shutdown.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::auth::PeerAddress;
use super::connection::Connection;
use super::{AppState, router};

/// Delay after a failed accept, for example because no file descriptors are left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves the API until `shutdown` is cancelled. Then it accepts no connection, ends streams, lets requests in
/// progress finish for `drain`, and aborts the rest.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken, drain: Duration) {
    let slots = Arc::new(Semaphore::new(state.options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(state.options.read_timeout);
    let streams = state.stream_slots.clone();
    let service = TowerToHyperService::new(router(state));
    let (ending, abort, open) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());

    let accepting = async {
        loop {
            // A connection slot first: without one, connections wait in the kernel's accept queue.
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (socket, peer) = accept(&listener).await;
            let connection = Connection::new(slot, abort.child_token());
            open.spawn(serve_connection(
                protocol.clone(),
                socket,
                service.clone(),
                (connection, PeerAddress(peer)),
                ending.clone(),
            ));
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);

    ending.cancel();
    open.close();
    let ended = async { tokio::join!(open.wait(), streams.shut_down()) };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::warn!(?drain, "drain timeout; aborting open connections");
        abort.cancel();
    }
}

/// Serves one connection until the client closes it, it becomes a WebSocket, or `ending` is cancelled and the current
/// request has ended.
async fn serve_connection(
    protocol: http1::Builder,
    socket: TcpStream,
    service: TowerToHyperService<Router>,
    (connection, peer): (Connection, PeerAddress),
    ending: CancellationToken,
) {
    let within = connection.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(within.clone());
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    let mut serving = pin!(protocol.serve_connection(TokioIo::new(socket), service).with_upgrades());
    let served = async {
        tokio::select! {
            served = serving.as_mut() => return served,
            () = ending.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    };
    if let Some(Err(cause)) = connection.run_until_aborted(served).await {
        tracing::debug!(%cause, "connection failed");
    }
}

/// The next connection. Retries failed accepts.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Responses are written whole; Nagle's algorithm would only delay them.
                if let Err(cause) = stream.set_nodelay(true) {
                    tracing::debug!(%cause, "TCP_NODELAY not set");
                }
                return (stream, peer);
            }
            Err(cause) => {
                tracing::warn!(%cause, "accept failed; retrying");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}
