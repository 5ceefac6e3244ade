//! One connection, from the WebSocket's opening to its end: the handshake, the login, and then frames both ways.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocket;
use relevo_linked_device::client::wacore_binary::node::Node;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::frames::{self, Frames};
use crate::hub::{Ending, LinkId, Peer, Work};
use crate::noise::{self, Opening, Tunnel};
use crate::shared::Shared;
use crate::stanza::attr;
use crate::stats::Turn;
use crate::{iq, login, routing};

/// A handshake may take so long. The client's own patience is 20 s.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// A client that reads nothing for so long is gone.
const WRITE: Duration = Duration::from_secs(20);

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
    Slow,
}

/// Serves a connection until it ends.
pub async fn serve(shared: Arc<Shared>, socket: WebSocket) {
    shared.stats.turn(shared.clock.now(), Turn::Opened, None);
    let mut frames = Frames::new(socket);
    let opened = tokio::select! {
        opened = timeout(HANDSHAKE, open(&shared, &mut frames)) => opened.unwrap_or(Err(Error::Slow)),
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
    let link = match login::admit(&shared, &payload, Arc::clone(&wake)) {
        Ok(link) => link,
        Err(error) => {
            tracing::info!(%error, "a login to the sandbox's WhatsApp Web makes no sense");
            return;
        }
    };
    // Also when this future is dropped.
    let _forget = Forget { shared: Arc::clone(&shared), link };
    let mut line = Line { shared: Arc::clone(&shared), link, frames, tunnel, wake };
    match line.run().await {
        Ok(Ending::Polite) => line.frames.close().await,
        Ok(Ending::Cut) | Err(Error::Frames(frames::Error::HungUp)) => {}
        Err(error) => tracing::info!(%error, "a connection to the sandbox's WhatsApp Web ended"),
    }
}

async fn open(shared: &Shared, frames: &mut Frames) -> Result<(Tunnel, Vec<u8>), Error> {
    let hello = frames.next().await?;
    match noise::open(&shared.identity(), &hello)? {
        Opening::Complete { answer, tunnel, payload } => {
            frames.feed(&answer).await?;
            frames.flush().await?;
            Ok((tunnel, payload))
        }
        Opening::Half { answer, rest } => {
            frames.feed(&answer).await?;
            frames.flush().await?;
            let finish = frames.next().await?;
            Ok(rest.read(&finish)?)
        }
    }
}

/// Takes a connection out of the hub when it ends, however it ends.
struct Forget {
    shared: Arc<Shared>,
    link: LinkId,
}

impl Drop for Forget {
    fn drop(&mut self) {
        login::leave(&self.shared, self.link);
    }
}

struct Line {
    shared: Arc<Shared>,
    link: LinkId,
    frames: Frames,
    tunnel: Tunnel,
    wake: Arc<Notify>,
}

impl Line {
    async fn run(&mut self) -> Result<Ending, Error> {
        loop {
            let work = self.shared.hub().take(self.link);
            if let Some(ending) = work.end {
                return Ok(ending);
            }
            if work.muted {
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = self.shared.closing.cancelled() => return Ok(Ending::Cut),
                }
            }
            if !work.stanzas.is_empty() {
                timeout(WRITE, self.send(work)).await.unwrap_or(Err(Error::Slow))?;
                continue;
            }
            tokio::select! {
                () = self.shared.closing.cancelled() => return Ok(Ending::Cut),
                () = self.wake.notified() => {}
                frame = self.frames.next() => {
                    let stanza = self.tunnel.decrypt(frame?)?;
                    self.handle(stanza);
                }
            }
        }
    }

    async fn send(&mut self, work: Work) -> Result<(), Error> {
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
        let peer = self.shared.hub().link(self.link).map(|link| match link.peer {
            Peer::Device(device) => Some(device),
            Peer::Newcomer(_) | Peer::Refused => None,
        });
        match peer.flatten() {
            Some(device) => {
                let mail = routing::accept(&self.shared, device, stanza);
                self.shared.hand_out(mail);
            }
            None => {
                tracing::debug!(stanza = ?stanza.tag, "a stanza of a device that is not logged in is passed over")
            }
        }
    }
}
