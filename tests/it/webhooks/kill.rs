//! Kills the real binary with `kill -9` while Meta's webhooks arrive at full speed, with repeats and out of order.
//!
//! The log must then contain each delivered message and status exactly once. A page reader and a socket reader, which
//! resume at their cursors after each kill, must have read the same log: an event that a reader saw before a kill keeps
//! its sequence. A webhook receiver that is down for part of the time must have received all subscribed events in the
//! order of the log; a kill may repeat a delivery.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use relevo_sandbox as sandbox;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::cloud_webhook::{signature, status, text, webhook_about};
use crate::support::process::{Process, ask};
use crate::support::receiver::{Delivery, Receiver};
use crate::support::{APP_SECRET, KEY, SandboxRunning, eventually};

/// Number of kills, spread over the load.
const KILLS: usize = 5;

/// Number of webhooks without repeats.
const WEBHOOKS: usize = 3000;

/// Number of concurrent connections that deliver webhooks.
const POSTERS: usize = 8;

/// Id of the last message. The readers stop when they receive it.
const LAST: &str = "wamid.last";

/// An event that a reader received: its sequence and its identity.
type Seen = (u64, String);

/// Waits between attempts to reach a node that is down.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// The identity of an event, equal for the same event in pages, on sockets and in the webhook.
fn identity(kind: &str, data: &Value) -> String {
    let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
    match kind {
        "message" => text("message_id"),
        "receipt" => format!("{} {}", text("message_id"), text("status")),
        _ => kind.to_owned(),
    }
}

/// A deterministic shuffle (xorshift).
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for n in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let other = usize::try_from(state % (u64::try_from(n).unwrap() + 1)).unwrap();
        items.swap(n, other);
    }
}

/// Shuffled webhooks of one to three messages or of two statuses, every third one twice. Also returns the identities of
/// the expected events.
fn load() -> (VecDeque<Vec<u8>>, Vec<String>) {
    let (mut bodies, mut expected) = (Vec::new(), Vec::new());
    for n in 0..WEBHOOKS {
        let id = |k: usize| format!("wamid.{n}.{k}");
        let value = if n % 4 == 0 {
            let words = ["delivered", "read"];
            expected.extend(words.map(|word| format!("{} {word}", id(0))));
            // The later status comes first.
            json!({ "statuses": [status(&id(0), words[1]), status(&id(0), words[0])] })
        } else {
            let ids: Vec<_> = (0..n % 4).map(id).collect();
            expected.extend(ids.iter().cloned());
            json!({ "messages": ids.iter().map(|id| text(id, "Hola")).collect::<Vec<_>>() })
        };
        let body = webhook_about("100", "messages", value);
        if n % 3 == 0 {
            bodies.push(body.clone());
        }
        bodies.push(body);
    }
    shuffle(&mut bodies);
    (bodies.into(), expected)
}

/// Delivers until `waiting` is empty. Puts a webhook that was not answered with 200 back into the queue, as Meta does.
async fn deliver_all(
    address: SocketAddr,
    waiting: Arc<Mutex<VecDeque<Vec<u8>>>>,
    answered: Arc<AtomicUsize>,
) {
    let client = reqwest::Client::new();
    loop {
        let Some(body) = waiting.lock().unwrap().pop_front() else { return };
        let request = client.post(format!("http://{address}/webhook"));
        let posted = request.header("X-Hub-Signature-256", signature(&body)).body(body.clone()).send().await;
        if posted.is_ok_and(|answer| answer.status() == 200) {
            answered.fetch_add(1, Ordering::Relaxed);
        } else {
            waiting.lock().unwrap().push_back(body);
            pause().await;
        }
    }
}

/// Opens one socket and appends its events to `seen`. Returns `Some` after the last message, `None` when the connection
/// ends before.
async fn read_socket(address: SocketAddr, seen: &mut Vec<Seen>) -> Option<()> {
    let after = seen.last().map(|(sequence, _)| sequence.to_string()).unwrap_or_default();
    let mut request =
        format!("ws://{address}/instances/shop/ws?after={after}").into_client_request().unwrap();
    request.headers_mut().insert("x-api-key", KEY.parse().unwrap());
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut socket, _) = match tokio_tungstenite::client_async(request, stream).await {
        Ok(opened) => opened,
        Err(Error::Http(refused)) => {
            assert_ne!(
                refused.status().as_u16(),
                400,
                "the node refused a cursor that it had issued: {seen:?}"
            );
            return None;
        }
        Err(_) => return None,
    };
    while seen.last().is_none_or(|(_, what)| what != LAST) {
        if let Message::Text(text) = socket.next().await?.ok()? {
            let frame: Value = serde_json::from_str(&text).unwrap();
            let what = identity(frame["type"].as_str().unwrap(), &frame["payload"]["data"]);
            seen.push((frame["sequence"].as_u64().unwrap(), what));
        }
    }
    Some(())
}

/// Reads the log from its start over sockets; a new socket resumes after the last received event.
async fn read_log_by_socket(address: SocketAddr) -> Vec<Seen> {
    let mut seen = Vec::new();
    while read_socket(address, &mut seen).await.is_none() {
        pause().await;
    }
    seen
}

/// A page of the log; `None` when the request fails because the node was killed.
async fn page(client: &reqwest::Client, address: SocketAddr, after: &str) -> Option<Value> {
    let url = format!("http://{address}/instances/shop/events?limit=50&after={after}");
    client.get(url).header("X-API-Key", KEY).send().await.ok()?.json().await.ok()
}

/// Reads the log from its start page by page.
async fn read_log_by_pages(address: SocketAddr) -> Vec<Seen> {
    let (client, mut after, mut seen) = (reqwest::Client::new(), String::new(), Vec::<Seen>::new());
    while seen.last().is_none_or(|(_, what)| what != LAST) {
        let Some(page) = page(&client, address, &after).await else {
            pause().await;
            continue;
        };
        let Some(entries) = page["data"].as_array() else {
            panic!("the node refused a cursor that it had issued: {page}");
        };
        seen.extend(entries.iter().map(|entry| {
            let what = identity(entry["type"].as_str().unwrap(), &entry["data"]);
            (entry["sequence"].as_u64().unwrap(), what)
        }));
        page["next"].as_str().unwrap().clone_into(&mut after);
    }
    seen
}

/// The delivered events in order of their first delivery.
fn first_deliveries(deliveries: &[Delivery]) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    for Delivery { headers, body, .. } in deliveries {
        let id = headers["webhook-id"].to_str().unwrap();
        let sequence = id.rsplit_once('_').unwrap().1.parse().unwrap();
        if seen.iter().all(|(known, _)| *known != sequence) {
            seen.push((sequence, identity("receipt", &body["data"])));
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_and_duplicate_no_webhook_and_readers_see_one_order() {
    let data = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sandbox = SandboxRunning::start(sandbox::Options::default()).await;
    let client = reqwest::Client::new();
    let environment = [("RELEVO_WEBHOOK__FIRST_DELAY", "50ms"), ("RELEVO_WEBHOOK__MAX_DELAY", "100ms")];
    let mut node = Process::start_with(address, data.path(), &environment);
    let account = json!({
        "phone_number_id": "100", "access_token": "token", "app_secret": APP_SECRET,
        "base_url": format!("http://{}", sandbox.address),
    });
    let instance = json!({ "instance_id": "shop", "cloud_api": account });
    ask(&client, address, Method::POST, "/instances", Some(instance)).await;
    let receiver = Receiver::start().await;
    let hook = json!({ "url": receiver.url(), "events": ["receipt"] });
    ask(&client, address, Method::POST, "/instances/shop/webhook", Some(hook)).await;

    let readers = [tokio::spawn(read_log_by_socket(address)), tokio::spawn(read_log_by_pages(address))];
    let (bodies, mut expected) = load();
    let total = bodies.len();
    let (waiting, answered) = (Arc::new(Mutex::new(bodies)), Arc::new(AtomicUsize::new(0)));
    let posters: Vec<_> =
        (0..POSTERS).map(|_| tokio::spawn(deliver_all(address, waiting.clone(), answered.clone()))).collect();
    for round in 1..=KILLS {
        // The kill depends on the number of answers, not on time, so that the speed of the machine does not matter.
        let goal = total * round / (KILLS + 1) + round;
        eventually("the load to proceed", async || {
            let answered = answered.load(Ordering::Relaxed);
            if answered >= goal { Ok(()) } else { Err(answered) }
        })
        .await;
        node.kill();
        receiver.answer(if round % 2 == 1 { 503 } else { 200 });
        node = Process::start_with(address, data.path(), &environment);
    }
    receiver.answer(200);
    for poster in posters {
        poster.await.unwrap();
    }
    assert_eq!(answered.load(Ordering::Relaxed), total);
    let last = webhook_about("100", "messages", json!({ "messages": [text(LAST, "fin")] }));
    deliver_all(address, Arc::new(Mutex::new([last].into())), answered).await;
    expected.push(LAST.to_owned());

    let log = read_log_by_pages(address).await;
    let sequences: Vec<_> = log.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, (1..=u64::try_from(log.len()).unwrap()).collect::<Vec<_>>());
    let mut stored: Vec<_> =
        log.iter().map(|(_, what)| what.as_str()).filter(|what| what.starts_with("wamid.")).collect();
    let mut expected: Vec<_> = expected.iter().map(String::as_str).collect();
    stored.sort_unstable();
    expected.sort_unstable();
    assert_eq!(stored, expected, "the log does not hold each delivered webhook exactly once");
    for reader in readers {
        assert_eq!(reader.await.unwrap(), log, "a reader received another log");
    }
    let receipts: Vec<_> = log.into_iter().filter(|(_, what)| what.contains(' ')).collect();
    let delivered = eventually("the receiver to have caught up", async || {
        let delivered = first_deliveries(&receiver.taken("receipt"));
        if delivered.len() >= receipts.len() { Ok(delivered) } else { Err(delivered.len()) }
    })
    .await;
    assert_eq!(delivered, receipts, "the receiver missed an event or received another order");
    // Two for each kill: the delivery in flight, and the one whose cursor was not durable yet.
    let repeated = receiver.taken("receipt").len() - receipts.len();
    assert!(repeated <= 2 * KILLS, "{repeated} deliveries were repeated");
    node.kill();
}
