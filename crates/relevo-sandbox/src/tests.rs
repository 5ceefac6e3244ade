//! The whole sandbox over real HTTP, with a receiver that checks signatures.

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
use relevo_clock::Clock;
use relevo_domain::Secret;

const APP_SECRET: &str = "the app secret";
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    base: String,
    client: reqwest::Client,
    _stop: DropGuard,
}

fn fast() -> Options {
    Options {
        app_secret: Some(Secret::new(APP_SECRET)),
        delivered_after: Duration::from_millis(10),
        read_after: Duration::from_millis(20),
        webhook_retry_after: Duration::from_millis(5),
        ..Options::default()
    }
}

async fn start(options: Options) -> Running {
    let sandbox = Sandbox::bind(options, Clock::machine()).await.unwrap();
    let base = format!("http://{}", sandbox.local_addr());
    let shutdown = CancellationToken::new();
    tokio::spawn(sandbox.serve(shutdown.clone()));
    // One connection per request: a cut connection must not be repeated on another one.
    let client =
        reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(PATIENCE).build().unwrap();
    Running { base, client, _stop: shutdown.drop_guard() }
}

impl Running {
    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth("token").json(&body);
        answer(request.send().await.unwrap()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = self.client.get(format!("{}{path}", self.base)).bearer_auth("token");
        answer(request.send().await.unwrap()).await
    }

    async fn send(&self, body: Value) -> (u16, Value) {
        self.post("/v25.0/1001/messages", body).await
    }

    async fn stats(&self) -> Value {
        self.get("/_sandbox/stats").await.1
    }
}

async fn answer(response: reqwest::Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

fn text(to: &str) -> Value {
    json!({
        "messaging_product": "whatsapp", "to": to, "type": "text", "text": { "body": "hi" },
        "biz_opaque_callback_data": format!("id of {to}"),
    })
}

/// Takes webhooks, refusing the first `failures` of them.
struct Receiver {
    address: SocketAddr,
    webhooks: mpsc::Receiver<Value>,
}

#[derive(Clone)]
struct Desk {
    taken: mpsc::Sender<Value>,
    failures: Arc<AtomicUsize>,
}

async fn receiver(failures: usize) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (taken, webhooks) = mpsc::channel(1000);
    let desk = Desk { taken, failures: Arc::new(AtomicUsize::new(failures)) };
    let router = Router::new().route("/hook", get(challenge).post(take)).with_state(desk);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Receiver { address, webhooks }
}

async fn challenge(Query(query): Query<Vec<(String, String)>>) -> Result<String, StatusCode> {
    let find =
        |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()).unwrap();
    assert_eq!(find("hub.mode"), "subscribe");
    if find("hub.verify_token") == "word" { Ok(find("hub.challenge")) } else { Err(StatusCode::FORBIDDEN) }
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let given = headers.get("X-Hub-Signature-256").unwrap().to_str().unwrap();
    assert_eq!(given, signature(&Secret::new(APP_SECRET), &body));
    let left = desk.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if left.is_ok() {
        // Meta takes nothing but 200 for an acknowledgement.
        return StatusCode::ACCEPTED;
    }
    desk.taken.send(serde_json::from_slice(&body).unwrap()).await.unwrap();
    StatusCode::OK
}

impl Receiver {
    fn url(&self) -> Url {
        format!("http://{}/hook", self.address).parse().unwrap()
    }

    async fn next(&mut self) -> Value {
        tokio::time::timeout(PATIENCE, self.webhooks.recv()).await.expect("a webhook in time").unwrap()
    }

    /// The next statuses, at least this many, whatever webhooks they come in; with the value around each.
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

fn names(statuses: &[(Value, Value)]) -> Vec<&str> {
    statuses.iter().map(|(status, _)| status["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_message_is_answered_and_then_sent_delivered_and_read() {
    let mut receiver = receiver(0).await;
    let sandbox = start(Options { webhook_url: Some(receiver.url()), ..fast() }).await;
    let (status, answer) = sandbox.send(text("+1 650-555-1234")).await;
    assert_eq!(status, 200);
    assert_eq!(answer["contacts"], json!([{ "input": "+1 650-555-1234", "wa_id": "16505551234" }]));
    let wamid = answer["messages"][0]["id"].as_str().unwrap();

    let statuses = receiver.statuses(3).await;
    assert_eq!(names(&statuses), ["sent", "delivered", "read"]);
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
async fn a_failed_status_has_errors_and_no_contacts_and_a_reaction_is_only_sent() {
    let mut receiver = receiver(0).await;
    let sandbox = start(Options { webhook_url: Some(receiver.url()), ..fast() }).await;
    let fault = json!([{ "match": { "to": "16505550001" }, "action": { "fail_status": { "code": 131047, "title": "Late" } } }]);
    assert_eq!(sandbox.post("/_sandbox/faults", fault).await.0, 200);
    let reaction = json!({ "message_id": "wamid.x", "emoji": "👍" });
    sandbox.send(json!({ "messaging_product": "whatsapp", "to": "16505550002", "type": "reaction", "reaction": reaction })).await;
    sandbox.send(text("16505550001")).await;
    let statuses = receiver.statuses(3).await;
    assert_eq!(names(&statuses), ["sent", "sent", "failed"]);
    let (failed, value) = &statuses[2];
    assert_eq!(
        (&failed["errors"][0]["code"], &failed["errors"][0]["title"]),
        (&json!(131_047), &json!("Late"))
    );
    assert!(value.get("contacts").is_none() && failed.get("recipient_user_id").is_none());
}

#[tokio::test]
async fn a_webhook_that_is_not_answered_with_200_is_repeated_and_at_last_given_up() {
    let mut stubborn = receiver(3).await;
    let sandbox = start(Options { webhook_url: Some(stubborn.url()), ..fast() }).await;
    let (_, answer) = sandbox.post("/_sandbox/statuses", json!({ "statuses": [] })).await;
    assert_eq!(answer, json!({ "delivered": false, "receiver_status": 202 }));
    stubborn.next().await;

    let dead = receiver(usize::MAX).await;
    let sandbox = start(Options { webhook_url: Some(dead.url()), webhook_attempts: 2, ..fast() }).await;
    sandbox.post("/_sandbox/statuses", json!({ "statuses": [] })).await;
    let stats = sandbox.stats().await;
    assert_eq!((&stats["webhooks_failed"], &stats["webhooks_given_up"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn statuses_outlast_a_receiver_that_is_away() {
    let mut receiver = receiver(9).await;
    let sandbox = start(Options { webhook_url: Some(receiver.url()), ..fast() }).await;
    for to in ["16505550001", "16505550002"] {
        assert_eq!(sandbox.send(text(to)).await.0, 200);
    }
    let statuses = receiver.statuses(6).await;
    let mut told: Vec<_> =
        statuses.iter().map(|(status, _)| (status["id"].to_string(), status["status"].to_string())).collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 6);
}

#[tokio::test]
async fn a_user_writes_and_their_file_can_be_fetched() {
    let mut receiver = receiver(0).await;
    let sandbox = start(fast()).await;
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
async fn files_are_uploaded_looked_up_fetched_sent_and_deleted() {
    let sandbox = start(fast()).await;
    let part = Part::bytes(b"a document".to_vec()).file_name("a.txt").mime_str("text/plain").unwrap();
    let form = Form::new().text("messaging_product", "whatsapp").part("file", part);
    let request =
        sandbox.client.post(format!("{}/v25.0/1001/media", sandbox.base)).bearer_auth("t").multipart(form);
    let (status, answer) = answer(request.send().await.unwrap()).await;
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
async fn refusals_read_as_metas() {
    let sandbox = start(Options { access_token: Some(Secret::new("token")), ..fast() }).await;
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
    let stranger = stranger.json(&text("1650555")).send().await.unwrap();
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
async fn connections_are_cut_before_and_after_a_message_is_accepted() {
    let sandbox = start(fast()).await;
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
            .json(&text(to));
        let error = cut.send().await.unwrap_err();
        assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
    }
    assert_eq!(sandbox.send(text("16505550001")).await.0, 200);
    let (_, page) = sandbox.get("/_sandbox/messages").await;
    let seen = |n: usize| {
        (page["messages"][n]["outcome"].as_str().unwrap(), page["messages"][n]["answered"].as_bool().unwrap())
    };
    assert_eq!([seen(0), seen(1), seen(2)], [("dropped", false), ("accepted", false), ("accepted", true)]);
}

#[tokio::test]
async fn a_held_request_is_let_go_when_the_sandbox_closes() {
    let sandbox = Sandbox::bind(fast(), Clock::machine()).await.unwrap();
    let base = format!("http://{}", sandbox.local_addr());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(sandbox.serve(shutdown.clone()));
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let hang = json!([{ "action": { "hang": "after" } }]);
    client.post(format!("{base}/_sandbox/faults")).json(&hang).send().await.unwrap();
    let held = client.post(format!("{base}/v25.0/1/messages")).bearer_auth("t").json(&text("1650555")).send();
    let held = tokio::spawn(held);
    let arrived = client.get(format!("{base}/_sandbox/messages?wait_ms=10000")).send().await.unwrap();
    assert_eq!(arrived.json::<Value>().await.unwrap()["messages"][0]["answered"], false);
    shutdown.cancel();
    assert!(held.await.unwrap().is_err());
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_number_that_sends_too_fast_is_refused_and_a_reset_forgets() {
    let sandbox = start(Options { messages_per_second: std::num::NonZeroU32::new(1), ..fast() }).await;
    assert_eq!(sandbox.send(text("16505550001")).await.0, 200);
    let (status, answer) = sandbox.send(text("16505550001")).await;
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
async fn it_does_not_listen_to_the_world_unasked() {
    let listen = "0.0.0.0:0".parse().unwrap();
    let refused = Sandbox::bind(Options { listen, ..fast() }, Clock::machine()).await;
    assert!(matches!(refused, Err(Error::Remote(_))));
    assert!(Sandbox::bind(Options { listen, allow_remote: true, ..fast() }, Clock::machine()).await.is_ok());
}
