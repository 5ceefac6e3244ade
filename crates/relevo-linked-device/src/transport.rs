//! The way to WhatsApp's servers: the socket of WhatsApp Web, and the hosts of its media, both through the instance's
//! proxy where it has one.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use reqwest::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Client, Method, Proxy, StatusCode, Upgraded, redirect};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
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
use relevo_egress::root_cause;
use relevo_provider::{DirectClient, Error};

/// The largest frame that is read; the protocol's own length field has 24 bits.
const MAX_FRAME_BYTES: usize = 1 << 24;

/// Frames that may wait in each direction.
const FRAME_CAPACITY: usize = 64;

/// What a socket reads at once. It is kept for as long as the socket lasts.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// The largest answer that is kept in memory; files are streamed.
const MAX_RESPONSE_BYTES: usize = 32 << 20;

/// One file of WhatsApp's, up or down, may take so long.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(600);

/// How an instance reaches WhatsApp. Cheap to clone.
#[derive(Clone)]
pub(super) struct WhatsAppConnector {
    client: Client,
    server: Url,
    client_state: Arc<ClientState>,
}

impl WhatsAppConnector {
    /// The address of the server is the operator's own, and WhatsApp names the hosts of media, so neither needs the
    /// guard that the addresses of users pass.
    pub fn new(
        server: &Url,
        direct: &DirectClient,
        proxy: Option<&Secret>,
        desk: Arc<ClientState>,
    ) -> Result<Self, Error> {
        check_sandbox_server(server)?;
        let mut server = server.clone();
        let scheme = if server.scheme() == "wss" { "https" } else { "http" };
        server
            .set_scheme(scheme)
            .map_err(|()| ValidationError::new("linked_device.server", "must be a ws or wss URL"))?;
        let client = match (proxy, direct.get()) {
            (Some(proxy), _) => http_client(Some(parse_proxy(proxy)?))?,
            (None, Some(client)) => client.clone(),
            (None, None) => {
                let client = http_client(None)?;
                direct.get_or_init(|| client).clone()
            }
        };
        Ok(Self { client, server, client_state: desk })
    }

    async fn open_websocket(&self) -> anyhow::Result<WebSocketStream<Upgraded>> {
        let key = generate_key();
        let request = self
            .client
            .get(self.server.clone())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(ORIGIN, WHATSAPP_WEB_ORIGIN)
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let failed = |cause: reqwest::Error| anyhow!("WhatsApp cannot be reached: {}", root_cause(&cause));
        let response = request.send().await.map_err(failed)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(anyhow!("WhatsApp answered {} instead of opening a socket", response.status()));
        }
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
        {
            return Err(anyhow!("what answered for WhatsApp is no WebSocket server"));
        }
        let stream = response.upgrade().await.map_err(failed)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES))
            .read_buffer_size(READ_BUFFER_BYTES);
        Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
    }

    fn build_request(&self, request: &HttpRequest) -> anyhow::Result<reqwest::RequestBuilder> {
        let url = sandbox_url(Url::parse(&request.url)?);
        let method = Method::from_bytes(request.method.as_bytes())?;
        Ok(self.client.request(method, url).headers(headers(&request.headers)?).timeout(TRANSFER_TIMEOUT))
    }
}

fn http_client(proxy: Option<Proxy>) -> Result<Client, ValidationError> {
    // The first caller in the process wins; every caller installs the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
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

/// The proxy that a configuration names.
pub(super) fn parse_proxy(proxy: &Secret) -> Result<Proxy, ValidationError> {
    let wrong = || {
        let rule = "must be a URL such as http://user:password@host:3128 or socks5://host:1080";
        ValidationError::new("linked_device.proxy", rule)
    };
    let url = Url::parse(proxy.expose()).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") || !url.has_host() {
        return Err(wrong());
    }
    Proxy::all(url).map_err(|_| wrong())
}

/// A build that believes any server's certificate speaks with this machine alone. See ARCHITECTURE.md, "Linked
/// devices".
fn check_sandbox_server(server: &Url) -> Result<(), ValidationError> {
    if cfg!(feature = "any-certificate-on-loopback") && !is_loopback(server) {
        let reason = "this build (feature linked-sandbox) speaks only with a server on this machine, because it checks \
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

/// The client asks media hosts over TLS alone; the sandbox's server, on this machine, has none.
fn sandbox_url(mut url: Url) -> Url {
    if cfg!(feature = "any-certificate-on-loopback") && is_loopback(&url) {
        let port = url.port_or_known_default();
        // Both are possible for every URL with a host.
        let _ = url.set_scheme("http");
        let _ = url.set_port(port);
    }
    url
}

fn headers(given: &HashMap<String, String>) -> anyhow::Result<HeaderMap> {
    let pairs = given
        .iter()
        .map(|(name, value)| Ok((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?)));
    pairs.collect()
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

/// The writing half of a socket, as the client knows it.
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
        // When it is full, nobody reads at the other end; the reader ends with the client then.
        let _ = self.out.try_send(Message::Close(None));
    }
}

async fn write_frames(
    mut sink: SplitSink<WebSocketStream<Upgraded>, Message>,
    mut outgoing: mpsc::Receiver<Message>,
) {
    while let Some(message) = outgoing.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || last {
            break;
        }
    }
    let _ = sink.close().await;
}

async fn read_frames(
    mut stream: SplitStream<WebSocketStream<Upgraded>>,
    events: async_channel::Sender<TransportEvent>,
    writer: mpsc::Sender<Message>,
) {
    if events.send(TransportEvent::Connected).await.is_err() {
        return;
    }
    let reason = loop {
        match stream.next().await {
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
        let mut sending = self.build_request(&request)?;
        if let Some(body) = request.body {
            sending = sending.body(body);
        }
        let response = sending.send().await?;
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

    // Called where it may block, which is where the runtime's handle is.
    fn execute_streaming(&self, request: HttpRequest) -> anyhow::Result<StreamingHttpResponse> {
        let runtime = tokio::runtime::Handle::try_current()?;
        let mut sending = self.build_request(&request)?;
        if let Some(body) = request.body {
            sending = sending.body(body);
        }
        let response = runtime.block_on(sending.send())?;
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
        let sending = self
            .build_request(&request)?
            .header(CONTENT_LENGTH, content_length)
            .body(reqwest::Body::wrap_stream(stream));
        let answer = runtime.spawn(async move {
            let response = sending.send().await?;
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
    fn a_client_that_accepts_any_certificate_connects_to_this_machine_alone() {
        for server in ["ws://127.0.0.1:8091/ws/chat", "ws://localhost/ws/chat", "ws://[::1]:1/"] {
            assert!(connector(server, None).is_ok(), "{server}");
        }
        for server in ["wss://web.whatsapp.com/ws/chat", "ws://10.0.0.1/", "ws://localhost.example/"] {
            assert!(connector(server, None).err().unwrap().contains("linked-sandbox"), "{server}");
        }
    }

    #[test]
    fn a_proxy_is_http_or_socks() {
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
    fn a_client_that_checks_certificates_connects_to_any_server() {
        assert!(road("wss://web.whatsapp.com/ws/chat", None).is_ok());
    }

    #[cfg(feature = "any-certificate-on-loopback")]
    #[test]
    fn loopback_media_url_uses_http() {
        let mapped = |url: &str| sandbox_url(Url::parse(url).unwrap()).to_string();
        assert_eq!(mapped("https://127.0.0.1:8091/mms/image"), "http://127.0.0.1:8091/mms/image");
        assert_eq!(mapped("https://mmg.whatsapp.net/x"), "https://mmg.whatsapp.net/x");
    }
}
