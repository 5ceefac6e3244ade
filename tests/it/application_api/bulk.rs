//! Bulk and broadcast routes of the application API. Each request creates a job; the answer waits for it or not.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_fits, fits, sections, until_task, with};
use crate::support::{Answer, World, eventually};

const ANA: &str = "573123456789";
const LUZ: &str = "573187654321";

/// Every bulk route with a request, the message of the direct and of the queued answer, and the pointer to the text that
/// the first recipient receives.
fn requests() -> Vec<(&'static str, Value, &'static str, &'static str, &'static str)> {
    let recipients = json!([{ "phone": ANA, "body_text": "uno" }, { "phone": LUZ, "body_text": "dos" }]);
    let templates = json!([
        { "phone": ANA, "template_name": "hello_world", "parameters": ["Ana"] },
        { "phone": LUZ, "template_name": "hello_world", "language": "en_US" },
    ]);
    vec![
        (
            "send-bulk",
            json!({ "recipients": [{ "phone": ANA, "message": "uno" }, { "phone": LUZ, "message": "dos" }] }),
            "Envío masivo completado",
            "Envío masivo enviado a cola",
            "/text/body",
        ),
        (
            "send-bulk-list",
            json!({ "header_text": "h", "footer_text": "f", "button_text": "Ver", "sections": sections(), "recipients": recipients }),
            "Envío masivo de listas completado",
            "Envío masivo de listas enviado a cola",
            "/interactive/body/text",
        ),
        (
            "send-bulk-interactive",
            json!({ "recipients": [
                { "phone": ANA, "body_text": "uno", "header_type": "text", "header_content": "Hola Ana",
                  "button_text": "Ver", "button_url": "https://mi-tienda.com/1" },
                { "phone": LUZ, "body_text": "dos" },
            ]}),
            "Envío masivo interactivo completado",
            "Envío masivo interactivo enviado a cola",
            "/interactive/body/text",
        ),
        (
            "send-bulk-button",
            json!({ "recipients": recipients, "buttons": [{ "id": "si", "title": "Sí" }] }),
            "Envío masivo de botones completado",
            "Envío masivo de botones enviado a cola",
            "/interactive/body/text",
        ),
        (
            "send-bulk-template",
            json!({ "recipients": templates }),
            "Envío masivo de plantillas completado",
            "Envío masivo de plantillas enviado a cola",
            "/template/components/0/parameters/0/text",
        ),
        (
            "send-broadcast-interactive",
            json!({ "phones": [ANA, LUZ], "body_text": "uno", "header_type": "text", "header_content": "Aviso" }),
            "Mensaje broadcast procesado",
            "Mensaje broadcast enviado a cola",
            "/interactive/body/text",
        ),
        (
            "send-broadcast-template",
            json!({ "phones": [ANA, 573_187_654_321u64], "template_name": "hello_world", "parameters": ["uno"] }),
            "Broadcast de plantilla procesado",
            "Broadcast de plantilla enviado a cola",
            "/template/components/0/parameters/0/text",
        ),
        (
            "send-personalized-broadcast",
            json!({ "recipients": recipients, "button_url": "https://mi-tienda.com" }),
            "Broadcast personalizado procesado",
            "Broadcast personalizado enviado a cola",
            "/interactive/body/text",
        ),
    ]
}

fn result(total: u64) -> Value {
    json!({ "total": total, "successful": total, "sent": total, "failed": 0, "errors": [] })
}

/// Bodies of the messages that a recipient received, oldest first.
async fn bodies_to(world: &World, phone: &str) -> Vec<Value> {
    let arrived = world.arrived().await.into_iter();
    arrived.filter(|message| message["to"] == phone).map(|message| message["body"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_bulk_route_sends_to_all_recipients() {
    let world = World::new().await;
    for (n, (route, request, sent, queued, text)) in requests().into_iter().enumerate() {
        let direct = with(request.clone(), &json!({ "use_queue": false }));
        let answer = world.post(&format!("/api/{route}"), direct).await;
        let expected = json!({
            "success": true, "message": sent, "result": result(2), "sent_count": 2, "task_id": "<uuid>",
        });
        assert_fits(&answer, 200, &expected);
        let first = bodies_to(&world, ANA).await;
        let said = first.last().unwrap().pointer(text).unwrap_or(&Value::Null);
        assert!(said == "uno" || said == "Ana", "{route}: {said}");
        assert_eq!(bodies_to(&world, LUZ).await.len(), 2 * n + 1, "{route}");

        let answer = world.post(&format!("/api/{route}"), with(request, &json!({ "use_queue": true }))).await;
        assert_fits(&answer, 200, &json!({ "success": true, "message": queued, "task_id": "<uuid>" }));
        let task = answer.body["task_id"].as_str().unwrap();
        let done = until_task(&world, task, "SUCCESS").await;
        let expected = json!({
            "task_id": task, "status": "SUCCESS", "result": result(2), "created_at": "<time>", "completed_at": "<time>",
        });
        assert!(fits(&expected, &done), "{done}");
        let alias = world.get(&format!("/api/messages/task-status/{task}")).await;
        assert_eq!(alias.body["result"], done["result"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn use_queue_default_depends_on_prefix_and_route() {
    let world = World::new().await;
    for (route, request, sent, queued, _) in requests() {
        let is_broadcast = route.contains("broadcast");
        let answer = world.post(&format!("/api/{route}"), request.clone()).await;
        assert_eq!(answer.body["message"], queued, "{route}");
        let answer = world.post(&format!("/api/messages/{route}"), request).await;
        assert_eq!(answer.body["message"], if is_broadcast { sent } else { queued }, "{route}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn failed_recipients_are_reported_and_others_are_sent() {
    let world = World::new().await;
    let fail_always = json!({ "match": { "to": LUZ }, "action": { "error": { "code": 131_026 } } });
    let fail_once = json!({ "match": { "to": ANA }, "action": { "error": { "code": 131_016 } }, "times": 1 });
    world.faults(json!([fail_always, fail_once])).await;
    let body = json!({ "phones": [LUZ, "12", ANA], "body_text": "hola", "use_queue": false });
    let answer = world.post("/api/send-broadcast-interactive", body.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let result = &answer.body["result"];
    assert_eq!((&answer.body["success"], &result["total"]), (&json!(true), &json!(3)));
    assert_eq!((&result["successful"], &result["failed"]), (&json!(1), &json!(2)));
    let errors: Vec<_> = result["errors"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    assert!(
        errors[0].starts_with(&format!("Error para {LUZ}: ")) && errors[0].contains("131026"),
        "{errors:?}"
    );
    assert!(errors[1].starts_with("Error para 12: "), "{errors:?}");
    assert_eq!(bodies_to(&world, ANA).await.len(), 2, "a transient failure was not retried");

    let none = json!({ "phones": [LUZ], "body_text": "hola", "use_queue": true });
    let task = world.post("/api/send-broadcast-interactive", none).await.body["task_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let failed = until_task(&world, &task, "FAILURE").await;
    assert_eq!((&failed["result"]["sent"], &failed["result"]["failed"]), (&json!(0), &json!(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn header_image_is_uploaded_once() {
    let world = World::new().await;
    let picture =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let phones: Vec<_> = (0..50).map(|n| format!("5731000000{n:02}")).collect();
    let body = json!({
        "phones": phones, "body_text": "mira", "header_type": "image",
        "header_content": format!("data:image/png;base64,{picture}"), "use_queue": false,
    });
    let answer = world.post("/api/send-broadcast-interactive", body).await;
    assert_eq!(answer.body["sent_count"], 50, "{answer:?}");
    let stats = world.control(Method::GET, "/_sandbox/stats", None).await.body;
    assert!(stats.to_string().contains("upload"), "{stats}");
    let uploads = find(&stats, "uploads").or_else(|| find(&stats, "media_uploads"));
    assert_eq!(uploads, Some(1), "{stats}");
    let ids: std::collections::HashSet<_> = world
        .arrived()
        .await
        .iter()
        .map(|message| message["body"]["interactive"]["header"]["image"]["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1);
}

/// The number under `name` at any depth of nested objects.
fn find(value: &Value, name: &str) -> Option<u64> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .and_then(Value::as_u64)
            .or_else(|| fields.values().find_map(|inner| find(inner, name))),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn recipient_overrides_the_common_button_url() {
    let world = World::new().await;
    let recipients = json!([
        { "phone": ANA, "body_text": "uno", "button_url": "https://mi-tienda.com/ana" },
        { "phone": LUZ, "body_text": "dos" },
    ]);
    let body =
        json!({ "recipients": recipients, "button_url": "https://mi-tienda.com/todos", "use_queue": false });
    world.post("/api/send-personalized-broadcast", body).await;
    let url = |message: &Value| message["interactive"]["action"]["parameters"]["url"].clone();
    assert_eq!(url(&bodies_to(&world, ANA).await[0]), "https://mi-tienda.com/ana");
    assert_eq!(url(&bodies_to(&world, LUZ).await[0]), "https://mi-tienda.com/todos");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn missing_fields_are_refused_in_the_documented_order() {
    let world = World::new().await;
    let nothing = "Se requiere un JSON con los datos del mensaje";
    let recipients = "Se requiere el campo 'recipients' con un array de destinatarios";
    let missing = "Falta parámetro: recipients es requerido";
    let phones = "Se requiere el campo 'phones' con un array de números telefónicos";
    let ok = json!([{ "phone": ANA, "body_text": "x" }]);
    for (route, body, text) in [
        ("send-bulk", json!({}), missing),
        ("send-bulk", json!({ "recipients": [] }), missing),
        (
            "send-bulk",
            json!({ "recipients": ["573123456789"] }),
            "Cada recipient debe tener 'phone' y 'message'",
        ),
        (
            "send-bulk",
            json!({ "recipients": [{ "phone": ANA }] }),
            "Cada recipient debe tener 'phone' y 'message'",
        ),
        ("send-bulk-interactive", json!({}), missing),
        (
            "send-bulk-interactive",
            json!({ "recipients": [{ "phone": ANA }] }),
            "Cada recipient debe tener 'phone' y 'body_text'",
        ),
        (
            "send-bulk-template",
            json!({ "recipients": [{ "phone": ANA }] }),
            "Cada recipient debe tener 'phone' y 'template_name'",
        ),
        ("send-bulk-list", json!({}), nothing),
        ("send-bulk-list", json!({ "header_text": "h" }), recipients),
        ("send-bulk-list", json!({ "recipients": ["x"] }), "Cada recipient debe ser un objeto"),
        (
            "send-bulk-list",
            json!({ "recipients": [{ "body_text": "x" }] }),
            "Cada recipient debe tener un 'phone'",
        ),
        (
            "send-bulk-list",
            json!({ "recipients": [{ "phone": ANA }] }),
            "Cada recipient debe tener un 'body_text'",
        ),
        ("send-bulk-list", json!({ "recipients": ok }), "Se requiere el campo 'header_text'"),
        (
            "send-bulk-list",
            json!({ "recipients": ok, "header_text": "h", "footer_text": "f", "button_text": "b" }),
            "Se requiere el campo 'sections' como array",
        ),
        ("send-bulk-button", json!({}), nothing),
        (
            "send-bulk-button",
            json!({ "recipients": ok }),
            "Se requiere al menos un botón en el campo 'buttons'",
        ),
        ("send-personalized-broadcast", json!({}), nothing),
        ("send-personalized-broadcast", json!({ "body_text": "x" }), recipients),
        ("send-broadcast-interactive", json!({}), nothing),
        ("send-broadcast-interactive", json!({ "body_text": "x" }), phones),
        ("send-broadcast-interactive", json!({ "phones": [ANA] }), "Se requiere el campo 'body_text'"),
        ("send-broadcast-template", json!({ "phones": [ANA] }), "Se requiere el campo 'template_name'"),
    ] {
        let answer = world.post(&format!("/api/{route}"), body.clone()).await;
        assert_fits(&answer, 400, &json!({ "error": text }));
    }
    let long = json!([{ "phone": LUZ, "body_text": "x" }, { "phone": ANA, "body_text": "x".repeat(1025) }]);
    let refused = world.post("/api/send-personalized-broadcast", json!({ "recipients": long })).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["field"]),
        (400, &json!("recipients[1].body_text")),
        "{refused:?}"
    );
    let long = json!({ "phones": [ANA], "body_text": "x", "footer_text": "x".repeat(61) });
    let refused = world.post("/api/send-broadcast-interactive", long).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["field"]),
        (400, &json!("footer_text")),
        "{refused:?}"
    );
    assert!(world.arrived().await.is_empty(), "a refused request sent a message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn suppressed_recipients_receive_personal_messages_but_no_broadcasts() {
    let world = World::new().await;
    world.post("/suppressions", json!({ "phone": LUZ })).await;
    let body = json!({ "phones": [ANA, LUZ], "body_text": "oferta", "use_queue": false });
    let answer = world.post("/api/send-broadcast-interactive", body).await;
    assert_eq!((&answer.body["sent_count"], &answer.body["result"]["failed"]), (&json!(1), &json!(1)));
    assert_eq!(
        answer.body["result"]["errors"],
        json!([format!("Error para {LUZ}: está en la lista de supresión")])
    );
    let own = json!({ "recipients": [{ "phone": LUZ, "message": "tu pedido" }], "use_queue": false });
    assert_eq!(world.post("/api/send-bulk", own).await.body["sent_count"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn broadcast_continues_after_a_restart_without_duplicates() {
    let mut world = World::with(|settings| settings.bulk.window = 50).await;
    world.faults(json!([{ "match": {}, "action": { "delay_ms": 5 } }])).await;
    let phones: Vec<_> = (0..600).map(|n| format!("5731000{n:05}")).collect();
    let body = json!({ "phones": phones, "body_text": "hola" });
    let request = |world: &World| {
        let request = world.request(Method::POST, "/api/send-broadcast-interactive");
        request.header("Idempotency-Key", "once").json(&body)
    };
    let task = Answer::of(request(&world)).await.body["task_id"].as_str().unwrap().to_owned();
    eventually("the first 100 messages to arrive", async || {
        let count = world.arrived().await.len();
        if count >= 100 { Ok(()) } else { Err(count) }
    })
    .await;
    let running = world.get(&format!("/api/task-status/{task}")).await;
    assert_eq!((&running.body["status"], &running.body["result"]["total"]), (&json!("STARTED"), &json!(600)));
    world.restart_node().await;
    let again = Answer::of(request(&world)).await;
    assert_eq!(again.body["task_id"], json!(task), "the repeated request created another task");
    let done = until_task(&world, &task, "SUCCESS").await;
    assert_eq!(done["result"]["sent"], 600);
    assert_eq!(world.arrived().await.len(), 600);
}
