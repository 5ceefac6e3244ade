//! Readers of event streams: WebSockets and server-sent events.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::{KEY, World};

/// Longest wait for an event of a stream.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The client side of a WebSocket.
pub type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket with these headers. `Err` holds the status code of a refusal.
pub async fn open(world: &World, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
    let socket = TcpSocket::new_v4().unwrap();
    // A small buffer, so that the node soon notices a socket that does not read.
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let stream = socket.connect(world.node.address).await.unwrap();
    let mut request = format!("ws://{}{path}", world.node.address).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(refused)) => Err(refused.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// Opens a WebSocket with the key of the node.
pub async fn socket(world: &World, path: &str) -> Socket {
    open(world, path, &[("x-api-key", KEY)]).await.unwrap()
}

/// The next event of a socket, or the server's close frame.
pub async fn frame(socket: &mut Socket) -> Result<Value, Option<CloseFrame>> {
    loop {
        let next = tokio::time::timeout(TIMEOUT, socket.next()).await.expect("a frame in time");
        match next {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(close))) => return Err(close),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(None),
        }
    }
}

/// A stream of server-sent events.
pub struct Sse {
    response: reqwest::Response,
    read: String,
}

/// One server-sent event.
#[derive(Debug, PartialEq)]
pub struct SseEvent {
    pub id: String,
    pub event: String,
    pub data: Value,
}

impl Sse {
    /// Opens a stream; `last` is the `Last-Event-ID`.
    pub async fn open(world: &World, path: &str, last: Option<&str>) -> Self {
        let mut request = world.request(Method::GET, path).header("Accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, read: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<SseEvent> {
        loop {
            while let Some((block, rest)) = self.read.split_once("\n\n") {
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
                };
                let event = field("data").map(|data| SseEvent {
                    id: field("id").unwrap(),
                    event: field("event").unwrap(),
                    data: serde_json::from_str(&data).unwrap(),
                });
                self.read = rest.to_owned();
                if event.is_some() {
                    return event;
                }
            }
            let chunk = tokio::time::timeout(TIMEOUT, self.response.chunk()).await.expect("an event in time");
            self.read.push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
    }
}
