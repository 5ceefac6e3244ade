//! Guarantees of the path from Meta's webhook to the readers: a delivery commits completely or not at all, an unsigned
//! body has no effect where a secret is set, and a failing reader does not affect other readers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::cloud_webhook::{
    ANA, deliver, deliver_to, inbound_count, post_webhook, send_inbound, signature, signature_with, status,
    text, webhook,
};
use crate::support::event_readers::{Sse, frame, socket};
use crate::support::receiver::Receiver;
use crate::support::{Answer, World, eventually};

/// Events of one kind in the log of `shop`.
pub async fn logged_events(world: &World, kind: &str) -> Vec<Value> {
    let page = world.get(&format!("/instances/shop/events?limit=1000&types={kind}")).await;
    assert_eq!((page.status.as_u16(), &page.body["more"]), (200, &json!(false)), "{page:?}");
    page.body["data"].as_array().unwrap().clone()
}

/// Whether Ana is on the suppression list.
pub async fn is_suppressed(world: &World) -> bool {
    let entry = world.get(&format!("/suppressions/{ANA}")).await;
    assert!(matches!(entry.status.as_u16(), 200 | 404), "{entry:?}");
    entry.status == 200
}

/// A webhook body with messages to `shop`.
pub fn messages(world: &World, messages: &Value) -> Vec<u8> {
    webhook(world, "shop", "messages", json!({ "messages": messages }))
}

async fn post_unsigned(world: &World, body: Vec<u8>) -> Answer {
    Answer::of(world.request(Method::POST, "/webhook").body(body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn full_disk_refuses_a_delivery_completely() {
    let mut world = World::new().await;
    let value = json!({
        "messages": [text("wamid.1", "BAJA"), text("wamid.2", "Hola"), { "type": "text" }],
        "statuses": [status("wamid.of-another-system", "played")],
    });
    let body = webhook(&world, "shop", "messages", value);
    world.settings.store.min_free_space = u64::MAX / 2;
    world.restart_node().await;
    // A refused suppression has no later effect, unlike a message that is still accepted.
    eventually("the node to notice the full disk", async || {
        let entered = world.post("/suppressions", json!({ "phone": "573009876543" })).await;
        if entered.status == 503 { Ok(()) } else { Err(entered) }
    })
    .await;
    let refused = post_webhook(&world, body.clone()).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!((inbound_count(&world, "refused").await, inbound_count(&world, "event").await), (1, 0));
    for kind in ["message", "receipt", "opt_out"] {
        assert_eq!(logged_events(&world, kind).await, [Value::Null; 0]);
    }
    assert_eq!(world.get("/webhook/kept").await.body["data"], json!([]));
    assert!(!is_suppressed(&world).await);

    world.settings.store.min_free_space = 0;
    world.restart_node().await;
    deliver(&world, body).await;
    assert_eq!(
        (logged_events(&world, "message").await.len(), logged_events(&world, "opt_out").await.len()),
        (2, 1)
    );
    assert_eq!(logged_events(&world, "receipt").await[0]["data"]["status"], "played");
    assert_eq!(world.get("/webhook/kept").await.body["data"].as_array().unwrap().len(), 1);
    assert!(is_suppressed(&world).await);
    assert_eq!((inbound_count(&world, "event").await, inbound_count(&world, "duplicate").await), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn repeated_statuses_are_counted_as_duplicates() {
    let world = World::new().await;
    let sent = world.queue("/messages/text", json!({ "phone": ANA, "message": "Hola" })).await;
    let view = world.until_status(&sent.id(), &["read"]).await;
    let ours = view["provider_message_id"].as_str().unwrap();
    let body = |id: &str| {
        let facts = json!({ "statuses": [status(id, "delivered"), status(id, "read")] });
        webhook(&world, "shop", "messages", facts)
    };
    deliver(&world, body("wamid.of-another-system")).await;
    let (events, duplicates) =
        (inbound_count(&world, "event").await, inbound_count(&world, "duplicate").await);
    let receipts = logged_events(&world, "receipt").await;
    for _ in 0..3 {
        deliver(&world, body(ours)).await;
        deliver(&world, body("wamid.of-another-system")).await;
    }
    assert_eq!(inbound_count(&world, "duplicate").await - duplicates, 12);
    assert_eq!(
        (inbound_count(&world, "event").await, logged_events(&world, "receipt").await),
        (events, receipts)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn forged_body_of_any_size_is_refused_without_effect() {
    let world = World::new().await;
    for (n, size) in [10, 100_000, 3_000_000].into_iter().enumerate() {
        let body = messages(&world, &json!([text(&format!("wamid.{n}"), &"x".repeat(size))]));
        let unsigned = post_unsigned(&world, body.clone()).await;
        let wrong_signature = signature(b"another body");
        let forged = deliver_to(&world, "/webhook", body.clone(), &wrong_signature).await;
        assert_eq!((unsigned.status.as_u16(), forged.status.as_u16()), (403, 403), "{size}");
        let own_address =
            deliver_to(&world, "/instances/shop/cloud-webhook", body.clone(), &wrong_signature).await;
        assert_eq!(own_address.status, 403);
        assert_eq!(logged_events(&world, "message").await.len(), n, "{size}");
        deliver(&world, body).await;
    }
    assert_eq!((inbound_count(&world, "forged").await, inbound_count(&world, "event").await), (9, 3));
    assert_eq!(world.get("/webhook/kept").await.body["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unsigned_webhook_can_suppress_a_user_but_not_release_one() {
    let world = World::new().await;
    let mut open = world.instance("open");
    open["cloud_api"].as_object_mut().unwrap().remove("app_secret");
    assert_eq!(world.post("/instances", open).await.status, 201);
    let says = |instance: &str, id: &str, word: &str| {
        webhook(&world, instance, "messages", json!({ "messages": [text(id, word)] }))
    };
    assert_eq!(post_unsigned(&world, says("open", "wamid.1", "BAJA")).await.status, 200);
    assert!(is_suppressed(&world).await, "an unsigned opt-out had no effect");
    assert_eq!(post_unsigned(&world, says("open", "wamid.2", "ALTA")).await.status, 200);
    assert!(is_suppressed(&world).await, "an unsigned opt-in released the user");
    let resume = json!([{ "wa_id": ANA, "category": "marketing_messages", "value": "resume" }]);
    let preference = webhook(&world, "open", "user_preferences", json!({ "user_preferences": resume }));
    assert_eq!(post_unsigned(&world, preference).await.status, 200);
    assert!(is_suppressed(&world).await, "an unsigned opt-in released the user");
    deliver(&world, says("shop", "wamid.3", "ALTA")).await;
    assert!(!is_suppressed(&world).await, "a signed opt-in had no effect");
    assert_eq!(logged_events(&world, "opt_in").await[0]["data"], json!({ "phone": ANA, "why": "keyword" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn account_event_goes_to_the_instance_whose_secret_signed_it() {
    let world = World::new().await;
    let mut other = world.instance("branch");
    other["cloud_api"]["app_secret"] = json!("another app's secret");
    assert_eq!(world.post("/instances", other).await.status, 201);
    // Meta's account updates name only the business account, not a phone number.
    let change = json!({ "field": "account_update", "value": { "event": "VERIFIED_ACCOUNT" } });
    let entry = json!([{ "id": "WABA", "time": 1_763_800_000, "changes": [change] }]);
    let body = json!({ "object": "whatsapp_business_account", "entry": entry }).to_string().into_bytes();
    let signed = signature_with("another app's secret", &body);
    assert_eq!(deliver_to(&world, "/webhook", body, &signed).await.status, 200);
    for (instance, events) in [("shop", 0), ("branch", 1)] {
        let page = world.get(&format!("/instances/{instance}/events?types=account_update")).await;
        assert_eq!(page.body["data"].as_array().unwrap().len(), events, "{instance}: {page:?}");
    }
}

/// 131050: "User has stopped receiving marketing messages" (Cloud API, error codes).
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn status_with_marketing_opt_out_suppresses_the_user() {
    let world = World::new().await;
    let mut failed = status("wamid.of-another-system", "failed");
    failed["errors"] = json!([{ "code": 131_050, "title": "User has stopped receiving marketing messages" }]);
    let body = webhook(&world, "shop", "messages", json!({ "statuses": [failed] }));
    deliver(&world, body.clone()).await;
    deliver(&world, body).await;
    let entry = world.get(&format!("/suppressions/{ANA}")).await;
    assert_eq!(entry.body["data"]["reason"], "opted_out", "{entry:?}");
    let events = logged_events(&world, "opt_out").await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["data"], json!({ "phone": ANA, "why": "opted_out" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hanging_receiver_does_not_delay_other_receivers_or_sends() {
    let hour = Duration::from_secs(3600);
    // The timeout is longer than the test, so that no delivery below depends on an aborted request.
    let world = World::with(|settings| settings.webhook.timeout = hour).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/events", silent.local_addr().unwrap());
    let (caller, mut called) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        // Accepts every connection and never answers.
        while let Ok((stream, _)) = silent.accept().await {
            let _ = caller.send(stream);
        }
    });
    let receiver = Receiver::start().await;
    assert_eq!(world.post("/instances/shop/webhook", json!({ "url": url })).await.status, 200);
    let other = world.post("/instances/shop/webhooks", json!({ "url": receiver.url() })).await;
    assert!(other.status.is_success(), "{other:?}");
    deliver(&world, messages(&world, &json!([text("wamid.first", "Hola")]))).await;
    let _held = called.recv().await.unwrap();
    for n in 0..100 {
        deliver(&world, messages(&world, &json!([text(&format!("wamid.{n}"), "Hola")]))).await;
    }
    let sent = world.post("/messages/text", json!({ "phone": ANA, "message": "Hola" })).await;
    assert_eq!(sent.status, 200, "{sent:?}");
    world.until_status(&sent.id(), &["read"]).await;
    let events = receiver.until_taken("message", 101).await;
    assert_eq!(events.last().unwrap().body["data"]["message_id"], "wamid.99");
    receiver.until_taken("receipt", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn media_is_served_under_the_message_id() {
    let world = World::new().await;
    let picture: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    let data = STANDARD.encode(&picture);
    let image = json!({ "type": "image", "mime_type": "image/png", "caption": "Mira", "data": data });
    let id = send_inbound(&world, image).await;
    let message = logged_events(&world, "message").await[0]["data"].clone();
    let path = message["media_url"].as_str().unwrap();
    assert_eq!(
        (&message["message_id"], path),
        (&json!(id), &*format!("/instances/shop/messages/{id}/media"))
    );
    let file = world.request(Method::GET, path).send().await.unwrap();
    assert_eq!(
        (file.status().as_u16(), &file.headers()["content-type"]),
        (200, &"image/png".parse().unwrap())
    );
    assert_eq!(file.bytes().await.unwrap(), picture);

    let words = send_inbound(&world, json!({ "text": "Hola" })).await;
    world.create("annex").await;
    for elsewhere in [format!("/instances/annex/messages/{id}/media"), path.replace(&id, &words)] {
        assert_eq!(world.get(&elsewhere).await.status, 404, "{elsewhere}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reader_receives_a_gap_for_events_trimmed_by_size() {
    let mut world = World::with(|settings| settings.queue.event_log_size = 100_000).await;
    for n in 0..30 {
        let body = format!("{n} {}", "x".repeat(10_000));
        deliver(&world, messages(&world, &json!([text(&format!("wamid.{n}"), &body)]))).await;
    }
    let before = logged_events(&world, "message").await;
    let place = before[4]["sequence"].as_u64().unwrap();
    // Retention runs every minute.
    world.advance(Duration::from_secs(60)).await;
    let query = format!("types=message&after={place}");
    let page = eventually("the oldest events to be trimmed", async || {
        let page = world.get(&format!("/instances/shop/events?limit=1000&{query}")).await.body;
        if page["data"][0]["type"] == "gap" { Ok(page) } else { Err(page["data"][0]["sequence"].clone()) }
    })
    .await;
    let (gap, left) = page["data"].as_array().unwrap().split_first().unwrap();
    let oldest = left[0]["sequence"].as_u64().unwrap();
    let data = json!({ "from": place + 1, "to": oldest - 1, "missing": oldest - 1 - place });
    assert_eq!(gap["data"], data);
    assert!(left.len() < 10, "more events are left than fit event_log_size");
    assert_eq!(left, &before[30 - left.len()..], "the remaining events are not the newest ones");

    let mut sse = Sse::open(&world, &format!("/instances/shop/events/stream?{query}"), None).await;
    let mut ws = socket(&world, &format!("/instances/shop/ws?{query}")).await;
    for expected in page["data"].as_array().unwrap() {
        assert_eq!(&sse.next().await.unwrap().data, expected);
        let frame = frame(&mut ws).await.unwrap();
        let seen = (&frame["type"], &frame["sequence"], &frame["payload"]["data"]);
        assert_eq!(seen, (&expected["type"], &expected["sequence"], &expected["data"]));
    }
}
