//! The client side of the WebSocket handshake (RFC 6455 §4).
//!
//! The handshake runs over a reqwest client, which provides TLS and proxies. It is not guarded: it is for URLs that the
//! operator configures, which may lead to private addresses.

use reqwest::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Client, StatusCode, Upgraded};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use url::Url;

use super::root_cause;

/// An open WebSocket connection of a client.
pub type WebSocket = WebSocketStream<Upgraded>;

/// The reason why a handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The server cannot be reached, or the connection broke before its answer.
    #[error("the connection failed: {0}")]
    Connect(String),
    /// The server did not switch protocols.
    #[error("the server answered {0} instead of switching to WebSocket")]
    Status(StatusCode),
    /// The server switched protocols without a valid `Sec-WebSocket-Accept` header.
    #[error("the server's answer is not a WebSocket handshake")]
    Accept,
}

/// Maps a `ws` URL to `http` and a `wss` URL to `https`, for the HTTP client. `None` for other schemes.
pub fn http_url(url: &Url) -> Option<Url> {
    let scheme = match url.scheme() {
        "ws" => "http",
        "wss" => "https",
        _ => return None,
    };
    let mut url = url.clone();
    url.set_scheme(scheme).ok()?;
    Some(url)
}

/// Opens a WebSocket connection to a URL of [`http_url`], with additional `headers`. `config` bounds messages and
/// buffers. The caller bounds the duration, and uses a client that follows no redirects.
///
/// # Errors
///
/// The server cannot be reached or does not complete the handshake.
pub async fn connect(
    client: &Client,
    url: &Url,
    headers: HeaderMap,
    config: WebSocketConfig,
) -> Result<WebSocket, HandshakeError> {
    let key = generate_key();
    let request = client
        .get(url.clone())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .headers(headers)
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key);
    let failed = |cause: reqwest::Error| HandshakeError::Connect(root_cause(&cause));
    let response = request.send().await.map_err(failed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(HandshakeError::Status(response.status()));
    }
    let expected = derive_accept_key(key.as_bytes());
    match response.headers().get(SEC_WEBSOCKET_ACCEPT) {
        Some(accept) if accept.as_bytes() == expected.as_bytes() => {}
        _ => return Err(HandshakeError::Accept),
    }
    let stream = response.upgrade().await.map_err(failed)?;
    Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::ws::{Message as ServerMessage, WebSocketUpgrade};
    use axum::http::HeaderMap as RequestHeaders;
    use axum::routing::get;
    use futures_util::{SinkExt as _, StreamExt as _};
    use reqwest::header::{HeaderValue, ORIGIN};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::install_tls_provider;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    async fn connect_to(url: &str) -> Result<WebSocket, HandshakeError> {
        install_tls_provider();
        let client = Client::builder().no_proxy().build().unwrap();
        let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("https://example.com"))]);
        let config = WebSocketConfig::default().max_message_size(Some(8)).max_frame_size(Some(8));
        connect(&client, &http_url(&self::url(url)).unwrap(), headers, config).await
    }

    /// A server whose `/ws` sends the `Origin` header of the request, and then echoes one message.
    async fn serve() -> String {
        let echo = |headers: RequestHeaders, upgrade: WebSocketUpgrade| async move {
            let origin = headers.get("origin").and_then(|origin| origin.to_str().ok()).map(str::len);
            upgrade.on_upgrade(move |mut socket| async move {
                let length = format!("{origin:?}").chars().filter(char::is_ascii_digit).collect::<String>();
                let _ = socket.send(ServerMessage::text(length)).await;
                if let Some(Ok(message)) = socket.recv().await {
                    let _ = socket.send(message).await;
                    let _ = socket.send(ServerMessage::text("too large")).await;
                }
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/ws", get(echo)).route("/page", get(|| async { "page" }));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("ws://{address}")
    }

    #[tokio::test]
    async fn connection_sends_headers_and_messages_within_the_limits() {
        let mut socket = connect_to(&format!("{}/ws", serve().await)).await.unwrap();
        let origin_length = "https://example.com".len().to_string();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(origin_length));
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        assert!(socket.next().await.unwrap().is_err(), "the message exceeds the limit");
    }

    #[tokio::test]
    async fn other_answers_fail_the_handshake() {
        let server = serve().await;
        for (path, status) in [("/page", StatusCode::OK), ("/missing", StatusCode::NOT_FOUND)] {
            let error = connect_to(&format!("{server}{path}")).await.unwrap_err();
            assert_eq!(error, HandshakeError::Status(status), "{path}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = format!("ws://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = connect_to(&closed).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Connect(_)), "{error}");
    }

    #[tokio::test]
    async fn wrong_accept_key_fails_the_handshake() {
        for accept in ["", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = format!("ws://{}", listener.local_addr().unwrap());
            tokio::spawn(async move {
                let (mut connection, _) = listener.accept().await.unwrap();
                let _ = connection.read(&mut [0; 8192]).await;
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{accept}\r\n"
                );
                let _ = connection.write_all(answer.as_bytes()).await;
                let _ = connection.read(&mut [0; 8192]).await;
            });
            assert_eq!(connect_to(&server).await.unwrap_err(), HandshakeError::Accept, "{accept}");
        }
    }

    #[test]
    fn http_url_maps_only_websocket_schemes() {
        for (given, mapped) in [
            ("ws://127.0.0.1:8080/ws?x=1", Some("http://127.0.0.1:8080/ws?x=1")),
            ("wss://example.com/ws", Some("https://example.com/ws")),
            ("http://example.com/", None),
            ("mailto:a@example.com", None),
        ] {
            assert_eq!(http_url(&url(given)).as_ref().map(Url::as_str), mapped, "{given}");
        }
    }
}
