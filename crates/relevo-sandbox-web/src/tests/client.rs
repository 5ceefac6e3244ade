//! An unmodified client with a minimal transport, for tests of the server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use relevo_linked_device::client::anyhow::{self, Context as _};
use relevo_linked_device::client::async_channel::{self, Receiver};
use relevo_linked_device::client::async_trait;
use relevo_linked_device::client::prelude::*;
use relevo_linked_device::client::wacore::net::{
    DisconnectReason, HttpClient, HttpRequest, HttpResponse, Transport, TransportEvent, TransportFactory,
};
use relevo_linked_device::client::wacore::store::InMemoryBackend;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as Frame;
use url::Url;

use crate::{Phone, WebHandle};

/// Timeout of all waits in these tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct TestTransportFactory(Url);

struct TestTransport(mpsc::Sender<Option<Bytes>>);

#[async_trait]
impl Transport for TestTransport {
    async fn send(&self, data: Bytes) -> anyhow::Result<()> {
        self.0.send(Some(data)).await.context("the socket is closed")
    }

    async fn disconnect(&self) {
        let _ = self.0.send(None).await;
    }
}

#[async_trait]
impl TransportFactory for TestTransportFactory {
    async fn create_transport(&self) -> anyhow::Result<(Arc<dyn Transport>, Receiver<TransportEvent>)> {
        let stream = TcpStream::connect(&*self.0.socket_addrs(|| None)?).await?;
        let (socket, _) = tokio_tungstenite::client_async(self.0.as_str(), stream).await?;
        let (mut sink, mut frames) = socket.split();
        let (outward, mut waiting) = mpsc::channel::<Option<Bytes>>(64);
        let (inward, events) = async_channel::bounded(256);
        inward.send(TransportEvent::Connected).await?;
        tokio::spawn(async move {
            let reason = loop {
                tokio::select! {
                    bytes = waiting.recv() => {
                        let Some(bytes) = bytes.flatten() else { break DisconnectReason::Unknown };
                        if let Err(error) = sink.send(Frame::Binary(bytes)).await {
                            break DisconnectReason::ReadError(error.to_string());
                        }
                    }
                    frame = frames.next() => match frame {
                        Some(Ok(Frame::Binary(bytes))) => {
                            if inward.send(TransportEvent::DataReceived(bytes)).await.is_err() {
                                break DisconnectReason::Unknown;
                            }
                        }
                        Some(Ok(Frame::Close(_))) | None => break DisconnectReason::StreamEnded,
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break DisconnectReason::ReadError(error.to_string()),
                    },
                }
            };
            let _ = inward.send(TransportEvent::Disconnected(reason)).await;
        });
        Ok((Arc::new(TestTransport(outward)), events))
    }
}

/// Requests the server's media hosts without TLS.
struct PlainHttpClient(reqwest::Client);

#[async_trait]
impl HttpClient for PlainHttpClient {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let url = request.url.replacen("https://", "http://", 1);
        let response = match request.body {
            Some(body) => self.0.post(url).body(body),
            None if request.method == "POST" => self.0.post(url),
            None => self.0.get(url),
        };
        let response = response.send().await?;
        Ok(HttpResponse { status_code: response.status().as_u16(), body: response.bytes().await?.to_vec() })
    }
}

/// An HTTP client.
pub fn http_client() -> reqwest::Client {
    // The first caller in the process wins; every caller installs the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// A client and its events.
pub struct TestClient {
    pub bot: BotHandle,
    events: Receiver<Arc<Event>>,
    backend: Arc<InMemoryBackend>,
    name: String,
    /// Texts that arrived in one event with others.
    texts: Mutex<VecDeque<(String, Jid, String)>>,
}

impl TestClient {
    /// A new client without an account.
    pub async fn start(web: &WebHandle, name: &str) -> Self {
        Self::start_with_backend(web, Arc::new(InMemoryBackend::new()), name, false).await
    }

    /// A client that accepts the history of its phone.
    pub async fn with_history(web: &WebHandle, name: &str) -> Self {
        Self::start_with_backend(web, Arc::new(InMemoryBackend::new()), name, true).await
    }

    async fn start_with_backend(
        web: &WebHandle,
        backend: Arc<InMemoryBackend>,
        name: &str,
        history: bool,
    ) -> Self {
        let (handler, events) = ChannelEventHandler::new();
        let builder = Bot::builder()
            .with_backend_arc(Arc::clone(&backend) as _)
            .with_transport_factory(TestTransportFactory(web.url()))
            .with_http_client(PlainHttpClient(http_client()))
            .with_version((2, 3000, 1))
            .with_push_name(name)
            .with_wanted_pre_key_count(30);
        let builder = if history { builder } else { builder.skip_history_sync() };
        let bot = builder.build().await.unwrap();
        bot.client().subscribe_handler(handler).detach();
        Self { bot: bot.spawn(), events, backend, name: name.into(), texts: Mutex::default() }
    }

    /// Starts the same device again, as a restarted process would.
    pub async fn restart(self, web: &WebHandle) -> Self {
        let Self { bot, backend, name, .. } = self;
        bot.shutdown().await;
        Self::start_with_backend(web, backend, &name, false).await
    }

    /// A connected client that the phone has linked by its QR code.
    pub async fn paired(web: &WebHandle, phone: &Phone) -> Self {
        let client = Self::start(web, phone.phone_number()).await;
        let code = client.wait_for_qr_code().await;
        phone.scan(&code).unwrap();
        client.wait_connected().await;
        client
    }

    /// Waits for the next QR code.
    pub async fn wait_for_qr_code(&self) -> String {
        self.wait("a QR code", |event| match event {
            Event::PairingQrCode(code) => Some(code.code.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until the client is connected.
    pub async fn wait_connected(&self) {
        self.wait("a connection", |event| matches!(event, Event::Connected(_)).then_some(())).await;
    }

    /// The first event for which `select` returns a value; skips earlier events.
    pub async fn wait<T>(&self, what: &str, mut select: impl FnMut(&Event) -> Option<T>) -> T {
        let mut passed = Vec::new();
        let found = tokio::time::timeout(TEST_TIMEOUT, async {
            loop {
                let event = self.events.recv().await.expect("the client sends events");
                passed.push(format!("{:?}", event.kind()));
                if let Some(found) = select(&event) {
                    return found;
                }
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("{} waited for {what} and saw {passed:?}", self.name),
        }
    }

    /// The next text: its id, sender and content.
    pub async fn next_text(&self) -> (String, Jid, String) {
        if let Some(text) = self.texts.lock().unwrap().pop_front() {
            return text;
        }
        self.wait("a text", |event| {
            let mut texts = event.messages().filter_map(|message| {
                let text = message.message.text_content()?.to_owned();
                Some((message.info.id.clone(), message.info.source.sender.clone(), text))
            });
            let first = texts.next();
            self.texts.lock().unwrap().extend(texts);
            first
        })
        .await
    }

    /// The acknowledgement of a message; its error when the message was refused.
    pub async fn wait_for_ack(&self, id: &str) -> Option<String> {
        self.wait("an acknowledgement", |event| match event {
            Event::ServerAck(ack) if ack.id == id && ack.class.as_deref() == Some("message") => {
                Some(ack.error.clone())
            }
            _ => None,
        })
        .await
    }

    /// Sends a text. Returns the message's id.
    pub async fn send_text(&self, to: &Jid, text: &str) -> String {
        self.bot.client().send_message(to, wa::Message::text(text)).await.unwrap().message_id
    }

    /// Sends a text under this id.
    pub async fn send_text_with_id(&self, to: &Jid, id: &str, text: &str) {
        let options = SendOptions::default().with_message_id(id);
        self.bot.client().send_message_with_options(to, wa::Message::text(text), options).await.unwrap();
    }
}
