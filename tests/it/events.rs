//! The event log and its readers: pages, server-sent events, WebSockets and webhooks.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::StreamExt;
use relevo::events::{self, Event, RetentionLimits};
use relevo_domain::{InstanceNumber, Timestamp};
use relevo_store::Tx;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::event_readers::{Sse, TIMEOUT, frame, open, socket};
use crate::support::receiver::Receiver;
use crate::support::{Answer, KEY, World, eventually};

const SHOP: InstanceNumber = InstanceNumber::FIRST;

/// `KEY` in base64url.
const KEY_PROTOCOL: &str = "relevo.key.dGVzdC1rZXktb2YtdGhlLW5vZGU";

/// Appends one event of kind `raw` for each number, with a text of `size` letters.
fn raws(
    numbers: RangeInclusive<u64>,
    size: usize,
) -> impl FnOnce(&mut Tx) -> Result<(), relevo_store::Error> {
    move |tx| {
        for n in numbers {
            let data = json!({ "n": n, "text": "x".repeat(size) });
            let event =
                Event { kind: relevo_domain::EventKind::Raw, at: Timestamp(1_700_000_000_000 + n), data };
            events::append(tx, SHOP, &event)?;
        }
        Ok(())
    }
}

/// Sends a message, which causes a `message_ack` and receipts, and waits until it is read.
pub async fn send(world: &World, phone: &str) {
    let sent = world.queue("/messages/text", json!({ "phone": phone, "message": "Hola" })).await;
    world.until_status(&sent.id(), &["read"]).await;
}

fn numbers(page: &Answer) -> Vec<u64> {
    let entries = page.body["data"].as_array().unwrap();
    entries.iter().map(|entry| entry["data"]["n"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pages_contain_each_event_once() {
    let mut world = World::new().await;
    world.change_store(raws(1..=25, 10)).await;
    for path in ["/instances/shop/events", "/events"] {
        let (mut after, mut found) = (String::new(), Vec::new());
        loop {
            let page = world.get(&format!("{path}?types=raw&limit=10&after={after}")).await;
            assert_eq!(page.status, 200, "{page:?}");
            found.extend(numbers(&page));
            after = page.body["next"].as_str().unwrap().to_owned();
            if page.body["more"] == false {
                break;
            }
        }
        assert_eq!(found, (1..=25).collect::<Vec<_>>(), "{path}");
        let page = world.get(&format!("{path}?types=raw&after={after}")).await;
        assert_eq!((numbers(&page), &page.body["more"]), (vec![], &json!(false)));
    }
    let page = world.get("/instances/shop/events?types=raw&limit=1").await;
    let entry = &page.body["data"][0];
    let sequence = entry["sequence"].as_u64().unwrap();
    let expected = json!({
        "sequence": sequence, "type": "raw", "timestamp": 1_700_000_000, "time": "2023-11-14T22:13:20.001Z",
        "instance_id": "shop", "data": { "n": 1, "text": "xxxxxxxxxx" },
    });
    assert_eq!(entry, &expected);
    assert_eq!(page.body["next"], sequence.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_cursor_or_filter_is_refused_with_its_field() {
    let world = World::new().await;
    for (query, field) in [
        ("/instances/shop/events?limit=0", "limit"),
        ("/instances/shop/events?limit=1001", "limit"),
        ("/instances/shop/events?after=x", "after"),
        ("/instances/shop/events?after=1000000", "after"),
        ("/instances/shop/events?types=a%20b", "types"),
        ("/instances/shop/events/stream?after=-1", "after"),
        ("/events?after=12", "after"),
        ("/events/stream?after=~", "after"),
        ("/instances/shop/ws", "Upgrade"),
    ] {
        let answer = world.get(query).await;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["field"]), (400, &json!(field)), "{query}");
    }
    assert_eq!(world.get("/instances/unknown/events").await.status, 404);
    assert_eq!(open(&world, "/instances/unknown/ws", &[("x-api-key", KEY)]).await.err(), Some(404));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn server_sent_events_resume_at_the_last_event_id() {
    let mut world = World::new().await;
    world.change_store(raws(1..=9, 10)).await;
    for path in ["/instances/shop/events", "/instances/shop/events/stream", "/events", "/events/stream"] {
        let mut first = Sse::open(&world, &format!("{path}?types=raw&after="), None).await;
        let mut last = None;
        for n in 1..=4 {
            let event = first.next().await.unwrap();
            assert_eq!((event.event.as_str(), &event.data["data"]["n"]), ("raw", &json!(n)));
            last = Some(event.id);
        }
        let mut second = Sse::open(&world, &format!("{path}?types=raw&after="), last.as_deref()).await;
        for n in 5..=9 {
            assert_eq!(
                second.next().await.unwrap().data["data"]["n"],
                n,
                "Last-Event-ID did not take precedence over after"
            );
        }
    }
    let mut live = Sse::open(&world, "/instances/shop/events/stream", None).await;
    let last = world.get("/instances/shop/events?limit=1000").await.body["next"].clone();
    send(&world, "573001234567").await;
    let event = live.next().await.unwrap();
    let page = world.get(&format!("/instances/shop/events?limit=1&after={}", last.as_str().unwrap())).await;
    assert_eq!(event.data, page.body["data"][0], "the live event differs from the same event in a page");
    assert_eq!(event.id, event.data["sequence"].to_string());

    world.stop_node().await;
    while live.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn socket_resumes_after_a_restart() {
    let mut world = World::new().await;
    let mut first = socket(&world, "/instances/shop/ws").await;
    send(&world, "573001234567").await;
    let seen = frame(&mut first).await.unwrap();
    assert_eq!(seen["payload"]["instance_id"], "shop");
    assert_eq!(seen["cursor"], seen["sequence"].to_string());

    let mut last = seen["sequence"].as_u64().unwrap();
    let (stopped, close) = tokio::join!(world.stop_node(), async {
        loop {
            match frame(&mut first).await {
                Ok(seen) => last = seen["sequence"].as_u64().unwrap(),
                Err(close) => break close.expect("a close frame"),
            }
        }
    });
    let () = stopped;
    assert_eq!(u16::from(close.code), 1001);
    assert_eq!(close.reason.as_str(), format!("the node stops; resume with after={last}"));

    world.start_node().await;
    let mut again = socket(&world, &format!("/instances/shop/ws?after={last}")).await;
    world.until_state("shop", "connected").await;
    let status = frame(&mut again).await.unwrap();
    assert_eq!(status["sequence"], last + 1);
    send(&world, "573001234568").await;
    let mut kinds = vec![status["type"].as_str().unwrap().to_owned()];
    for sequence in last + 2..last + 4 {
        let seen = frame(&mut again).await.unwrap();
        assert_eq!(seen["sequence"], sequence, "an event was missed or repeated");
        kinds.push(seen["type"].as_str().unwrap().to_owned());
    }
    assert!(kinds.contains(&"status".to_owned()) && kinds.contains(&"message_ack".to_owned()), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn all_readers_receive_the_same_order() {
    let world = World::new().await;
    let mut instance_socket = socket(&world, "/instances/shop/ws").await;
    let mut node_socket = socket(&world, "/ws").await;
    let mut event_source = Sse::open(&world, "/events/stream", None).await;
    for n in 0..10 {
        send(&world, &format!("57300123450{n}")).await;
    }
    let page = world.get("/instances/shop/events?types=message_ack&limit=1000").await;
    let last = page.body["data"].as_array().unwrap().last().unwrap()["sequence"].as_u64().unwrap();
    let mut orders = [Vec::new(), Vec::new(), Vec::new()];
    while orders[0].last() != Some(&last) {
        orders[0].push(frame(&mut instance_socket).await.unwrap()["sequence"].as_u64().unwrap());
    }
    while orders[1].last() != Some(&last) {
        orders[1].push(frame(&mut node_socket).await.unwrap()["sequence"].as_u64().unwrap());
    }
    while orders[2].last() != Some(&last) {
        orders[2].push(event_source.next().await.unwrap().data["sequence"].as_u64().unwrap());
    }
    assert!(orders[0].len() >= 10 && orders[0].is_sorted(), "{orders:?}");
    assert_eq!(orders[0], orders[1]);
    assert_eq!(orders[0], orders[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn socket_that_does_not_read_is_closed_and_does_not_delay_others() {
    let mut world = World::with(|settings| {
        settings.http.max_streams = 2;
        settings.http.max_connections = 4;
        settings.http.stream_patience = Duration::from_millis(300);
    })
    .await;
    world.change_store(raws(1..=40, 500_000)).await;
    let path = "/instances/shop/ws?types=raw&after=";
    let mut slow = socket(&world, path).await;
    let mut quick = socket(&world, path).await;
    assert_eq!(
        open(&world, path, &[("x-api-key", KEY)]).await.err(),
        Some(503),
        "more streams than http.max_streams were accepted"
    );
    for n in 1..=40 {
        assert_eq!(frame(&mut quick).await.unwrap()["payload"]["data"]["n"], n);
    }
    let resumed = eventually("the slow socket to be closed", async || {
        open(&world, path, &[("x-api-key", KEY)]).await.map_err(|status| assert_eq!(status, 503))
    });
    drop(resumed.await);
    let mut last = String::new();
    let mut taken = 0;
    while let Ok(seen) = frame(&mut slow).await {
        taken += 1;
        last = seen["cursor"].as_str().unwrap().to_owned();
    }
    assert!(taken < 40, "the slow socket received all events");
    let mut resumed = eventually("a free stream", async || {
        let path = format!("/instances/shop/ws?types=raw&after={last}");
        open(&world, &path, &[("x-api-key", KEY)]).await.map_err(drop)
    })
    .await;
    for n in taken + 1..=40 {
        assert_eq!(frame(&mut resumed).await.unwrap()["payload"]["data"]["n"], n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn event_source_that_does_not_read_is_closed() {
    let mut world = World::with(|settings| {
        settings.http.max_streams = 1;
        settings.http.stream_patience = Duration::from_millis(300);
    })
    .await;
    world.change_store(raws(1..=40, 500_000)).await;
    let path = "/instances/shop/events/stream?types=raw&after=";
    let slow = Sse::open(&world, path, None).await;
    assert_eq!(world.get(path).await.status, 503);
    eventually("the slow stream to be closed", async || {
        match open(&world, "/ws", &[("x-api-key", KEY)]).await {
            Ok(_) => Ok(()),
            Err(status) => Err(status),
        }
    })
    .await;
    drop(slow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_do_not_count_against_the_connection_limit() {
    let world = World::with(|settings| settings.http.max_connections = 1).await;
    let (address, close) = (world.node.address, |request: reqwest::RequestBuilder| {
        request.header("X-API-Key", KEY).header("Connection", "close")
    });
    // The client of `World` keeps its connection alive. The header closes it, which frees the only permit.
    let client = || reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    drop(close(world.request(Method::GET, "/")).send().await.unwrap().bytes().await);
    let _socket = socket(&world, "/ws").await;
    let stream = close(client().get(format!("http://{address}/events/stream"))).send().await.unwrap();
    assert_eq!((stream.status().as_u16(), &stream.headers()["connection"]), (200, &"close".parse().unwrap()));
    let asked = close(client().get(format!("http://{address}/instances"))).send();
    let answer =
        tokio::time::timeout(TIMEOUT, asked).await.expect("an answer, because a permit is free").unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_reader_receives_a_gap_for_trimmed_events() {
    let mut world = World::with(|settings| {
        settings.webhook.first_delay = Duration::from_millis(20);
        settings.webhook.max_delay = Duration::from_millis(50);
    })
    .await;
    let receiver = Receiver::start().await;
    receiver.answer(500);
    let only_acks = json!({ "url": receiver.url(), "events": ["message_ack"] });
    world.post("/instances/shop/webhook", only_acks).await;
    let before = world.get("/instances/shop/events?limit=1000").await.body["next"].clone();
    let all_before = world.get("/events?limit=1000").await.body["next"].clone();
    let (before, all_before) = (before.as_str().unwrap(), all_before.as_str().unwrap());
    world
        .change_store(|tx| {
            raws(1..=30, 10)(tx)?;
            let keep = RetentionLimits { since: Timestamp(u64::MAX), bytes: u64::MAX };
            events::trim(tx, SHOP, &keep, 1000).map(drop)
        })
        .await;
    let from = before.parse::<u64>().unwrap() + 1;
    let is_gap = |data: &Value| {
        let number = |name: &str| data[name].as_u64().unwrap();
        assert_eq!(number("from"), from, "{data}");
        assert!(number("to") >= from + 29 && number("missing") == number("to") - from + 1, "{data}");
    };
    for path in [
        format!("/instances/shop/events?types=message&after={before}"),
        format!("/events?types=message&after={all_before}"),
    ] {
        let page = world.get(&path).await;
        let entry = &page.body["data"][0];
        assert_eq!((&entry["type"], &entry["sequence"]), (&json!("gap"), &entry["data"]["to"]), "{page:?}");
        is_gap(&entry["data"]);
        let after = page.body["next"].as_str().unwrap();
        let next = world.get(&format!("{}&after={after}", path.split_once("&after=").unwrap().0)).await;
        assert_eq!(next.body["data"], json!([]), "the gap was sent twice");
        let event = Sse::open(&world, &path, None).await.next().await.unwrap();
        assert_eq!(event.event, "gap");
        is_gap(&event.data["data"]);
    }
    for path in [format!("/instances/shop/ws?after={before}"), format!("/ws?after={all_before}")] {
        let gap = frame(&mut socket(&world, &path).await).await.unwrap();
        assert_eq!(gap["type"], "gap");
        is_gap(&gap["payload"]["data"]);
    }
    let fresh = world.get("/instances/shop/events?after=").await;
    assert!(!fresh.body.to_string().contains("gap"), "a new reader received a gap: {fresh:?}");

    receiver.answer(200);
    let gap = receiver.until_taken("gap", 1).await[0].clone();
    is_gap(&gap.body["data"]);
    send(&world, "573001234567").await;
    receiver.until_taken("message_ack", 1).await;
    assert_eq!(receiver.taken("gap").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn event_streams_require_the_key() {
    let world = World::new().await;
    let opens =
        async |path: &str, headers: &[(&'static str, &str)]| open(&world, path, headers).await.map(drop);
    let bearer = format!("Bearer {KEY}");
    for path in ["/instances/shop/ws", "/ws"] {
        assert_eq!(opens(path, &[]).await, Err(401));
        assert_eq!(opens(path, &[("x-api-key", "wrong")]).await, Err(401));
        assert_eq!(opens(&format!("{path}?api_key=wrong"), &[]).await, Err(401));
        assert_eq!(opens(path, &[("sec-websocket-protocol", "relevo.key.d3Jvbmc")]).await, Err(401));
        assert_eq!(opens(path, &[("authorization", &bearer)]).await, Ok(()));
        assert_eq!(opens(&format!("{path}?api_key={KEY}"), &[]).await, Ok(()));
        assert_eq!(opens(&format!("{path}?token={KEY}"), &[]).await, Ok(()));
        let both = format!("relevo, {KEY_PROTOCOL}");
        assert_eq!(opens(path, &[("sec-websocket-protocol", &both)]).await, Ok(()));
        assert_eq!(opens(path, &[("sec-websocket-protocol", KEY_PROTOCOL)]).await, Ok(()));
    }
    let client = reqwest::Client::new();
    let status = async |path: &str| {
        client.get(format!("http://{}{path}", world.node.address)).send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/events/stream").await, 401);
    assert_eq!(status(&format!("/events/stream?token={KEY}")).await, 200);
    for elsewhere in ["/events", "/instances/shop/events", "/instances", "/webhooks"] {
        assert_eq!(status(&format!("{elsewhere}?api_key={KEY}")).await, 401, "{elsewhere}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn socket_answers_pings() {
    use futures_util::SinkExt;
    let world = World::new().await;
    let mut socket = socket(&world, "/ws").await;
    socket.send(Message::Text(r#"{"type":"ping"}"#.into())).await.unwrap();
    assert_eq!(frame(&mut socket).await.unwrap(), json!({ "type": "pong" }));
    socket.send(Message::Text("anything else".into())).await.unwrap();
    socket.send(Message::Ping("x".into())).await.unwrap();
    let pong = tokio::time::timeout(TIMEOUT, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(pong, Message::Pong("x".into()));
}
