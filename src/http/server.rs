//! The accept loop: a bounded number of connections, timeouts of each, and a graceful shutdown.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::auth::PeerAddress;
use super::connection::Connection;
use super::socket::ReportingSocket;
use super::tracked_body::{RequestEnd, TrackedBody};
use super::{AppState, router, trailing_slash};

/// Delay after a failed accept, for example because no file descriptors are left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Connections that the kernel holds until they are accepted; it permits no more than `net.core.somaxconn`, 4096 by
/// default. A flood must not fill it between two accepts: the kernel then delays new connections by a second.
const BACKLOG: u32 = 4096;

/// Maximum size of the head of a request, and of what is read ahead of a body or buffered of a response, in bytes. It
/// bounds the memory of a connection without a key.
const CONNECTION_BUFFER: usize = 64 << 10;

/// Listens on `address`.
///
/// # Errors
///
/// The address is in use or not available.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted node does not wait for the end of the connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves the API until `shutdown` is cancelled. Then it accepts no connection, ends streams, lets requests in
/// progress finish for `drain`, and aborts the rest.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: CancellationToken, drain: Duration) {
    let mut protocol = http1::Builder::new();
    // The states of connections have the timeouts (`http/admission.rs`): the protocol's do not tell a head that arrives
    // from a pause between two requests.
    protocol.header_read_timeout(None::<Duration>).max_buf_size(CONNECTION_BUFFER);
    let (connections, streams) = (state.connections.clone(), state.stream_slots.clone());
    let service = TowerToHyperService::new(router(state));
    let (ending, abort, open) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());

    let serving = async {
        let accepting = async {
            loop {
                let (socket, peer) = accept(&listener).await;
                let Some(connection) = connections.open(peer, &abort).await else { continue };
                let (protocol, service) = (protocol.clone(), service.clone());
                open.spawn(serve_connection(protocol, socket, service, (connection, peer), ending.clone()));
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
    };
    tokio::select! {
        () = serving => {}
        () = connections.enforce_timeouts() => {}
    }
}

/// Serves one connection until the client closes it, it becomes a WebSocket, or `ending` is cancelled and the current
/// request has ended.
async fn serve_connection(
    protocol: http1::Builder,
    socket: TcpStream,
    service: TowerToHyperService<Router>,
    (connection, peer): (Connection, SocketAddr),
    ending: CancellationToken,
) {
    let within = connection.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let end = Arc::new(RequestEnd::new(within.clone()));
        let mut request = request.map(|body| Body::new(TrackedBody::new(body, end.clone())));
        request.extensions_mut().insert(within.clone());
        request.extensions_mut().insert(PeerAddress(peer));
        trailing_slash::remove(&mut request);
        let responding = service.call(request);
        async move { Ok::<_, std::convert::Infallible>(responding.await?.map(|body| TrackedBody::new(body, end))) }
    });
    let socket = TokioIo::new(ReportingSocket::new(socket, connection.clone()));
    let mut serving = pin!(protocol.serve_connection(socket, service).with_upgrades());
    let served = async {
        tokio::select! {
            served = serving.as_mut() => return served,
            () = ending.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    };
    if let Some(Err(cause)) = connection.run_until_aborted(served).await {
        tracing::debug!(%peer, %cause, "connection failed");
    }
    // A WebSocket continues on the socket, which keeps the connection.
    connection.release_place();
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
