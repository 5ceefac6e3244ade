//! A connection from the WebSocket's opening to its end: handshake, login, frames in both directions.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocket;
use relevo_linked_device::client::wacore_binary::node::Node;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::frames::{self, FrameSocket};
use crate::noise::{self, HandshakeStep, NoiseTransport};
use crate::registry::{CloseMode, ConnectionId, ConnectionPeer, ConnectionWork};
use crate::server_state::ServerState;
use crate::stanza::attr;
use crate::stats::ConnectionTransition;
use crate::{iq, login, router};

/// Timeout of the handshake. The client's timeout is also 20 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeout of a write. A client that does not read for this time is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Reason why a connection ended unexpectedly.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Frames(#[from] frames::Error),
    #[error(transparent)]
    Noise(#[from] noise::Error),
    #[error(transparent)]
    Login(#[from] login::Error),
    #[error("the client did not respond in time")]
    Timeout,
}

/// Serves a connection until it ends.
pub async fn serve(shared: Arc<ServerState>, socket: WebSocket) {
    shared.stats.record_connection(shared.clock.now(), ConnectionTransition::Opened, None);
    let mut frames = FrameSocket::new(socket);
    let opened = tokio::select! {
        opened = timeout(HANDSHAKE_TIMEOUT, handshake(&shared, &mut frames)) => opened.unwrap_or(Err(Error::Timeout)),
        () = shared.closing.cancelled() => return,
    };
    let (transport, payload) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::info!(%error, "handshake failed; closing connection");
            return;
        }
    };
    let wake = Arc::new(Notify::new());
    let connection = match login::accept_client(&shared, &payload, Arc::clone(&wake)) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::info!(%error, "login payload malformed; closing connection");
            return;
        }
    };
    // The guard also works when this future is dropped.
    let _guard = DisconnectGuard { shared: Arc::clone(&shared), connection };
    let mut task = SocketTask { shared: Arc::clone(&shared), connection, frames, transport, wake };
    match task.run().await {
        Ok(CloseMode::Graceful) => task.frames.close().await,
        Ok(CloseMode::Cut) | Err(Error::Frames(frames::Error::Closed)) => {}
        Err(error) => tracing::info!(%error, "connection ended with an error"),
    }
}

async fn handshake(
    shared: &ServerState,
    frames: &mut FrameSocket,
) -> Result<(NoiseTransport, Vec<u8>), Error> {
    let hello = frames.next().await?;
    match noise::read_client_hello(&shared.identity(), &shared.random, &hello)? {
        HandshakeStep::Complete { answer, transport, payload } => {
            frames.feed(&answer).await?;
            frames.flush().await?;
            Ok((transport, payload))
        }
        HandshakeStep::AwaitFinish { answer, rest } => {
            frames.feed(&answer).await?;
            frames.flush().await?;
            let finish = frames.next().await?;
            Ok(rest.complete(&finish)?)
        }
    }
}

/// Removes a connection from the registry when it is dropped.
struct DisconnectGuard {
    shared: Arc<ServerState>,
    connection: ConnectionId,
}

impl Drop for DisconnectGuard {
    fn drop(&mut self) {
        login::handle_disconnect(&self.shared, self.connection);
    }
}

/// The loop of an open connection.
struct SocketTask {
    shared: Arc<ServerState>,
    connection: ConnectionId,
    frames: FrameSocket,
    transport: NoiseTransport,
    wake: Arc<Notify>,
}

impl SocketTask {
    async fn run(&mut self) -> Result<CloseMode, Error> {
        loop {
            let work = self.shared.registry().next_work(self.connection);
            if let Some(mode) = work.close {
                return Ok(mode);
            }
            if work.muted {
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = self.shared.closing.cancelled() => return Ok(CloseMode::Cut),
                }
            }
            if !work.stanzas.is_empty() {
                timeout(WRITE_TIMEOUT, self.send(work)).await.unwrap_or(Err(Error::Timeout))?;
                continue;
            }
            tokio::select! {
                () = self.shared.closing.cancelled() => return Ok(CloseMode::Cut),
                () = self.wake.notified() => {}
                frame = self.frames.next() => {
                    let stanza = self.transport.decrypt(frame?)?;
                    self.handle(stanza);
                }
            }
        }
    }

    async fn send(&mut self, work: ConnectionWork) -> Result<(), Error> {
        for stanza in work.stanzas {
            tracing::trace!(connection = ?self.connection, stanza = ?stanza.tag, id = %attr(&stanza, "id"), "to a linked device");
            let frame = self.transport.encrypt(&stanza)?;
            self.frames.feed(&frame).await?;
        }
        Ok(self.frames.flush().await?)
    }

    fn handle(&self, stanza: Node) {
        tracing::trace!(connection = ?self.connection, stanza = ?stanza.tag, id = %attr(&stanza, "id"), "from a linked device");
        if stanza.tag == "iq" {
            iq::answer(&self.shared, self.connection, &stanza);
            return;
        }
        let peer =
            self.shared.registry().connection(self.connection).map(|connection| match connection.peer {
                ConnectionPeer::Device(device) => Some(device),
                ConnectionPeer::Unpaired(_) | ConnectionPeer::Refused => None,
            });
        match peer.flatten() {
            Some(device) => {
                let phone_stanzas = router::route_stanza(&self.shared, device, stanza);
                self.shared.deliver_to_phones(phone_stanzas);
            }
            None => {
                tracing::debug!(stanza = ?stanza.tag, "stanza before login; ignoring it")
            }
        }
    }
}
