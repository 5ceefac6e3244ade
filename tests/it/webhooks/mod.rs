//! Webhook endpoints: their routes, and the delivery of events to a receiver.

mod cloud_webhook;
mod deliveries;
mod guarantees;
mod kill;
mod openapi;
mod relay;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::receiver::Receiver;
use crate::support::{Answer, World, eventually};

const SECRET: &str = "una clave";

fn text(phone: &str, message: &str) -> Value {
    json!({ "phone": phone, "message": message })
}

/// A world with short retry delays.
async fn world_with_short_retries() -> World {
    World::with(|settings| {
        settings.webhook.first_delay = Duration::from_millis(20);
        settings.webhook.max_delay = Duration::from_millis(50);
        settings.retry.transactional.first_delay = Duration::from_millis(20);
    })
    .await
}

async fn put(world: &World, path: &str, body: Value) -> Answer {
    Answer::of(world.request(Method::PUT, path).json(&body)).await
}

async fn delete(world: &World, path: &str) -> Answer {
    Answer::of(world.request(Method::DELETE, path)).await
}

fn mac(parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn message_acks_are_delivered_as_documented_and_signed() {
    let (world, receiver) = (world_with_short_retries().await, Receiver::start().await);
    let set = world.post("/instances/shop/webhook", json!({ "url": receiver.url(), "secret": SECRET })).await;
    assert_eq!((set.status.as_u16(), &set.body["success"]), (200, &json!(true)), "{set:?}");
    let sent = world.queue("/messages/text", text("573001234567", "Hola")).await;
    let ack = receiver.until_taken("message_ack", 1).await[0].clone();
    let wamid =
        world.until_status(&sent.id(), &["sent", "delivered", "read"]).await["provider_message_id"].clone();
    let expected = json!({
        "event": "message_ack",
        "instance_id": "shop",
        "timestamp": ack.body["timestamp"].as_u64().unwrap(),
        "data": { "status": "sent", "correlation_id": sent.body["correlation_id"], "message_id": wamid },
    });
    assert_eq!(ack.body, expected);

    let header = |name: &str| ack.headers[name].to_str().unwrap().to_owned();
    let hex: String = mac(&[&ack.raw]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header("x-webhook-signature"), hex);
    let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
    let signed = mac(&[id.as_bytes(), b".", at.as_bytes(), b".", &ack.raw]);
    assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(signed)));

    world.faults(json!([{ "action": { "error": { "code": 131_047 } }, "times": 1 }])).await;
    let failed = world.queue("/messages/text", text("573001234567", "Adios")).await;
    let ack = receiver.until_taken("message_ack", 2).await[1].body.clone();
    let error = world.until_status(&failed.id(), &["dead_letter"]).await["error"]["message"].clone();
    let expected = json!({
        "event": "message_ack",
        "instance_id": "shop",
        "timestamp": ack["timestamp"].as_u64().unwrap(),
        "data": { "status": "failed", "correlation_id": failed.body["correlation_id"], "error": error },
    });
    assert_eq!(ack, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn receiver_that_was_down_receives_all_events_in_order() {
    let (mut world, receiver) = (world_with_short_retries().await, Receiver::start().await);
    world.post("/instances/shop/webhook", json!({ "url": receiver.url(), "events": ["message_ack"] })).await;
    receiver.answer(500);
    let mut expected = Vec::new();
    for n in 0..10 {
        let sent = world.queue("/messages/text", text("573001234567", &n.to_string())).await;
        expected.push(sent.body["correlation_id"].clone());
        world.until_status(&sent.id(), &["sent", "delivered", "read"]).await;
        if n == 4 {
            receiver.until_refused(2).await;
            let list = eventually("the endpoint to be five events behind", async || {
                let list = world.get("/instances/shop/webhooks").await.body;
                if list["data"][0]["lag"]["events"].as_u64().unwrap() >= 5 { Ok(list) } else { Err(list) }
            })
            .await;
            let endpoint = &list["data"][0];
            assert_eq!((&list["total"], &endpoint["primary"]), (&json!(1), &json!(true)), "{list}");
            assert_eq!(endpoint["trouble"]["instance_id"], "shop", "{endpoint}");
            world.restart_node().await;
            world.until_state("shop", "connected").await;
        }
    }
    assert_eq!(receiver.taken("message_ack").len(), 0);
    receiver.answer(204);
    let taken = receiver.until_taken("message_ack", 10).await;
    let order: Vec<_> =
        taken.iter().map(|delivery| delivery.body["data"]["correlation_id"].clone()).collect();
    assert_eq!(order, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn instance_webhook_can_be_set_shown_replaced_and_deleted() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let path = "/instances/shop/webhook";
    assert_eq!(world.get(path).await.status, 404);
    assert_eq!(delete(&world, path).await.status, 404);
    for (body, field) in [
        (json!({}), "url"),
        (json!({ "url": "ftp://x" }), "url"),
        (json!({ "url": receiver.url(), "events": ["a b"] }), "events"),
        (json!({ "url": receiver.url(), "secret": "whsec_!" }), "secret"),
    ] {
        let answer = world.post(path, body).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["error"]["field"]),
            (400, &json!(field)),
            "{answer:?}"
        );
    }
    let wanted = json!({ "url": receiver.url(), "events": ["message_ack", "status"], "secret": SECRET });
    assert_eq!(world.post(path, wanted).await.body["success"], true);
    let shown = world.get(path).await.body;
    assert_eq!(
        (&shown["instance_id"], &shown["url"], &shown["events"], &shown["secret"], &shown["enabled"]),
        (
            &json!("shop"),
            &json!(receiver.url()),
            &json!(["message_ack", "status"]),
            &json!("********"),
            &json!(true)
        )
    );
    // A client can post the shown body, with the masked secret; the secret stays.
    assert_eq!(world.post(path, shown).await.status, 200);
    world.queue("/messages/text", text("573001234567", "Hola")).await;
    let ack = receiver.until_taken("message_ack", 1).await[0].clone();
    assert!(ack.headers.contains_key("webhook-signature"), "{ack:?}");
    assert_eq!(delete(&world, path).await.body, json!({ "success": true }));
    assert_eq!(world.get(path).await.status, 404);
    assert_eq!(
        world.get("/instances/unknown/webhook").await.body["error"]["message"],
        "Instancia no encontrada"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn webhook_url_of_an_instance_and_its_webhook_are_one_setting() {
    let (world, receiver) = (World::empty(|_| {}).await, Receiver::start().await);
    let mut wanted = world.instance("shop");
    wanted["webhook_url"] = json!("ftp://x");
    let refused = world.post("/instances", wanted.clone()).await;
    assert_eq!(refused.body["error"]["field"], "webhook_url", "{refused:?}");
    assert_eq!(world.get("/instances").await.body["total"], 0);
    wanted["webhook_url"] = json!("http://127.0.0.1:1/");
    assert_eq!(world.post("/instances", wanted).await.body["data"]["webhook_url"], "http://127.0.0.1:1/");
    let shown = world.get("/instances/shop/webhook").await.body;
    assert_eq!((&shown["url"], &shown["events"]), (&json!("http://127.0.0.1:1/"), &json!(["all"])));
    let set = json!({ "url": receiver.url(), "secret": SECRET, "events": ["status"] });
    world.post("/instances/shop/webhook", set).await;
    assert_eq!(world.get("/instances/shop").await.body["data"]["webhook_url"], receiver.url());
    put(&world, "/instances/shop", json!({ "webhook_url": "http://127.0.0.1:2/" })).await;
    let shown = world.get("/instances/shop/webhook").await.body;
    assert_eq!(
        (&shown["url"], &shown["events"], &shown["secret"]),
        (&json!("http://127.0.0.1:2/"), &json!(["status"]), &json!("********"))
    );
    put(&world, "/instances/shop", json!({ "name": "Tienda" })).await;
    assert_eq!(world.get("/instances/shop/webhook").await.status, 200);
    put(&world, "/instances/shop", json!({ "webhook_url": null })).await;
    assert_eq!(world.get("/instances/shop/webhook").await.status, 404);
    put(&world, "/instances/shop", json!({ "webhook_url": receiver.url() })).await;
    assert_eq!(delete(&world, "/instances/shop").await.status, 200);
    eventually("the instance's endpoint to be deleted", async || {
        let list = world.get("/webhooks").await.body;
        if list["total"] == 0 { Ok(()) } else { Err(list) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn endpoint_routes_manage_an_endpoint_of_all_instances() {
    let (world, receiver) = (world_with_short_retries().await, Receiver::start().await);
    let created = world.post("/webhooks", json!({ "url": receiver.url(), "events": ["message_ack"] })).await;
    assert_eq!(created.status, 201, "{created:?}");
    let own =
        world.post("/instances/shop/webhooks", json!({ "url": receiver.url(), "enabled": false })).await;
    assert_eq!((own.status.as_u16(), &own.body["data"]["enabled"]), (201, &json!(false)), "{own:?}");
    assert_eq!(own.body["data"]["instance_id"], "shop");
    assert_eq!(world.get("/webhooks").await.body["total"], 2);
    let path = format!("/webhooks/{}", created.body["data"]["endpoint_id"].as_str().unwrap());
    for n in 0..3 {
        world.queue("/messages/text", text("573001234567", &n.to_string())).await;
    }
    receiver.until_taken("message_ack", 3).await;
    eventually("everything to be delivered", async || {
        let shown = world.get(&path).await.body;
        if shown["data"]["counts"]["delivered"] == 3 { Ok(()) } else { Err(shown) }
    })
    .await;
    // Replay from the first event.
    let replay = format!("{path}/replay");
    assert_eq!(world.post(&replay, json!({ "sequence": 1 })).await.body["error"]["field"], "instance_id");
    assert_eq!(world.post(&replay, json!({})).await.status, 400);
    assert_eq!(world.post(&replay, json!({ "instance_id": "unknown", "sequence": 1 })).await.status, 404);
    assert_eq!(world.post(&replay, json!({ "instance_id": "shop", "sequence": 1 })).await.status, 200);
    receiver.until_taken("message_ack", 6).await;
    assert_eq!(world.post(&replay, json!({ "time": 1 })).await.status, 200);
    receiver.until_taken("message_ack", 9).await;

    let off = put(&world, &path, json!({ "enabled": false, "secret": SECRET })).await.body["data"].clone();
    assert_eq!((&off["disabled"]["reason"], &off["secret"]), (&json!("requested"), &json!("********")));
    world.queue("/messages/text", text("573001234567", "x")).await;
    let on = world.post(&format!("{path}/enable"), json!({})).await;
    assert_eq!(on.body["data"]["enabled"], true, "{on:?}");
    receiver.until_taken("message_ack", 10).await;
    assert_eq!(delete(&world, &path).await.body, json!({ "success": true }));
    for deleted in [path.as_str(), "/webhooks/ep_1"] {
        assert_eq!(world.get(deleted).await.status, 404, "{deleted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn permanently_refused_events_are_parked_and_can_be_replayed() {
    let (world, receiver) = (world_with_short_retries().await, Receiver::start().await);
    let created = world.post("/webhooks", json!({ "url": receiver.url(), "events": ["message_ack"] })).await;
    let path = format!("/webhooks/{}/parked", created.body["data"]["endpoint_id"].as_str().unwrap());
    receiver.answer(422);
    for n in 0..3 {
        world.queue("/messages/text", text("573001234567", &n.to_string())).await;
    }
    let parked = eventually("three parked events", async || {
        let parked = world.get(&path).await.body;
        if parked["data"].as_array().is_some_and(|data| data.len() == 3) { Ok(parked) } else { Err(parked) }
    })
    .await;
    let first = &parked["data"][0];
    assert_eq!((&first["reason"], &first["instance_id"]), (&json!("refused"), &json!("shop")), "{first}");
    assert_eq!(first["event"]["event"], "message_ack");
    let page = world.get(&format!("{path}?limit=2")).await.body;
    let rest = world.get(&format!("{path}?limit=2&after={}", page["next"].as_str().unwrap())).await.body;
    assert_eq!((&rest["data"][0], &rest["next"]), (&parked["data"][2], &Value::Null));
    assert_eq!(world.get(&format!("{path}?after=x")).await.body["error"]["field"], "after");
    let still = world.post(&format!("{path}/replay"), json!({})).await.body["data"].clone();
    assert_eq!(
        (&still["delivered"], &still["failed"]["sequence"]),
        (&json!(0), &first["sequence"]),
        "{still}"
    );
    receiver.answer(200);
    let replayed = world.post(&format!("{path}/replay"), json!({})).await;
    assert_eq!(replayed.body["data"], json!({ "delivered": 3 }), "{replayed:?}");
    assert_eq!(world.get(&path).await.body["data"], json!([]));
    assert_eq!(receiver.taken("message_ack").len(), 3);
}
