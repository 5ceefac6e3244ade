//! The complete sandbox over HTTP, with a receiver that checks signatures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use crate::webhooks::signature;
use crate::{Error, Options, Sandbox};
use relevo_clock::{Clock, Random};
use relevo_domain::Secret;

const APP_SECRET: &str = "the app secret";
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

struct TestSandbox {
    base: String,
    client: reqwest::Client,
    _stop: DropGuard,
}

fn fast_options() -> Options {
    Options {
        app_secret: Some(Secret::new(APP_SECRET)),
        delivered_after: Duration::from_millis(10),
        read_after: Duration::from_millis(20),
        webhook_retry_after: Duration::from_millis(5),
        ..Options::default()
    }
}

async fn start_sandbox(options: Options) -> TestSandbox {
    let sandbox = Sandbox::bind(options, Clock::system(), Random::system()).await.unwrap();
    let base = format!("http://{}", sandbox.local_addr());
    let shutdown = CancellationToken::new();
    tokio::spawn(sandbox.serve(shutdown.clone()));
    // One connection per request: the client must not repeat a cut request on another connection.
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(TEST_TIMEOUT)
        .build()
        .unwrap();
    TestSandbox { base, client, _stop: shutdown.drop_guard() }
}

impl TestSandbox {
    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth("token").json(&body);
        status_and_json(request.send().await.unwrap()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = self.client.get(format!("{}{path}", self.base)).bearer_auth("token");
        status_and_json(request.send().await.unwrap()).await
    }

    async fn send(&self, body: Value) -> (u16, Value) {
        self.post("/v25.0/1001/messages", body).await
    }

    async fn stats(&self) -> Value {
        self.get("/_sandbox/stats").await.1
    }
}

async fn status_and_json(response: reqwest::Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

fn text_message(to: &str) -> Value {
    json!({
        "messaging_product": "whatsapp", "to": to, "type": "text", "text": { "body": "hi" },
        "biz_opaque_callback_data": format!("id of {to}"),
    })
}

/// Receives webhooks and refuses the first `failures` of them.
struct TestReceiver {
    address: SocketAddr,
    webhooks: mpsc::Receiver<Value>,
}

#[derive(Clone)]
struct TestReceiverState {
    webhooks: mpsc::Sender<Value>,
    failures: Arc<AtomicUsize>,
}

async fn start_receiver(failures: usize) -> TestReceiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, webhooks) = mpsc::channel(1000);
    let state = TestReceiverState { webhooks: sender, failures: Arc::new(AtomicUsize::new(failures)) };
    let router = Router::new().route("/hook", get(answer_challenge).post(receive_webhook)).with_state(state);
    tokio::spawn(async move { axum::serve(listener, router).await });
    TestReceiver { address, webhooks }
}

async fn answer_challenge(Query(query): Query<Vec<(String, String)>>) -> Result<String, StatusCode> {
    let find =
        |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()).unwrap();
    assert_eq!(find("hub.mode"), "subscribe");
    if find("hub.verify_token") == "word" { Ok(find("hub.challenge")) } else { Err(StatusCode::FORBIDDEN) }
}

async fn receive_webhook(
    State(state): State<TestReceiverState>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let given = headers.get("X-Hub-Signature-256").unwrap().to_str().unwrap();
    assert_eq!(given, signature(&Secret::new(APP_SECRET), &body));
    let left = state.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if left.is_ok() {
        // Meta treats 200 alone as an acknowledgement.
        return StatusCode::ACCEPTED;
    }
    state.webhooks.send(serde_json::from_slice(&body).unwrap()).await.unwrap();
    StatusCode::OK
}

impl TestReceiver {
    fn url(&self) -> Url {
        format!("http://{}/hook", self.address).parse().unwrap()
    }

    async fn next(&mut self) -> Value {
        tokio::time::timeout(TEST_TIMEOUT, self.webhooks.recv()).await.expect("a webhook in time").unwrap()
    }

    /// At least `count` statuses from one or more webhooks, each with the value that contained it.
    async fn statuses(&mut self, count: usize) -> Vec<(Value, Value)> {
        let mut all = Vec::new();
        while all.len() < count {
            for change in self.next().await["entry"][0]["changes"].as_array().unwrap() {
                let value = &change["value"];
                all.extend(
                    value["statuses"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|status| (status.clone(), value.clone())),
                );
            }
        }
        all
    }
}

fn status_names(statuses: &[(Value, Value)]) -> Vec<&str> {
    statuses.iter().map(|(status, _)| status["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn accepted_message_gets_sent_delivered_and_read_statuses() {
    let mut receiver = start_receiver(0).await;
    let sandbox = start_sandbox(Options { webhook_url: Some(receiver.url()), ..fast_options() }).await;
    let (status, answer) = sandbox.send(text_message("+1 650-555-1234")).await;
    assert_eq!(status, 200);
    assert_eq!(answer["contacts"], json!([{ "input": "+1 650-555-1234", "wa_id": "16505551234" }]));
    let wamid = answer["messages"][0]["id"].as_str().unwrap();

    let statuses = receiver.statuses(3).await;
    assert_eq!(status_names(&statuses), ["sent", "delivered", "read"]);
    for (status, value) in &statuses {
        assert_eq!(status["id"], wamid);
        assert_eq!(status["recipient_id"], "16505551234");
        assert_eq!(status["biz_opaque_callback_data"], "id of +1 650-555-1234");
        assert_eq!(value["metadata"]["phone_number_id"], "1001");
        assert_eq!(value["contacts"][0]["wa_id"], "16505551234");
        assert_eq!(value["contacts"][0]["user_id"], status["recipient_user_id"]);
    }
    assert_eq!(statuses[0].0["pricing"]["pricing_model"], "PMP");
    assert!(statuses[2].0.get("pricing").is_none());

    let (_, page) = sandbox.get("/_sandbox/messages?to=%2B16505551234").await;
    let shown = &page["messages"][0];
    assert_eq!(
        (&shown["seq"], &shown["wamid"], &shown["outcome"]),
        (&json!(1), &json!(wamid), &json!("accepted"))
    );
    assert_eq!(shown["body"]["text"]["body"], "hi");
}

#[tokio::test]
async fn failed_status_has_errors_and_reaction_gets_only_sent() {
    let mut receiver = start_receiver(0).await;
    let sandbox = start_sandbox(Options { webhook_url: Some(receiver.url()), ..fast_options() }).await;
    let fault = json!([{ "match": { "to": "16505550001" }, "action": { "fail_status": { "code": 131047, "title": "Late" } } }]);
    assert_eq!(sandbox.post("/_sandbox/faults", fault).await.0, 200);
    let reaction = json!({ "message_id": "wamid.x", "emoji": "👍" });
    sandbox.send(json!({ "messaging_product": "whatsapp", "to": "16505550002", "type": "reaction", "reaction": reaction })).await;
    sandbox.send(text_message("16505550001")).await;
    let statuses = receiver.statuses(3).await;
    assert_eq!(status_names(&statuses), ["sent", "sent", "failed"]);
    let (failed, value) = &statuses[2];
    assert_eq!(
        (&failed["errors"][0]["code"], &failed["errors"][0]["title"]),
        (&json!(131_047), &json!("Late"))
    );
    assert!(value.get("contacts").is_none() && failed.get("recipient_user_id").is_none());
}

#[tokio::test]
async fn webhook_is_retried_until_200_or_attempts_are_exhausted() {
    let mut stubborn = start_receiver(3).await;
    let sandbox = start_sandbox(Options { webhook_url: Some(stubborn.url()), ..fast_options() }).await;
    let (_, answer) = sandbox.post("/_sandbox/statuses", json!({ "statuses": [] })).await;
    assert_eq!(answer, json!({ "delivered": false, "receiver_status": 202 }));
    stubborn.next().await;

    let dead = start_receiver(usize::MAX).await;
    let sandbox =
        start_sandbox(Options { webhook_url: Some(dead.url()), webhook_attempts: 2, ..fast_options() }).await;
    sandbox.post("/_sandbox/statuses", json!({ "statuses": [] })).await;
    let stats = sandbox.stats().await;
    assert_eq!((&stats["webhooks_failed"], &stats["webhooks_given_up"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn statuses_survive_an_unavailable_receiver() {
    let mut receiver = start_receiver(9).await;
    let sandbox = start_sandbox(Options { webhook_url: Some(receiver.url()), ..fast_options() }).await;
    for to in ["16505550001", "16505550002"] {
        assert_eq!(sandbox.send(text_message(to)).await.0, 200);
    }
    let statuses = receiver.statuses(6).await;
    let mut received: Vec<_> =
        statuses.iter().map(|(status, _)| (status["id"].to_string(), status["status"].to_string())).collect();
    received.sort();
    received.dedup();
    assert_eq!(received.len(), 6);
}

#[tokio::test]
async fn inbound_message_is_delivered_and_its_file_can_be_downloaded() {
    let mut receiver = start_receiver(0).await;
    let sandbox = start_sandbox(fast_options()).await;
    assert_eq!(sandbox.post("/_sandbox/inbound", json!({ "from": "1650", "text": "x" })).await.0, 409);
    let wrong = json!({ "url": receiver.url(), "verify_token": "another" });
    assert_eq!(sandbox.post("/_sandbox/webhook", wrong).await.0, 422);
    let right = json!({ "url": receiver.url(), "verify_token": "word" });
    assert_eq!(
        sandbox.post("/_sandbox/webhook", right).await,
        (200, json!({ "url": receiver.url(), "signed": true, "verified": true }))
    );

    let (_, answer) = sandbox
        .post("/_sandbox/inbound", json!({ "from": "+16505551234", "name": "Ana", "text": "hello" }))
        .await;
    assert_eq!(answer["delivered"], true);
    let value = receiver.next().await["entry"][0]["changes"][0]["value"].clone();
    let message = &value["messages"][0];
    assert_eq!((&message["id"], &message["text"]["body"]), (&answer["wamid"], &json!("hello")));
    assert_eq!(value["contacts"][0]["user_id"], message["from_user_id"]);

    let image = json!({ "from": "1650", "type": "image", "caption": "c", "phone_number_id": "1001" });
    sandbox.post("/_sandbox/inbound", image).await;
    let image = receiver.next().await["entry"][0]["changes"][0]["value"]["messages"][0]["image"].clone();
    let file = sandbox.client.get(image["url"].as_str().unwrap()).bearer_auth("t").send().await.unwrap();
    assert!(file.bytes().await.unwrap().starts_with(b"\x89PNG"));
}

#[tokio::test]
async fn media_is_uploaded_downloaded_sent_and_deleted() {
    let sandbox = start_sandbox(fast_options()).await;
    let part = Part::bytes(b"a document".to_vec()).file_name("a.txt").mime_str("text/plain").unwrap();
    let form = Form::new().text("messaging_product", "whatsapp").part("file", part);
    let request =
        sandbox.client.post(format!("{}/v25.0/1001/media", sandbox.base)).bearer_auth("t").multipart(form);
    let (status, answer) = status_and_json(request.send().await.unwrap()).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["id"].as_str().unwrap();

    let (_, file) = sandbox.get(&format!("/v25.0/{id}?phone_number_id=1001")).await;
    assert_eq!((&file["mime_type"], &file["file_size"]), (&json!("text/plain"), &json!(10)));
    assert_eq!(sandbox.get(&format!("/v25.0/{id}?phone_number_id=1002")).await.0, 400);
    let url = file["url"].as_str().unwrap();
    assert_eq!(sandbox.client.get(url).send().await.unwrap().status(), 401);
    assert_eq!(
        sandbox.client.get(url).bearer_auth("t").send().await.unwrap().bytes().await.unwrap(),
        "a document"
    );

    let document = json!({ "messaging_product": "whatsapp", "to": "1650555", "type": "document", "document": { "id": id } });
    assert_eq!(sandbox.send(document.clone()).await.0, 200);
    let delete = sandbox.client.delete(format!("{}/v25.0/{id}", sandbox.base)).bearer_auth("t");
    assert_eq!(delete.send().await.unwrap().status(), 200);
    assert_eq!(sandbox.send(document).await.1["error"]["code"], 131_053);
    assert_eq!(sandbox.get(&format!("/v25.0/{id}")).await.1["error"]["error_subcode"], 33);
}

#[tokio::test]
async fn errors_have_meta_format() {
    let sandbox = start_sandbox(Options { access_token: Some(Secret::new("token")), ..fast_options() }).await;
    let fault = json!({ "match": { "kind": "template" }, "action": { "error": { "code": 131056, "details": "slow down" } } });
    sandbox.post("/_sandbox/faults", fault).await;
    let template = json!({ "name": "hello", "language": { "code": "es" } });
    let template =
        json!({ "messaging_product": "whatsapp", "to": "1650555", "type": "template", "template": template });
    let (status, mut answer) = sandbox.send(template).await;
    assert!(answer["error"]["fbtrace_id"].take().is_string());
    assert_eq!(status, 429);
    assert_eq!(
        answer,
        json!({ "error": {
            "message": "(#131056) (Business Account, Consumer Account) pair rate limit hit",
            "type": "OAuthException", "code": 131056, "fbtrace_id": null,
            "error_data": { "messaging_product": "whatsapp", "details": "slow down" },
        }})
    );
    let stranger = sandbox.client.post(format!("{}/v25.0/1/messages", sandbox.base)).bearer_auth("other");
    let stranger = stranger.json(&text_message("1650555")).send().await.unwrap();
    assert_eq!(stranger.status(), 401);
    assert_eq!(stranger.json::<Value>().await.unwrap()["error"]["code"], 190);
    assert_eq!(sandbox.get("/25/1001").await.1["error"]["code"], 2500);
    let (_, number) = sandbox.get("/v23.0/1001?fields=verified_name,throughput").await;
    assert_eq!(
        number,
        json!({ "id": "1001", "verified_name": "Relevo Sandbox", "throughput": { "level": "STANDARD" } })
    );
    assert_eq!(sandbox.stats().await["refused_by_code"], json!({ "131056": 1, "190": 1, "2500": 1 }));
}

#[tokio::test]
async fn close_fault_cuts_the_connection_before_or_after_acceptance() {
    let sandbox = start_sandbox(fast_options()).await;
    let faults = json!([
        { "match": { "to": "16505550001" }, "action": { "close": "before" }, "times": 1 },
        { "match": { "to": "16505550002" }, "action": { "close": "after" } },
    ]);
    sandbox.post("/_sandbox/faults", faults).await;
    for to in ["16505550001", "16505550002"] {
        let cut = sandbox
            .client
            .post(format!("{}/v25.0/1001/messages", sandbox.base))
            .bearer_auth("t")
            .json(&text_message(to));
        let error = cut.send().await.unwrap_err();
        assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
    }
    assert_eq!(sandbox.send(text_message("16505550001")).await.0, 200);
    let (_, page) = sandbox.get("/_sandbox/messages").await;
    let seen = |n: usize| {
        (page["messages"][n]["outcome"].as_str().unwrap(), page["messages"][n]["answered"].as_bool().unwrap())
    };
    assert_eq!([seen(0), seen(1), seen(2)], [("dropped", false), ("accepted", false), ("accepted", true)]);
}

#[tokio::test]
async fn hanging_request_ends_when_the_sandbox_shuts_down() {
    let sandbox = Sandbox::bind(fast_options(), Clock::system(), Random::system()).await.unwrap();
    let base = format!("http://{}", sandbox.local_addr());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(sandbox.serve(shutdown.clone()));
    let client = reqwest::Client::builder().no_proxy().timeout(TEST_TIMEOUT).build().unwrap();
    let hang = json!([{ "action": { "hang": "after" } }]);
    client.post(format!("{base}/_sandbox/faults")).json(&hang).send().await.unwrap();
    let held = client
        .post(format!("{base}/v25.0/1/messages"))
        .bearer_auth("t")
        .json(&text_message("1650555"))
        .send();
    let held = tokio::spawn(held);
    let arrived = client.get(format!("{base}/_sandbox/messages?wait_ms=10000")).send().await.unwrap();
    assert_eq!(arrived.json::<Value>().await.unwrap()["messages"][0]["answered"], false);
    shutdown.cancel();
    assert!(held.await.unwrap().is_err());
    tokio::time::timeout(TEST_TIMEOUT, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn throughput_limit_refuses_messages_and_reset_clears_counters() {
    let sandbox =
        start_sandbox(Options { messages_per_second: std::num::NonZeroU32::new(1), ..fast_options() }).await;
    assert_eq!(sandbox.send(text_message("16505550001")).await.0, 200);
    let (status, answer) = sandbox.send(text_message("16505550001")).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!(130_429)));
    assert_eq!(
        sandbox.stats().await["callback_data"],
        json!({ "distinct": 1, "duplicates": 0, "exact": true })
    );
    sandbox.post("/_sandbox/reset", json!({})).await;
    let stats = sandbox.stats().await;
    assert_eq!((&stats["received"], &stats["callback_data"]["distinct"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn sandbox_refuses_remote_addresses_unless_allowed() {
    let listen = "0.0.0.0:0".parse().unwrap();
    let refused =
        Sandbox::bind(Options { listen, ..fast_options() }, Clock::system(), Random::system()).await;
    assert!(matches!(refused, Err(Error::NotLoopback(_))));
    assert!(
        Sandbox::bind(
            Options { listen, allow_remote: true, ..fast_options() },
            Clock::system(),
            Random::system()
        )
        .await
        .is_ok()
    );
}
