//! Linked-device routes on an instance of the Cloud API: refusals, and the operations that both providers have.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cloud_instance_refuses_pairing_routes_with_both_provider_names() {
    let world = World::new().await;
    let empty = json!({});
    for (method, path, body) in [
        (Method::GET, "/instances/shop/qr", &empty),
        (Method::POST, "/instances/shop/pair-code", &json!({ "phone": "573001234567" })),
        (Method::POST, "/instances/shop/logout", &empty),
    ] {
        let answer = crate::support::Answer::of(world.request(method, path).json(body)).await;
        assert_eq!(answer.status, 501, "{path}: {answer:?}");
        let details = answer.body["error"]["details"].as_str().unwrap();
        assert!(details.contains("cloud_api") && details.contains("linked_device"), "{details}");
    }
    let progress = world.get("/instances/shop/connect").await;
    assert_eq!((progress.status.as_u16(), &progress.body["status"]), (200, &json!("connected")));
    assert_eq!(progress.body["code"], Value::Null);
    assert_eq!(world.get("/instances/unknown/qr").await.status, 404);
    let wrong = world.post("/instances/shop/pair-code", json!({ "phone": "ana" })).await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["error"]["field"]), (400, &json!("phone")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cloud_instance_refuses_unsupported_messages() {
    let world = World::new().await;
    let to = "573001234567";
    for (path, body) in [
        ("text-with-typing", json!({ "phone": to, "message": "Hola", "typing_duration": 0 })),
        ("poll", json!({ "phone": to, "question": "¿Cuándo?", "options": ["Hoy", "Mañana"] })),
        ("edit", json!({ "phone": to, "message_id": "wamid.x", "new_text": "Hola, Ana" })),
        ("revoke", json!({ "phone": to, "message_id": "wamid.x" })),
        ("text", json!({ "phone": to, "message": "@573007654321", "mentions": ["573007654321"] })),
    ] {
        for answer in [
            world.post(&format!("/instances/shop/messages/{path}"), body.clone()).await,
            world.queue(&format!("/messages/{path}"), body.clone()).await,
        ] {
            assert_eq!(answer.status, 501, "{path}: {answer:?}");
            let details = answer.body["error"]["details"].as_str().unwrap();
            assert!(details.contains("cloud_api cannot send"), "{details}");
        }
    }
    for (path, body, field) in [
        (
            "text-with-typing",
            json!({ "phone": to, "message": "a", "typing_duration": 60000 }),
            "typing_duration",
        ),
        ("edit", json!({ "phone": to, "message_id": "wamid.x" }), "new_text"),
        ("revoke", json!({ "phone": to }), "message_id"),
        ("text", json!({ "phone": to, "message": "a", "mentions": ["ana"] }), "mentions[0]"),
    ] {
        let answer = world.post(&format!("/instances/shop/messages/{path}"), body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["field"]), (400, &json!(field)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn received_message_can_be_marked_as_read() {
    let world = World::new().await;
    let mark = json!({
        "message_id": "wamid.received", "phone": "573001234567", "typing": true, "timestamp": 1_766_851_199,
        "chat_jid": "573001234567@s.whatsapp.net", "sender_jid": "573001234567@s.whatsapp.net",
    });
    let marked = world.post("/instances/shop/messages/mark-read", mark).await;
    assert_eq!(marked.status, 200, "{marked:?}");
    assert_eq!(marked.body, json!({ "success": true, "message_id": "wamid.received", "status": "read" }));
    let wrong = world.post("/messages/mark-read", json!({ "message_id": "" })).await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["error"]["field"]), (400, &json!("message_id")));
}
