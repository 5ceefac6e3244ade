//! One connection, from the WebSocket's opening to its end: the handshake, the login, and then frames both ways.

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
use crate::{iq, login, routing};

/// A handshake may take so long. The client's own patience is 20 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// A client that reads nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a connection ended that nobody had told to end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Frames(#[from] frames::Error),
    #[error(transparent)]
    Noise(#[from] noise::Error),
    #[error(transparent)]
    Login(#[from] login::Error),
    #[error("the client took too long")]
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
    let (tunnel, payload) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::info!(%error, "a connection to the sandbox's WhatsApp Web ended in its handshake");
            return;
        }
    };
    let wake = Arc::new(Notify::new());
    let link = match login::accept_client(&shared, &payload, Arc::clone(&wake)) {
        Ok(link) => link,
        Err(error) => {
            tracing::info!(%error, "a login to the sandbox's WhatsApp Web makes no sense");
            return;
        }
    };
    // Also when this future is dropped.
    let _forget = DisconnectGuard { shared: Arc::clone(&shared), link };
    let mut line = SocketTask { shared: Arc::clone(&shared), link, frames, tunnel, wake };
    match line.run().await {
        Ok(CloseMode::Graceful) => line.frames.close().await,
        Ok(CloseMode::Cut) | Err(Error::Frames(frames::Error::Closed)) => {}
        Err(error) => tracing::info!(%error, "a connection to the sandbox's WhatsApp Web ended"),
    }
}

async fn handshake(
    shared: &ServerState,
    frames: &mut FrameSocket,
) -> Result<(NoiseTransport, Vec<u8>), Error> {
    let hello = frames.next().await?;
    match noise::read_client_hello(&shared.identity(), &hello)? {
        HandshakeStep::Complete { answer, tunnel, payload } => {
            frames.feed(&answer).await?;
            frames.flush().await?;
            Ok((tunnel, payload))
        }
        HandshakeStep::AwaitFinish { answer, rest } => {
            frames.feed(&answer).await?;
            frames.flush().await?;
            let finish = frames.next().await?;
            Ok(rest.complete(&finish)?)
        }
    }
}

/// Takes a connection out of the hub when it ends, however it ends.
struct DisconnectGuard {
    shared: Arc<ServerState>,
    link: ConnectionId,
}

impl Drop for DisconnectGuard {
    fn drop(&mut self) {
        login::handle_disconnect(&self.shared, self.link);
    }
}

struct SocketTask {
    shared: Arc<ServerState>,
    link: ConnectionId,
    frames: FrameSocket,
    tunnel: NoiseTransport,
    wake: Arc<Notify>,
}

impl SocketTask {
    async fn run(&mut self) -> Result<CloseMode, Error> {
        loop {
            let work = self.shared.registry().next_work(self.link);
            if let Some(ending) = work.close {
                return Ok(ending);
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
                    let stanza = self.tunnel.decrypt(frame?)?;
                    self.handle(stanza);
                }
            }
        }
    }

    async fn send(&mut self, work: ConnectionWork) -> Result<(), Error> {
        for stanza in work.stanzas {
            tracing::trace!(link = ?self.link, stanza = ?stanza.tag, id = %attr(&stanza, "id"), "to a linked device");
            let frame = self.tunnel.encrypt(&stanza)?;
            self.frames.feed(&frame).await?;
        }
        Ok(self.frames.flush().await?)
    }

    fn handle(&self, stanza: Node) {
        tracing::trace!(link = ?self.link, stanza = ?stanza.tag, id = %attr(&stanza, "id"), "from a linked device");
        if stanza.tag == "iq" {
            iq::answer(&self.shared, self.link, &stanza);
            return;
        }
        let peer = self.shared.registry().connection(self.link).map(|link| match link.peer {
            ConnectionPeer::Device(device) => Some(device),
            ConnectionPeer::Unpaired(_) | ConnectionPeer::Refused => None,
        });
        match peer.flatten() {
            Some(device) => {
                let mail = routing::route_stanza(&self.shared, device, stanza);
                self.shared.deliver_to_phones(mail);
            }
            None => {
                tracing::debug!(stanza = ?stanza.tag, "a stanza of a device that is not logged in is passed over")
            }
        }
    }
}
