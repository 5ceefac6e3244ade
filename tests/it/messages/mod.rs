//! Synchronous and queued sends, and the view of a message.

mod failures;
mod idempotency;
mod media;
mod stray_answers;

use serde_json::json;

use crate::support::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn synchronous_send_answers_with_the_provider_id() {
    let world = World::new().await;
    let sent = world
        .post("/instances/shop/messages/text", json!({ "phone": "573001234567", "message": "Hola" }))
        .await;
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!(sent.body["success"], true);
    assert_eq!(sent.body["status"], "sent");
    assert!(sent.id().starts_with("wamid."), "{sent:?}");
    let read = world.until_status(&sent.id(), &["read"]).await;
    let steps: Vec<_> =
        read["history"].as_array().unwrap().iter().map(|step| step["status"].clone()).collect();
    assert_eq!(steps, ["queued", "sending", "sent", "delivered", "read"]);
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn queued_message_is_found_by_each_of_its_ids() {
    let world = World::new().await;
    let queued =
        world.queue("/messages/text", json!({ "phone": "+57 300 123 4567", "message": "Hola" })).await;
    assert_eq!(queued.status, 202, "{queued:?}");
    assert_eq!(queued.body["status"], "queued");
    let read = world.until_status(&queued.id(), &["read"]).await;
    for name in ["correlation_id", "provider_message_id"] {
        let found = world.until_status(read[name].as_str().unwrap(), &["read"]).await;
        assert_eq!(found["message_id"], queued.body["message_id"], "{name}");
    }
    let arrived = world.arrived().await;
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0]["body"]["to"], "+573001234567");
}
