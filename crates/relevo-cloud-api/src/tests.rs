//! Tests of the Cloud API client against a mock of the Graph API.

use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Multipart, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use url::Url;

use super::*;
use relevo_clock::{Clock, Random};
use relevo_domain::{
    BlobRef, Class, Content, FailureKind, InstanceNumber, Media, MediaKind, MediaSource, MessageOptions,
    Secret, Timestamp,
};
use relevo_egress::{self as egress, Egress};
use relevo_metrics::Metrics;
use relevo_provider::{DirectClient, LinkedOptions, LoginGate};
use relevo_store::{Blobs, DataFolder, Options, Store};

const NUMBER: &str = "106540352242922";

/// A mock of the Graph API with scripted answers. It records all requests.
#[derive(Default)]
struct MockGraph {
    /// Scripted answers to messages, the next one last. Without one, messages are accepted.
    answers: Mutex<Vec<(u16, String)>>,
    messages: Mutex<Vec<Value>>,
    /// Media type and content of each upload.
    uploads: Mutex<Vec<(String, Bytes)>>,
    /// The answer to uploads; an id when unset.
    upload_answer: Mutex<Option<(u16, String)>>,
}

impl MockGraph {
    fn answer(&self, status: u16, body: impl ToString) {
        self.answers.lock().unwrap().insert(0, (status, body.to_string()));
    }

    fn sent(&self) -> Vec<Value> {
        self.messages.lock().unwrap().clone()
    }

    async fn listen(self: &Arc<Self>) -> Url {
        let router = Router::new()
            .route(&format!("/v25.0/{NUMBER}"), get(Self::number))
            .route(&format!("/v25.0/{NUMBER}/messages"), post(Self::message))
            .route(&format!("/v25.0/{NUMBER}/media"), post(Self::media))
            .with_state(Arc::clone(self));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    async fn number(State(graph): State<Arc<MockGraph>>, headers: HeaderMap) -> Response {
        assert_eq!(headers["authorization"], "Bearer EAAG");
        graph.next().unwrap_or_else(|| json!({ "id": NUMBER }).to_string().into_response())
    }

    async fn message(State(graph): State<Arc<MockGraph>>, headers: HeaderMap, body: Bytes) -> Response {
        assert_eq!(headers["authorization"], "Bearer EAAG");
        assert_eq!(headers["content-type"], "application/json");
        graph.messages.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        graph.next().unwrap_or_else(|| accepted_body("wamid.1").into_response())
    }

    async fn media(State(graph): State<Arc<MockGraph>>, mut form: Multipart) -> Response {
        let mut fields = Vec::new();
        while let Some(field) = form.next_field().await.unwrap() {
            let (name, mime) = (field.name().unwrap().to_owned(), field.content_type().map(str::to_owned));
            fields.push((name, mime, field.bytes().await.unwrap()));
        }
        assert_eq!((fields[0].0.as_str(), fields[0].2.as_ref()), ("messaging_product", &b"whatsapp"[..]));
        let (_, mime, content) = fields.into_iter().find(|(name, ..)| name == "file").unwrap();
        let count = {
            let mut uploads = graph.uploads.lock().unwrap();
            uploads.push((mime.unwrap(), content));
            uploads.len()
        };
        match graph.upload_answer.lock().unwrap().clone() {
            Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
            None => json!({ "id": format!("MEDIA-{count}") }).to_string().into_response(),
        }
    }

    fn next(&self) -> Option<Response> {
        let (status, body) = self.answers.lock().unwrap().pop()?;
        Some((StatusCode::from_u16(status).unwrap(), Body::from(body)).into_response())
    }
}

fn accepted_body(id: &str) -> String {
    json!({
        "messaging_product": "whatsapp",
        "contacts": [{ "input": "+573001234567", "wa_id": "573001234567" }],
        "messages": [{ "id": id }],
    })
    .to_string()
}

fn error_body(code: i64) -> Value {
    json!({ "error": { "message": format!("(#{code}) No"), "type": "OAuthException", "code": code } })
}

struct Fixture {
    graph: Arc<MockGraph>,
    api: CloudApi,
    shared: ProviderResources,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let graph = Arc::new(MockGraph::default());
        let url = graph.listen().await;
        Self::with_base_url(url, graph, true)
    }

    fn with_base_url(base_url: Url, graph: Arc<MockGraph>, allow_private: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let (store, _closing) = Store::open(&folder, &Options::default(), Metrics::default()).unwrap();
        let egress = Egress::new(&egress::Options { allow_private, ..egress::Options::default() }).unwrap();
        let blobs = Blobs::open(&folder).unwrap();
        let clock = Clock::from_tokio(Timestamp(1_763_800_000_000));
        let shared = ProviderResources {
            egress,
            blobs,
            store,
            clock,
            random: Random::seeded(1),
            linked: LinkedOptions::default(),
            login_gate: LoginGate::default(),
            direct_client: DirectClient::default(),
        };
        let api = CloudApi::new(settings(base_url), shared.clone()).unwrap();
        Self { graph, api, shared, _dir: dir }
    }

    async fn send(&self, content: Content) -> Result<ProviderMessageId, Failure> {
        let message = OutboundMessage {
            to: "573001234567".parse().unwrap(),
            content,
            quote: None,
            options: MessageOptions::default(),
        };
        self.api.send(id(), &message).await
    }

    async fn send_text(&self) -> Result<ProviderMessageId, Failure> {
        self.send(Content::Text { body: "Hola".to_owned(), preview_url: false }).await
    }

    async fn image(&self) -> Content {
        let source = self.shared.blobs.put(Bytes::from_static(b"png"), "image/png").await.unwrap();
        image(source)
    }
}

fn settings(base_url: Url) -> CloudApiSettings {
    CloudApiSettings {
        phone_number_id: NUMBER.to_owned(),
        access_token: Secret::new("EAAG"),
        app_secret: None,
        verify_token: None,
        base_url,
        api_version: "v25.0".to_owned(),
    }
}

fn id() -> MessageId {
    MessageId::new(Timestamp(1_763_800_000_000), 1, InstanceNumber::FIRST, Class::Transactional, 7)
}

fn image(blob: BlobRef) -> Content {
    let source = MediaSource::Blob(blob);
    Content::Media(Media { kind: MediaKind::Image, source, caption: None, file_name: None, voice: false })
}

/// A server that reads the first bytes of each connection's request, writes `answer` and closes the connection.
async fn raw_server(answer: &'static [u8]) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0; 8192]).await;
            let _ = connection.write_all(answer).await;
        }
    });
    url
}

async fn failure_at(url: Url) -> Failure {
    Fixture::with_base_url(url, Arc::default(), true).send_text().await.unwrap_err()
}

#[tokio::test]
async fn accepted_message_has_wamid_and_carried_our_id() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.send_text().await.unwrap().as_str(), "wamid.1");
    let sent = fixture.graph.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0]["biz_opaque_callback_data"], id().to_string());
    assert_eq!(sent[0]["to"], "+573001234567");
}

#[tokio::test]
async fn cloud_api_is_no_linked_device() {
    let fixture = Fixture::new().await;
    assert!(fixture.api.linked().is_none());
    assert!(!fixture.api.capabilities().keeps_connection);
}

#[tokio::test]
async fn errors_are_classified_by_meta_code() {
    let fixture = Fixture::new().await;
    for (status, code, class) in [
        (400, 131_056, "throttled"),
        (429, 130_429, "throttled"),
        (503, 131_016, "transient"),
        (500, 999_999, "transient"),
        (400, 132_015, "deferred"),
        (400, 131_047, "permanent"),
        (401, 190, "logged_out"),
        (403, 131_031, "account_blocked"),
        // An error body with status 200 is still an error.
        (200, 131_026, "permanent"),
    ] {
        fixture.graph.answer(status, error_body(code));
        let failure = fixture.send_text().await.unwrap_err();
        assert_eq!((failure.kind.as_str(), failure.code), (class, Some(code)), "{failure}");
        assert_eq!(failure.message, "No");
    }
}

#[tokio::test]
async fn success_with_an_id_is_sent_whatever_its_status() {
    let fixture = Fixture::new().await;
    for status in [200, 201, 202] {
        fixture.graph.answer(status, accepted_body("wamid.2"));
        assert_eq!(fixture.send_text().await.unwrap().as_str(), "wamid.2", "{status}");
    }
}

#[tokio::test]
async fn unusable_response_is_ambiguous() {
    let fixture = Fixture::new().await;
    for (status, body) in [
        (408, ""),
        (502, "<html>"),
        (500, "{}"),
        (200, "<html>"),
        (201, "{}"),
        (204, ""),
        (200, "{}"),
        (200, r#"{"messages":[]}"#),
    ] {
        fixture.graph.answer(status, body);
        let failure = fixture.send_text().await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Ambiguous, "{status} {body}");
    }
    fixture.graph.answer(429, "");
    assert!(matches!(fixture.send_text().await.unwrap_err().kind, FailureKind::Throttled { .. }));
}

#[tokio::test]
async fn failure_before_the_request_is_transient() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    for url in [closed, "http://no-such-host.invalid".parse().unwrap()] {
        let failure = failure_at(url).await;
        assert!(matches!(failure.kind, FailureKind::Transient { .. }), "{failure}");
    }
    // The TLS handshake failed, so the request was never written.
    let mut plain = raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    plain.set_scheme("https").unwrap();
    let failure = failure_at(plain).await;
    assert!(matches!(failure.kind, FailureKind::Transient { .. }), "{failure}");
}

#[tokio::test]
async fn failure_after_the_request_is_ambiguous() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"messages\"",
        b"nonsense\r\n\r\n",
    ] {
        let failure = failure_at(raw_server(answer).await).await;
        assert_eq!(failure.kind, FailureKind::Ambiguous, "{failure}");
    }
}

#[tokio::test]
async fn send_can_be_cancelled_when_the_server_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let fixture = Fixture::with_base_url(url, Arc::default(), true);
    let waited = tokio::time::timeout(Duration::from_millis(50), fixture.send_text()).await;
    assert!(waited.is_err());
}

#[tokio::test]
async fn private_base_url_blocks_the_account() {
    let graph = Arc::new(MockGraph::default());
    let mut url = graph.listen().await;
    for host in ["127.0.0.1", "localhost"] {
        url.set_host(Some(host)).unwrap();
        let failure =
            Fixture::with_base_url(url.clone(), Arc::clone(&graph), false).send_text().await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::AccountBlocked, "{failure}");
        assert!(
            failure.message.contains("base_url") && failure.message.contains("allow_private"),
            "{failure}"
        );
    }
    assert!(graph.sent().is_empty());
}

#[tokio::test]
async fn file_is_uploaded_once_for_many_messages() {
    let fixture = Fixture::new().await;
    let content = fixture.image().await;
    let sends = (0..20).map(|_| fixture.send(content.clone()));
    for outcome in futures_util::future::join_all(sends).await {
        outcome.unwrap();
    }
    fixture.send(content.clone()).await.unwrap();
    // A client that starts later uses the stored id.
    let restarted = CloudApi::new(settings(fixture.graph.listen().await), fixture.shared.clone()).unwrap();
    let message = OutboundMessage {
        to: "573001234567".parse().unwrap(),
        content,
        quote: None,
        options: MessageOptions::default(),
    };
    restarted.send(id(), &message).await.unwrap();

    let uploads = fixture.graph.uploads.lock().unwrap().clone();
    assert_eq!(uploads, [("image/png".to_owned(), Bytes::from_static(b"png"))]);
    assert!(fixture.graph.sent().iter().all(|message| message["image"] == json!({ "id": "MEDIA-1" })));
}

#[tokio::test]
async fn media_id_is_renewed_before_it_expires_at_meta() {
    let fixture = Fixture::new().await;
    let content = fixture.image().await;
    fixture.send(content.clone()).await.unwrap();
    let later = Clock::from_tokio(Timestamp(1_763_800_000_000) + Duration::from_secs(30 * 24 * 3600));
    let shared = ProviderResources { clock: later, ..fixture.shared.clone() };
    let api = CloudApi::new(settings(fixture.graph.listen().await), shared).unwrap();
    let message = OutboundMessage {
        to: "573001234567".parse().unwrap(),
        content,
        quote: None,
        options: MessageOptions::default(),
    };
    api.send(id(), &message).await.unwrap();
    assert_eq!(fixture.graph.sent()[1]["image"]["id"], "MEDIA-2");
}

#[tokio::test]
async fn upload_is_cached_by_content_and_media_type() {
    let fixture = Fixture::new().await;
    fixture.send(fixture.image().await).await.unwrap();
    let jpeg = fixture.shared.blobs.put(Bytes::from_static(b"png"), "image/jpeg").await.unwrap();
    fixture.send(image(jpeg)).await.unwrap();
    let mimes: Vec<_> = fixture.graph.uploads.lock().unwrap().iter().map(|(mime, _)| mime.clone()).collect();
    assert_eq!(mimes, ["image/png", "image/jpeg"]);
}

#[tokio::test]
async fn stale_media_id_is_replaced_once() {
    let fixture = Fixture::new().await;
    let content = fixture.image().await;
    fixture.send(content.clone()).await.unwrap();
    fixture.graph.answer(400, error_body(131_053));
    fixture.send(content.clone()).await.unwrap();
    let ids: Vec<_> = fixture.graph.sent().iter().map(|message| message["image"]["id"].clone()).collect();
    assert_eq!(ids, ["MEDIA-1", "MEDIA-1", "MEDIA-2"]);

    fixture.graph.answer(400, error_body(131_053));
    fixture.graph.answer(400, error_body(131_053));
    let failure = fixture.send(content).await.unwrap_err();
    assert_eq!((failure.kind, failure.code), (FailureKind::Permanent, Some(131_053)));
    assert_eq!(fixture.graph.uploads.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn upload_without_outcome_is_transient() {
    let fixture = Fixture::new().await;
    let content = fixture.image().await;
    for (status, body, class) in [
        (502, "<html>".to_owned(), "transient"),
        (200, "{}".to_owned(), "transient"),
        (400, error_body(100).to_string(), "permanent"),
        (401, error_body(190).to_string(), "logged_out"),
    ] {
        *fixture.graph.upload_answer.lock().unwrap() = Some((status, body));
        let failure = fixture.send(content.clone()).await.unwrap_err();
        assert_eq!(failure.kind.as_str(), class, "{failure}");
    }
    assert!(fixture.graph.sent().is_empty());
    *fixture.graph.upload_answer.lock().unwrap() = None;
    fixture.send(content).await.unwrap();
}

#[tokio::test]
async fn missing_file_is_retried_a_limited_number_of_times() {
    let fixture = Fixture::new().await;
    let gone = BlobRef { sha256: "ab".repeat(32), size: 3, mime: "image/png".to_owned() };
    let failure = fixture.send(image(gone)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Transient { max_attempts: Some(3) }, "{failure}");
}

#[tokio::test]
async fn probe_classifies_account_failures() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.api.probe().await, Ok(()));
    for (status, body, class) in [
        (401, error_body(190).to_string(), "logged_out"),
        // Answers that Meta did not write say nothing about the account.
        (401, String::new(), "transient"),
        (404, "<html>".to_owned(), "transient"),
        (302, String::new(), "transient"),
        (200, "<html>log in to this network".to_owned(), "transient"),
        (403, error_body(131_031).to_string(), "account_blocked"),
        (502, "<html>".to_owned(), "transient"),
    ] {
        fixture.graph.answer(status, &body);
        assert_eq!(fixture.api.probe().await.unwrap_err().kind.as_str(), class, "{status} {body}");
    }
}

#[tokio::test]
async fn received_message_is_marked_as_read() {
    let fixture = Fixture::new().await;
    let message = MarkReadRequest { message: "wamid.R".parse().unwrap(), chat: None, sender: None };
    fixture.api.mark_read(&message, true).await.unwrap();
    fixture.graph.answer(400, error_body(131_009));
    let failure = fixture.api.mark_read(&message, false).await.unwrap_err();
    assert_eq!(failure.code, Some(131_009));
    let sent = fixture.graph.sent();
    assert_eq!((&sent[0]["status"], &sent[0]["message_id"]), (&json!("read"), &json!("wamid.R")));
}
