//! The accept loop and the routes: the socket of WhatsApp Web, the media hosts and the control plane, all on one
//! port.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::frames::MAX_FRAME_BYTES;
use crate::server_state::ServerState;
use crate::{control, media, socket};

/// Buffer size of a socket, in bytes. Small, because most sockets are idle; longer frames take several reads or writes.
const SOCKET_BUFFER: usize = 4096;

/// Delay after a failed accept, which is usually caused by a lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until the shared state is closing.
pub async fn run(listener: TcpListener, shared: Arc<ServerState>) {
    let closing = shared.closing.clone();
    let served = axum::serve(NoDelayListener(listener), routes(shared));
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::error!(%error, "WhatsApp Web sandbox failed; no longer serving");
        },
        () = closing.cancelled() => {}
    }
}

struct NoDelayListener(TcpListener);

impl Listener for NoDelayListener {
    type Io = TcpStream;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await.and_then(|(stream, peer)| {
                stream.set_nodelay(true)?;
                Ok((stream, peer))
            }) {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "WhatsApp Web sandbox failed to accept connection; retrying");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

fn routes(shared: Arc<ServerState>) -> Router {
    Router::new()
        .route("/ws/chat", get(websocket))
        .route("/mms/{kind}/{token}", post(media::upload).layer(DefaultBodyLimit::max(media::MAX_FILE_BYTES)))
        .route("/v/{kind}/{token}", get(media::download))
        .merge(control::routes())
        .with_state(shared)
}

/// `GET /ws/chat`: WhatsApp Web. 503 during a simulated restart and above the connection limit.
async fn websocket(State(shared): State<Arc<ServerState>>, upgrade: WebSocketUpgrade) -> Response {
    let Some(slot) = acquire_slot(&shared) else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    upgrade
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .read_buffer_size(SOCKET_BUFFER)
        .write_buffer_size(SOCKET_BUFFER)
        .max_write_buffer_size(MAX_FRAME_BYTES + SOCKET_BUFFER)
        .on_failed_upgrade(|error| tracing::debug!(%error, "WebSocket upgrade failed"))
        .on_upgrade(|socket| async move {
            socket::serve(shared, socket).await;
            drop(slot);
        })
}

fn acquire_slot(shared: &ServerState) -> Option<OwnedSemaphorePermit> {
    if shared.is_unavailable() {
        return None;
    }
    Arc::clone(&shared.slots).try_acquire_owned().ok()
}
