//! Single messages of the application API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::{PHONE, assert_fits, buttons, data, list, singles, with};
use crate::support::{Answer, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_message_route_works_under_both_prefixes() {
    let world = World::new().await;
    for prefix in ["/api", "/api/messages"] {
        for (route, request, sent, _, wire) in singles() {
            let before = world.arrived().await.len();
            let answer = world.post(&format!("{prefix}/{route}"), request).await;
            assert_fits(&answer, 200, &json!({ "success": true, "message": sent, "data": data(PHONE) }));
            let arrived = world.arrived().await;
            let last = arrived.last().unwrap();
            assert_eq!(
                (arrived.len(), &last["wamid"]),
                (before + 1, &answer.body["data"]["messages"][0]["id"])
            );
            for (key, value) in wire.as_object().unwrap() {
                assert_eq!(&last["body"][key], value, "{route}");
            }
            assert_eq!(last["body"]["to"], "+573123456789");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn media_of_a_header_or_message_is_uploaded_once() {
    let world = World::new().await;
    let mut picture = b"\x89PNG\r\n\x1a\n".to_vec();
    picture.resize(400_000, 7);
    let encoded = STANDARD.encode(&picture);
    let header = json!({ "phone": PHONE, "body_text": "x", "header_type": "image" });
    let media = json!({ "phone": PHONE, "type": "image", "caption": "" });
    for (route, body) in [
        ("send-interactive", with(header.clone(), &json!({ "header_content": encoded }))),
        (
            "send-button",
            with(
                with(buttons(), &header),
                &json!({ "header_content": format!("data:image/png;base64,{encoded}") }),
            ),
        ),
        ("send-media", with(media.clone(), &json!({ "base64": encoded }))),
    ] {
        let answer = world.post(&format!("/api/{route}"), body).await;
        assert_eq!(answer.status, 200, "{route}: {answer:?}");
    }
    let link = json!({ "header_content": "http://127.0.0.1:9/a.png" });
    world.post("/api/send-interactive", with(header.clone(), &link)).await;
    let arrived = world.arrived().await;
    let id = |value: &Value| value["image"]["id"].as_str().map(str::to_owned);
    let first = id(&arrived[0]["body"]["interactive"]["header"]);
    assert!(first.is_some(), "{arrived:?}");
    // The node uploads the same file once.
    assert_eq!(id(&arrived[1]["body"]["interactive"]["header"]), first);
    assert_eq!(id(&arrived[2]["body"]), first);
    assert_eq!(arrived[3]["body"]["interactive"]["header"]["image"]["link"], link["header_content"]);
    let action = &arrived[0]["body"]["interactive"]["action"]["parameters"];
    assert_eq!(action, &json!({ "display_text": "Ver más", "url": "https://example.com" }));

    // The node does not send a message without its header when the upload fails.
    world.faults(json!([{ "match": { "kind": "media" }, "action": { "error": { "code": 131_053 } } }])).await;
    picture.push(1);
    let other = json!({ "header_content": STANDARD.encode(&picture) });
    let failed = world.post("/api/send-interactive", with(header, &other)).await;
    // WhatsApp may refuse before it has read the whole file, which the node sees as a connection error. The message is
    // not sent in either case.
    assert!([400, 503].contains(&failed.status.as_u16()) && failed.body["success"] == false, "{failed:?}");
    assert_eq!(world.arrived().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reply_quotes_the_message_of_its_context() {
    let world = World::new().await;
    let first = world.post("/api/send-message", json!({ "phone": PHONE, "message": "x" })).await;
    let wamid = first.body["data"]["messages"][0]["id"].clone();
    let quoting = json!({ "phone": PHONE, "message": "y", "context_message_id": wamid });
    assert_eq!(world.post("/api/send-message", quoting).await.status, 200);
    let media = json!({ "phone": PHONE, "type": "image", "media_url": "http://127.0.0.1:9/a.png",
        "context_message_id": wamid });
    assert_eq!(world.post("/api/send-media", media).await.status, 200);
    let arrived = world.arrived().await;
    assert!(arrived[0]["body"].get("context").is_none());
    assert!(
        arrived[1..].iter().all(|message| message["body"]["context"]["message_id"] == wamid),
        "{arrived:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn request_selects_its_instance() {
    let world = World::empty(|settings| settings.http.default_instance = None).await;
    let body = json!({ "phone": PHONE, "message": "x" });
    let without_instance = world.post("/api/send-message", body.clone()).await;
    assert_eq!(
        (without_instance.status.as_u16(), &without_instance.body["error"]),
        (503, &json!("Servicio no disponible")),
        "{without_instance:?}"
    );
    assert_eq!(world.get("/api/status").await.body["services"]["whatsapp_service"], false);
    world.create("shop").await;
    world.create("office").await;
    let field =
        world.post("/api/send-message", with(body.clone(), &json!({ "instance_id": "office" }))).await;
    assert_eq!(field.status, 200, "{field:?}");
    let header = world.request(Method::POST, "/api/send-message").header("X-Instance-Id", "shop");
    assert_eq!(Answer::of(header.json(&body)).await.status, 200);
    let arrived = world.arrived().await;
    assert_ne!(arrived[0]["phone_number_id"], arrived[1]["phone_number_id"]);
    let unknown =
        world.post("/api/send-message", with(body.clone(), &json!({ "instance_id": "unknown" }))).await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["error"]), (404, &json!("Instancia no encontrada")));
    world.post("/instances/shop/disconnect", json!({})).await;
    let disconnected = world.post("/api/send-message", with(body, &json!({ "instance_id": "shop" }))).await;
    assert_eq!(
        (disconnected.status.as_u16(), &disconnected.body["error"]),
        (503, &json!("Servicio no disponible")),
        "{disconnected:?}"
    );
    assert_eq!(disconnected.body["success"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idempotency_key_prevents_a_second_send() {
    let world = World::new().await;
    let send = async |text: &str| {
        let request = world.request(Method::POST, "/api/send-message").header("Idempotency-Key", "order-7");
        Answer::of(request.json(&json!({ "phone": PHONE, "message": text }))).await
    };
    let first = send("x").await;
    assert_eq!(send("x").await.body, first.body);
    let other = send("y").await;
    assert_eq!((other.status.as_u16(), &other.body["error"]), (409, &json!("Conflicto")), "{other:?}");
    assert_eq!(world.arrived().await.len(), 1);
}

/// Calls of the documented service's own clients, and the fields that they read.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_have_the_fields_that_known_clients_read() {
    let world = World::new().await;
    assert_eq!(world.get("/health").await.status, 200);
    let location = json!({ "phone": PHONE, "body_text": "Comparta su ubicación" });
    let list = with(list(), &json!({ "phone": PHONE }));
    let media =
        json!({ "phone": PHONE, "type": "image", "media_url": "http://127.0.0.1:9/a.jpg", "caption": "" });
    for (route, body) in [
        ("send-location-request", location),
        ("send-message", json!({ "phone": PHONE, "message": "Bienvenido", "use_queue": false })),
        ("send-list", list),
        ("send-media", media),
    ] {
        let answer = world.post(&format!("/api/{route}"), body).await;
        assert!(answer.status.is_success() && answer.body["success"] == true, "{route}: {answer:?}");
        assert!(answer.body["data"]["messages"][0]["id"].is_string());
    }
    // The message is found by the id that the client received.
    let sent = world.post("/api/send-message", json!({ "phone": "+57 312 345-6789", "message": "x" })).await;
    assert_fits(
        &sent,
        200,
        &json!({ "success": true, "message": "Mensaje enviado exitosamente", "data": data("+57 312 345-6789") }),
    );
    world.until_status(sent.body["data"]["messages"][0]["id"].as_str().unwrap(), &["read"]).await;
}
