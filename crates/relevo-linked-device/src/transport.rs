//! Connections to WhatsApp's servers: the WebSocket of WhatsApp Web and requests to its media hosts, both through the
//! instance's proxy if it has one.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use reqwest::{Client, Method, Proxy, redirect};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::io::{StreamReader, SyncIoBridge};
use url::{Host, Url};
use whatsapp_rust::anyhow::{self, anyhow};
use whatsapp_rust::async_channel;
use whatsapp_rust::async_trait;
use whatsapp_rust::wacore::net::{
    DisconnectReason, HttpClient, HttpRequest, HttpResponse, StreamingHttpResponse, Transport,
    TransportEvent, TransportFactory, UploadBody, WHATSAPP_WEB_ORIGIN,
};

use super::client_state::ClientState;
use relevo_domain::{Secret, ValidationError};
use relevo_egress::websocket::{self, WebSocket};
use relevo_egress::{install_tls_provider, root_cause};
use relevo_provider::{DirectClient, Error};

/// Maximum size of a received frame; the length field of the protocol has 24 bits.
const MAX_FRAME_BYTES: usize = 1 << 24;

/// Number of frames that may wait in each direction.
const FRAME_CAPACITY: usize = 64;

/// Size of a socket's read buffer, which exists as long as the socket.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// Maximum size of an HTTP answer in memory; files are streamed.
const MAX_RESPONSE_BYTES: usize = 32 << 20;

/// Timeout of the upload or download of one file.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(600);

/// Connects one instance to WhatsApp. Cheap to clone.
#[derive(Clone)]
pub(super) struct WhatsAppConnector {
    client: Client,
    /// The WebSocket endpoint, with `http` for `ws`: the HTTP client provides TLS.
    server: Url,
    client_state: Arc<ClientState>,
}

impl WhatsAppConnector {
    /// The operator configures the server and WhatsApp names the media hosts, so neither needs the guard for addresses of
    /// users.
    ///
    /// # Errors
    ///
    /// The server, the proxy or the system's TLS configuration is invalid.
    pub fn new(
        server: &Url,
        direct: &DirectClient,
        proxy: Option<&Secret>,
        client_state: Arc<ClientState>,
    ) -> Result<Self, Error> {
        check_sandbox_server(server)?;
        let server = websocket::http_url(server)
            .ok_or_else(|| ValidationError::new("linked_device.server", "must be a ws or wss URL"))?;
        let client = match (proxy, direct.get()) {
            (Some(proxy), _) => http_client(Some(parse_proxy(proxy)?))?,
            (None, Some(client)) => client.clone(),
            (None, None) => {
                let client = http_client(None)?;
                direct.get_or_init(|| client).clone()
            }
        };
        Ok(Self { client, server, client_state })
    }

    async fn open_websocket(&self) -> anyhow::Result<WebSocket> {
        let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(WHATSAPP_WEB_ORIGIN))]);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES))
            .read_buffer_size(READ_BUFFER_BYTES);
        websocket::connect(&self.client, &self.server, headers, config)
            .await
            .map_err(|cause| anyhow!("WhatsApp cannot be reached: {cause}"))
    }

    fn build_request(&self, request: &HttpRequest) -> anyhow::Result<reqwest::RequestBuilder> {
        let url = sandbox_url(Url::parse(&request.url)?);
        let method = Method::from_bytes(request.method.as_bytes())?;
        Ok(self
            .client
            .request(method, url)
            .headers(parse_headers(&request.headers)?)
            .timeout(TRANSFER_TIMEOUT))
    }
}

fn http_client(proxy: Option<Proxy>) -> Result<Client, ValidationError> {
    install_tls_provider();
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(2);
    let builder = match proxy {
        Some(proxy) => builder.proxy(proxy),
        None => builder,
    };
    builder.build().map_err(|cause| ValidationError::new("linked_device", root_cause(&cause)))
}

/// Parses the URL of a proxy.
pub(super) fn parse_proxy(proxy: &Secret) -> Result<Proxy, ValidationError> {
    let invalid = || {
        let rule = "must be a URL such as http://user:password@host:3128 or socks5://host:1080";
        ValidationError::new("linked_device.proxy", rule)
    };
    let url = Url::parse(proxy.expose()).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") || !url.has_host() {
        return Err(invalid());
    }
    Proxy::all(url).map_err(|_| invalid())
}

/// Restricts a build that accepts any certificate to servers on this machine.
fn check_sandbox_server(server: &Url) -> Result<(), ValidationError> {
    if cfg!(feature = "any-certificate-on-loopback") && !is_loopback(server) {
        let reason = "this build (feature linked-sandbox) connects only to a server on this machine, because it checks \
                      no certificates; build it without that feature";
        return Err(ValidationError::new("linked_device.server", reason));
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Maps a media URL to the sandbox's server, on this machine, to `http`: the client library uses `https` for all media
/// hosts, and the sandbox has no TLS.
fn sandbox_url(mut url: Url) -> Url {
    if cfg!(feature = "any-certificate-on-loopback") && is_loopback(&url) {
        let port = url.port_or_known_default();
        // Neither fails for a URL with a host.
        let _ = url.set_scheme("http");
        let _ = url.set_port(port);
    }
    url
}

fn parse_headers(headers: &HashMap<String, String>) -> anyhow::Result<HeaderMap> {
    let parsed = headers
        .iter()
        .map(|(name, value)| Ok((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?)));
    parsed.collect()
}

#[async_trait]
impl TransportFactory for WhatsAppConnector {
    async fn create_transport(
        &self,
    ) -> anyhow::Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>)> {
        let (sink, stream) = self.open_websocket().await?.split();
        let (out, outgoing) = mpsc::channel(FRAME_CAPACITY);
        let (events, receiver) = async_channel::bounded(FRAME_CAPACITY);
        let pongs = out.clone();
        tokio::spawn(write_frames(sink, outgoing));
        tokio::spawn(read_frames(stream, events, pongs));
        Ok((Arc::new(WebSocketSender { out, client_state: Arc::clone(&self.client_state) }), receiver))
    }
}

/// The client library's handle to the writing half of a socket.
struct WebSocketSender {
    out: mpsc::Sender<Message>,
    client_state: Arc<ClientState>,
}

#[async_trait]
impl Transport for WebSocketSender {
    async fn send(&self, data: bytes::Bytes) -> anyhow::Result<()> {
        self.client_state.flush_keys().await?;
        self.out.send(Message::Binary(data)).await.map_err(|_| anyhow!("the socket is closed"))
    }

    async fn disconnect(&self) {
        // A full channel means that the server no longer reads. The reading task then ends with the client.
        let _ = self.out.try_send(Message::Close(None));
    }
}

async fn write_frames(mut sink: SplitSink<WebSocket, Message>, mut outgoing: mpsc::Receiver<Message>) {
    while let Some(message) = outgoing.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || last {
            break;
        }
    }
    let _ = sink.close().await;
}

async fn read_frames(
    mut stream: SplitStream<WebSocket>,
    events: async_channel::Sender<TransportEvent>,
    writer: mpsc::Sender<Message>,
) {
    if events.send(TransportEvent::Connected).await.is_err() {
        return;
    }
    let reason = loop {
        let message = tokio::select! {
            message = stream.next() => message,
            // A server need not answer the close of a client that has ended.
            () = events.closed() => return drop(writer.try_send(Message::Close(None))),
        };
        match message {
            Some(Ok(Message::Binary(data))) => {
                if events.send(TransportEvent::DataReceived(data)).await.is_err() {
                    return drop(writer.try_send(Message::Close(None)));
                }
            }
            Some(Ok(Message::Close(frame))) => {
                let code = frame.as_ref().map(|frame| frame.code.into());
                let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                break DisconnectReason::ServerClose { code, reason };
            }
            Some(Ok(_)) => {}
            Some(Err(cause)) => break DisconnectReason::ReadError(cause.to_string()),
            None => break DisconnectReason::StreamEnded,
        }
    };
    let _ = writer.try_send(Message::Close(None));
    let _ = events.send(TransportEvent::Disconnected(reason)).await;
}

#[async_trait]
impl HttpClient for WhatsAppConnector {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let mut builder = self.build_request(&request)?;
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let response = builder.send().await?;
        let status_code = response.status().as_u16();
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.try_next().await? {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(anyhow!("the answer is larger than {MAX_RESPONSE_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status_code, body })
    }

    fn supports_streaming(&self) -> bool {
        true
    }

    // The client library calls this on a blocking thread of the runtime.
    fn execute_streaming(&self, request: HttpRequest) -> anyhow::Result<StreamingHttpResponse> {
        let runtime = tokio::runtime::Handle::try_current()?;
        let mut builder = self.build_request(&request)?;
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let response = runtime.block_on(builder.send())?;
        let status_code = response.status().as_u16();
        let stream = response.bytes_stream().map_err(std::io::Error::other);
        let body: Box<dyn Read + Send> = Box::new(SyncIoBridge::new(StreamReader::new(Box::pin(stream))));
        Ok(StreamingHttpResponse { status_code, body })
    }

    fn supports_upload_streaming(&self) -> bool {
        true
    }

    fn execute_upload(
        &self,
        request: HttpRequest,
        mut body: UploadBody,
        content_length: u64,
    ) -> anyhow::Result<HttpResponse> {
        let runtime = tokio::runtime::Handle::try_current()?;
        let (chunks, receiver) = mpsc::channel::<std::io::Result<bytes::Bytes>>(4);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        let builder = self
            .build_request(&request)?
            .header(CONTENT_LENGTH, content_length)
            .body(reqwest::Body::wrap_stream(stream));
        let answer = runtime.spawn(async move {
            let response = builder.send().await?;
            let status_code = response.status().as_u16();
            Ok::<_, anyhow::Error>(HttpResponse { status_code, body: response.bytes().await?.to_vec() })
        });
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = body.read(&mut buffer);
            let end = matches!(read, Ok(0));
            let chunk =
                read.map(|length| bytes::Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default()));
            let failed = chunk.is_err();
            if end || chunks.blocking_send(chunk).is_err() || failed {
                break;
            }
        }
        drop(chunks);
        runtime.block_on(answer)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(server: &str, proxy: Option<&str>) -> Result<WhatsAppConnector, String> {
        let proxy = proxy.map(Secret::new);
        WhatsAppConnector::new(
            &Url::parse(server).unwrap(),
            &DirectClient::default(),
            proxy.as_ref(),
            Arc::default(),
        )
        .map_err(|error| error.to_string())
    }

    #[cfg(feature = "any-certificate-on-loopback")]
    #[test]
    fn build_without_certificate_checks_connects_only_to_loopback() {
        for server in ["ws://127.0.0.1:8091/ws/chat", "ws://localhost/ws/chat", "ws://[::1]:1/"] {
            assert!(connector(server, None).is_ok(), "{server}");
        }
        for server in ["wss://web.whatsapp.com/ws/chat", "ws://10.0.0.1/", "ws://localhost.example/"] {
            assert!(connector(server, None).err().unwrap().contains("linked-sandbox"), "{server}");
        }
    }

    #[test]
    fn proxy_is_http_or_socks() {
        let server = "ws://127.0.0.1:8091/ws/chat";
        for proxy in
            ["http://10.0.0.1:3128", "socks5://user:word@proxy.example:1080", "socks5h://localhost:1"]
        {
            assert!(connector(server, Some(proxy)).is_ok(), "{proxy}");
        }
        for proxy in ["ftp://10.0.0.1", "10.0.0.1:3128", "", "http://"] {
            let error = connector(server, Some(proxy)).err().unwrap();
            assert!(error.contains("linked_device.proxy"), "{proxy}: {error}");
        }
    }

    #[cfg(not(feature = "any-certificate-on-loopback"))]
    #[test]
    fn build_with_certificate_checks_connects_to_any_server() {
        assert!(connector("wss://web.whatsapp.com/ws/chat", None).is_ok());
    }

    #[cfg(feature = "any-certificate-on-loopback")]
    #[test]
    fn loopback_media_url_uses_http() {
        let mapped = |url: &str| sandbox_url(Url::parse(url).unwrap()).to_string();
        assert_eq!(mapped("https://127.0.0.1:8091/mms/image"), "http://127.0.0.1:8091/mms/image");
        assert_eq!(mapped("https://mmg.whatsapp.net/x"), "https://mmg.whatsapp.net/x");
    }
}
