//! Call sequences of the known clients of the documented service. The clients treat every status from 400 on as a
//! failure, and guess missing counts.

use reqwest::Method;
use serde_json::{Value, json};

use super::{buttons, list, sections, with};
use crate::support::{Answer, World};

const USER: &str = "573103391854";
const OTHER: &str = "573987654321";

async fn call(world: &World, method: Method, path: &str, body: Value) -> Value {
    let answer = Answer::of(world.request(method, path).json(&body)).await;
    assert!(answer.status.as_u16() < 400, "{path}: {answer:?}");
    answer.body
}

/// The client of an alert system: it stores its contacts in the address book, then sends messages of all kinds.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn alert_client_can_make_all_its_calls() {
    let world = World::new().await;
    assert!(world.get("/health").await.status.is_success());
    let person = json!({ "phone": USER, "name": "Juan", "data": { "id": "1" }, "empresa_id": "7" });
    call(&world, Method::POST, "/api/numbers", person).await;
    let more = json!({ "phone": USER, "data": { "empresa_id": "7" }, "empresa_id": "7" });
    call(&world, Method::PATCH, "/api/numbers/update", more).await;
    let known = world.get(&format!("/api/numbers/{USER}")).await.body;
    assert_eq!((&known["success"], &known["number"]["data"]["empresa_id"]), (&json!(true), &json!("7")));
    assert_eq!(world.get(&format!("/api/numbers/{OTHER}")).await.status, 404);

    let each = json!([{ "phone": USER, "body_text": "Alerta" }, { "phone": OTHER, "body_text": "Alerta" }]);
    let both = json!([USER, OTHER]);
    let texts = json!([{ "phone": USER, "message": "Hola" }, { "phone": OTHER, "message": "Hola" }]);
    let titles = json!({ "header_text": "Alerta", "footer_text": "RESCUE", "button_text": "Ver" });
    let singles = [
        ("send-location-request", json!({ "phone": USER, "body_text": "¿Dónde está?" })),
        ("send-message", json!({ "phone": USER, "message": "Hola", "use_queue": false })),
        ("send-list", list()),
        ("send-button", buttons()),
    ];
    for (route, body) in singles {
        let answer = call(&world, Method::POST, &format!("/api/{route}"), body).await;
        assert_eq!(answer["success"], true, "{route}");
    }
    let lists = with(titles, &json!({ "sections": sections(), "recipients": each }));
    let many = [
        ("send-bulk", json!({ "recipients": texts })),
        (
            "send-broadcast-interactive",
            json!({ "phones": both, "body_text": "Alerta", "button_text": "Mapa" }),
        ),
        (
            "send-personalized-broadcast",
            json!({ "recipients": each, "button_url": "https://maps.example.com" }),
        ),
        ("send-bulk-list", lists),
        ("send-bulk-button", json!({ "recipients": each, "buttons": [{ "id": "si", "title": "Sí" }] })),
        (
            "send-bulk-template",
            json!({ "recipients": [
                { "phone": USER, "template_name": "alerta", "language": "es", "parameters": ["Juan"] },
                { "phone": OTHER, "template_name": "alerta", "language": "es", "parameters": ["Luz"] },
            ]}),
        ),
    ];
    let before = world.arrived().await.len();
    for (n, (route, body)) in many.into_iter().enumerate() {
        let direct = with(body, &json!({ "use_queue": false }));
        let answer = call(&world, Method::POST, &format!("/api/{route}"), direct).await;
        assert_eq!((&answer["success"], &answer["sent_count"]), (&json!(true), &json!(2)), "{route}");
        assert_eq!(world.arrived().await.len(), before + 2 * (n + 1), "{route}");
    }
}

/// The client of a back office: it broadcasts a template, then deletes a contact.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn back_office_client_can_make_all_its_calls() {
    let world = World::new().await;
    call(&world, Method::POST, "/api/numbers", json!({ "phone": USER, "name": "Juan" })).await;
    let body = json!({
        "phones": [USER, OTHER], "template_name": "aviso", "language": "es", "parameters": ["Simulacro"],
        "use_queue": false,
    });
    let answer = call(&world, Method::POST, "/api/send-broadcast-template", body).await;
    assert_eq!((&answer["result"]["successful"], &answer["error"]), (&json!(2), &Value::Null));
    let said = world.arrived().await;
    let text = said[0]["body"].pointer("/template/components/0/parameters/0/text");
    assert_eq!(text, Some(&json!("Simulacro")));
    let left = Answer::of(world.request(Method::DELETE, &format!("/api/numbers/{USER}"))).await;
    assert_eq!(left.status, 200, "{left:?}");
}
