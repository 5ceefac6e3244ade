//! Messages that arrive.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::{PHONE, assert_fits, buttons, data, list, singles, with};
use crate::support::{Answer, World};

#[tokio::test]
async fn every_message_is_sent_as_documented_under_both_prefixes() {
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

#[tokio::test]
async fn a_file_in_a_header_or_a_message_arrives_at_whatsapp() {
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
    // The same file is uploaded once.
    assert_eq!(id(&arrived[1]["body"]["interactive"]["header"]), first);
    assert_eq!(id(&arrived[2]["body"]), first);
    assert_eq!(arrived[3]["body"]["interactive"]["header"]["image"]["link"], link["header_content"]);
    let action = &arrived[0]["body"]["interactive"]["action"]["parameters"];
    assert_eq!(action, &json!({ "display_text": "Ver más", "url": "https://example.com" }));

    // A header that cannot be uploaded is never left out.
    world.faults(json!([{ "match": { "kind": "media" }, "action": { "error": { "code": 131_053 } } }])).await;
    picture.push(1);
    let other = json!({ "header_content": STANDARD.encode(&picture) });
    let failed = world.post("/api/send-interactive", with(header, &other)).await;
    // The refusal may come before the file has left; either way nothing was sent, and that is said.
    assert!([400, 503].contains(&failed.status.as_u16()) && failed.body["success"] == false, "{failed:?}");
    assert_eq!(world.arrived().await.len(), 4);
}

#[tokio::test]
async fn an_answer_quotes_what_it_answers() {
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

#[tokio::test]
async fn a_message_goes_to_the_instance_that_it_names() {
    let world = World::empty(|settings| settings.http.default_instance = None).await;
    let body = json!({ "phone": PHONE, "message": "x" });
    let nobody = world.post("/api/send-message", body.clone()).await;
    assert_eq!(
        (nobody.status.as_u16(), &nobody.body["error"]),
        (503, &json!("Servicio no disponible")),
        "{nobody:?}"
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
        world.post("/api/send-message", with(body.clone(), &json!({ "instance_id": "nobody" }))).await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["error"]), (404, &json!("Instancia no encontrada")));
    world.post("/instances/shop/disconnect", json!({})).await;
    let away = world.post("/api/send-message", with(body, &json!({ "instance_id": "shop" }))).await;
    assert_eq!(
        (away.status.as_u16(), &away.body["error"]),
        (503, &json!("Servicio no disponible")),
        "{away:?}"
    );
    assert_eq!(away.body["success"], false);
}

#[tokio::test]
async fn a_repetition_under_the_same_key_sends_nothing() {
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

/// What the documented service's own clients do in a row, and what they read of the answers.
#[tokio::test]
async fn the_known_clients_find_what_they_read() {
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
    // Statuses of what was sent are told under the id that the client has.
    let sent = world.post("/api/send-message", json!({ "phone": "+57 312 345-6789", "message": "x" })).await;
    assert_fits(
        &sent,
        200,
        &json!({ "success": true, "message": "Mensaje enviado exitosamente", "data": data("+57 312 345-6789") }),
    );
    world.until_status(sent.body["data"]["messages"][0]["id"].as_str().unwrap(), &["read"]).await;
}
