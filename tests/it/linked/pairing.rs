//! Pairing, logout and unlinking of a linked device.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::json;

use super::{Linked, soon};
use crate::support::Answer;
use crate::support::event_readers::{frame, socket};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scanned_qr_code_links_the_instance() {
    let linked = Linked::new().await;
    // The body that dashboards send.
    let body = json!({ "id": "shop", "webhook_url": "", "sync_history": false });
    let created = linked.world.post("/instances", body).await;
    assert_eq!(created.body["data"]["provider"], "linked_device", "{created:?}");
    assert_eq!(created.body["data"]["status"], "created", "{created:?}");

    let shown = linked.world.get("/instances/shop/qr").await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert_eq!((&shown.body["format"], &shown.body["image_type"]), (&json!("base64"), &json!("png")));
    let image = STANDARD.decode(shown.body["qr_code"].as_str().unwrap()).unwrap();
    assert!(image.starts_with(b"\x89PNG"), "the image is not a PNG");
    for (accept, begins) in [("image/png", "\u{fffd}PNG"), ("image/svg+xml", "<?xml")] {
        let asked = linked.world.request(Method::GET, "/instances/shop/qr").header(ACCEPT, accept);
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], accept);
        assert_eq!(answer.headers()["cache-control"], "no-cache, no-store, must-revalidate");
        let body = String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned();
        assert!(body.starts_with(begins), "{accept}: {}", &body[..20]);
    }
    let asked = linked.world.get("/instances/shop/connect").await;
    assert_eq!((&asked.body["status"], &asked.body["success"]), (&json!("connecting"), &json!(true)));

    let phone = linked.web.phone("573001112233");
    phone.scan(asked.body["code"].as_str().unwrap()).unwrap();
    let instance = linked.world.until_state("shop", "connected").await;
    assert_eq!(instance["phone"], "573001112233", "{instance}");
    assert!(instance["jid"].as_str().unwrap().starts_with("573001112233:"), "{instance}");
    let again = linked.world.get("/instances/shop/qr").await;
    assert_eq!(again.status, 400, "{again:?}");
    assert_eq!(linked.world.get("/instances/shop/connect").await.body["status"], "connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_sends_qr_codes_and_statuses() {
    let linked = Linked::new().await;
    linked.world.post("/instances", json!({ "instance_id": "shop" })).await;
    let mut reader = socket(&linked.world, "/instances/shop/ws").await;
    let asked = linked.world.post("/instances/shop/connect", json!({})).await;
    assert!(asked.status.is_success(), "{asked:?}");
    let mut next = async |kind: &str| {
        loop {
            let mut frame = frame(&mut reader).await.unwrap();
            if frame["type"] == kind {
                return frame["payload"].take();
            }
        }
    };
    let shown = next("qr").await;
    linked.web.phone("573001112233").scan(shown["qr"].as_str().unwrap()).unwrap();
    loop {
        let status = next("status").await;
        assert_eq!(status["instance_id"], "shop");
        if status["status"] == "connected" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairing_code_links_the_instance() {
    let linked = Linked::new().await;
    linked.world.post("/instances", json!({ "instance_id": "shop" })).await;
    let asked = linked.world.post("/instances/shop/pair-code", json!({ "phone": "573001112233" })).await;
    assert_eq!(asked.status, 200, "{asked:?}");
    let phone = linked.web.phone("573001112233");
    soon("the pairing code to be accepted", phone.enter_pairing_code(asked.body["code"].as_str().unwrap()))
        .await
        .unwrap();
    linked.world.until_state("shop", "connected").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_and_deletion_unlink_the_device() {
    let linked = Linked::new().await;
    let phone = linked.pair("shop", "573001112233").await;
    assert_eq!(phone.devices().len(), 1);
    let away = linked.world.post("/instances/shop/disconnect", json!({})).await;
    assert_eq!((away.status.as_u16(), phone.devices().len()), (200, 1), "{away:?}");
    linked.world.post("/instances/shop/connect", json!({})).await;
    linked.world.until_state("shop", "connected").await;

    let out = linked.world.post("/instances/shop/logout", json!({})).await;
    assert_eq!(out.status, 200, "{out:?}");
    soon("the device to be unlinked", linked.web.wait_until(|_| phone.devices().is_empty())).await;

    // The instance can be linked again, also to another phone.
    linked.web.phone("573009998877").scan(&linked.code("shop").await).unwrap();
    let instance = linked.world.until_state("shop", "connected").await;
    assert_eq!(instance["phone"], "573009998877", "{instance}");

    let phone = linked.web.phone("573009998877");
    let gone = Answer::of(linked.world.request(Method::DELETE, "/instances/shop")).await;
    assert_eq!(gone.status, 200, "{gone:?}");
    soon("the device to be unlinked", linked.web.wait_until(|_| phone.devices().is_empty())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_survives_an_unlink_by_the_phone() {
    let linked = Linked::new().await;
    let phone = linked.pair("shop", "573001112233").await;
    let device = phone.devices()[0];
    phone.unlink(device).unwrap();
    let instance = linked.world.until_state("shop", "logged_out").await;
    assert!(instance["reason"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{instance}");
    let queued = linked
        .world
        .queue("/instances/shop/messages/text", json!({ "phone": "573004445566", "message": "Hola" }))
        .await;
    assert_eq!(queued.status, 202, "{queued:?}");

    // After the next pairing, the instance sends its queue.
    let friend = linked.web.phone("573004445566");
    let mut seen = friend.watch();
    phone.scan(&linked.code("shop").await).unwrap();
    linked.world.until_state("shop", "connected").await;
    assert_eq!(soon("the queued message", seen.message()).await.text(), Some("Hola"));
    linked.world.until_status(&queued.id(), &["sent", "delivered"]).await;
}
