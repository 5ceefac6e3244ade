//! Frames in WebSocket messages: a three-byte length before each frame, a header before the first.

use axum::extract::ws::{Message, WebSocket};
use bytes::{Buf, BytesMut};
use futures_util::SinkExt as _;
use relevo_linked_device::client::wacore_binary::consts::WA_CONN_HEADER;

/// Maximum size of a frame, in bytes: five times a group message with keys for a thousand devices.
pub const MAX_FRAME_BYTES: usize = 2 << 20;

/// Header of clients with routing data: `ED`, version, then the routing data.
const ROUTING_HEADER: &[u8] = b"ED\0\x01";

/// Reason why a socket failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the client closed the connection")]
    Closed,
    #[error("the socket failed: {0}")]
    Socket(#[from] axum::Error),
    #[error("a frame of {0} bytes is longer than {MAX_FRAME_BYTES}")]
    TooLong(usize),
    #[error("the first frame has no WhatsApp Web header")]
    InvalidHeader,
}

/// A WebSocket that carries frames.
pub struct FrameSocket {
    socket: WebSocket,
    buffer: BytesMut,
    header_skipped: bool,
}

impl FrameSocket {
    /// Frames over `socket`.
    pub fn new(socket: WebSocket) -> Self {
        Self { socket, buffer: BytesMut::new(), header_skipped: false }
    }

    /// The next frame. Cancel safe: received bytes are kept.
    ///
    /// # Errors
    /// The connection is closed, or the frame is malformed or too long.
    pub async fn next(&mut self) -> Result<BytesMut, Error> {
        loop {
            if let Some(frame) = self.split_frame()? {
                return Ok(frame);
            }
            match self.socket.recv().await {
                Some(Ok(Message::Binary(bytes))) => self.buffer.extend_from_slice(&bytes),
                Some(Ok(Message::Close(_))) | None => return Err(Error::Closed),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    fn split_frame(&mut self) -> Result<Option<BytesMut>, Error> {
        if !self.header_skipped && !self.skip_header()? {
            return Ok(None);
        }
        let [high, middle, low, ..] = self.buffer[..] else { return Ok(None) };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > MAX_FRAME_BYTES {
            return Err(Error::TooLong(length));
        }
        if self.buffer.len() < 3 + length {
            return Ok(None);
        }
        self.buffer.advance(3);
        let frame = self.buffer.split_to(length);
        if self.buffer.is_empty() {
            // An idle connection holds no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(Some(frame))
    }

    /// Removes the header from the buffer; false when it is incomplete.
    fn skip_header(&mut self) -> Result<bool, Error> {
        if let Some(routed) = self.buffer.strip_prefix(ROUTING_HEADER) {
            let [high, middle, low, ..] = routed[..] else { return Ok(false) };
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > MAX_FRAME_BYTES {
                return Err(Error::TooLong(length));
            }
            if routed.len() < 3 + length {
                return Ok(false);
            }
            self.buffer.advance(ROUTING_HEADER.len() + 3 + length);
        }
        if self.buffer.len() < WA_CONN_HEADER.len() {
            return Ok(false);
        }
        if !self.buffer.starts_with(&WA_CONN_HEADER) {
            return Err(Error::InvalidHeader);
        }
        self.buffer.advance(WA_CONN_HEADER.len());
        self.header_skipped = true;
        Ok(true)
    }

    /// Queues a frame; [`FrameSocket::flush`] sends the queued frames.
    ///
    /// # Errors
    /// The connection is closed, or the frame is too long.
    pub async fn feed(&mut self, frame: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(frame.len()).ok().filter(|length| *length < 1 << 24);
        let length = length.ok_or(Error::TooLong(frame.len()))?.to_be_bytes();
        let mut whole = BytesMut::with_capacity(3 + frame.len());
        whole.extend_from_slice(length.get(1..).unwrap_or_default());
        whole.extend_from_slice(frame);
        Ok(self.socket.feed(Message::Binary(whole.freeze())).await?)
    }

    /// Sends the queued frames.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn flush(&mut self) -> Result<(), Error> {
        Ok(self.socket.flush().await?)
    }

    /// Sends the close message of a WebSocket. Ignores a closed connection.
    pub async fn close(mut self) {
        let _ = self.socket.send(Message::Close(None)).await;
    }
}
