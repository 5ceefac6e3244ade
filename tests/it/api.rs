//! `/api`: the surface of the documented Flask service, request by request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use relevo::config::Settings;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, KEY, World, eventually};

const PHONE: &str = "573123456789";

const MISSING_TEXT: &str = "Faltan parámetros: phone y message son requeridos";
const MISSING_BODY: &str = "Faltan parámetros: phone y body_text son requeridos";
const MISSING_TEMPLATE: &str = "Faltan parámetros: phone y template_name son requeridos";

/// Whether `found` is `expected`, in which a text in angle brackets stands for anything of its kind.
fn fits(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected.iter().all(|(key, value)| found.get(key).is_some_and(|other| fits(value, other)))
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(one, other)| fits(one, other))
        }
        (Value::String(kind), Value::String(text)) => match kind.as_str() {
            "<uuid>" => Uuid::parse_str(text).is_ok(),
            "<wamid>" => text.starts_with("wamid."),
            "<time>" => text.len() == "2026-01-31T15:00:00.000Z".len() && text.ends_with('Z'),
            _ => kind == text,
        },
        (expected, found) => expected == found,
    }
}

#[track_caller]
fn assert_fits(answer: &Answer, status: u16, expected: &Value) {
    assert!(
        answer.status == status && fits(expected, &answer.body),
        "expected {status} {expected}, found {answer:?}"
    );
}

fn data(input: &str) -> Value {
    json!({
        "messaging_product": "whatsapp",
        "contacts": [{ "input": input, "wa_id": PHONE }],
        "messages": [{ "id": "<wamid>" }],
    })
}

fn sections() -> Value {
    json!([
        { "title": "Servicios técnicos", "rows": [
            { "id": "soporte_tecnico", "title": "Soporte técnico", "description": "Ayuda con problemas técnicos" },
            { "id": "mantenimiento", "title": "Mantenimiento", "description": "Solicitar mantenimiento preventivo" },
        ]},
        { "title": "Servicios comerciales", "rows": [
            { "id": "ventas", "title": "Ventas", "description": "Información sobre productos" },
            { "id": "facturacion", "title": "Facturación", "description": "Consultas sobre facturas" },
        ]},
    ])
}

fn list() -> Value {
    json!({
        "phone": PHONE,
        "header_text": "Servicios disponibles",
        "body_text": "Selecciona el servicio que necesitas:",
        "footer_text": "ECOES - Atención al cliente",
        "button_text": "Ver servicios",
        "sections": sections(),
    })
}

fn buttons() -> Value {
    json!({ "phone": PHONE, "body_text": "¿Confirma?", "buttons": [{ "id": "si", "title": "Sí" }] })
}

/// Every route for single messages: a request, what is said of it sent and queued, and what reaches WhatsApp.
fn singles() -> Vec<(&'static str, Value, &'static str, &'static str, Value)> {
    vec![
        (
            "send-message",
            json!({ "phone": PHONE, "message": "Hola, este es un mensaje de prueba" }),
            "Mensaje enviado exitosamente",
            "Mensaje enviado a cola",
            json!({ "text": { "body": "Hola, este es un mensaje de prueba", "preview_url": false } }),
        ),
        (
            "send-template",
            json!({ "phone": PHONE, "template_name": "hello_world", "language": "es",
                "parameters": ["Juan", 7] }),
            "Plantilla enviada exitosamente",
            "Plantilla enviada a cola",
            json!({ "template": { "name": "hello_world", "language": { "code": "es" }, "components": [
                { "type": "body", "parameters": [
                    { "type": "text", "text": "Juan" }, { "type": "text", "text": "7" },
                ]},
            ]}}),
        ),
        (
            "send-template-advanced",
            json!({ "phone": PHONE, "template_name": "promo", "parameters": ["unused"], "components": [
                { "type": "header", "parameters": [{ "type": "text", "text": "A" }] },
            ]}),
            "Plantilla avanzada enviada exitosamente",
            "Plantilla avanzada enviada a cola",
            json!({ "template": { "name": "promo", "language": { "code": "es" }, "components": [
                { "type": "header", "parameters": [{ "type": "text", "text": "A" }] },
            ]}}),
        ),
        (
            "send-interactive",
            json!({ "phone": PHONE, "header_type": "text", "header_content": "¡Oferta Especial!",
                "body_text": "Aprovecha nuestra oferta", "button_text": "Ver Oferta",
                "button_url": "https://mi-tienda.com/ofertas", "footer_text": "Válido hasta el 31" }),
            "Mensaje interactivo enviado exitosamente",
            "Mensaje interactivo enviado a cola",
            json!({ "interactive": { "type": "cta_url",
                "header": { "type": "text", "text": "¡Oferta Especial!" },
                "body": { "text": "Aprovecha nuestra oferta" },
                "footer": { "text": "Válido hasta el 31" },
                "action": { "name": "cta_url", "parameters":
                    { "display_text": "Ver Oferta", "url": "https://mi-tienda.com/ofertas" } } } }),
        ),
        (
            "send-list",
            list(),
            "Mensaje de lista enviado exitosamente",
            "Mensaje de lista enviado a cola",
            json!({ "interactive": { "type": "list",
                "header": { "type": "text", "text": "Servicios disponibles" },
                "body": { "text": "Selecciona el servicio que necesitas:" },
                "footer": { "text": "ECOES - Atención al cliente" },
                "action": { "button": "Ver servicios", "sections": sections() } } }),
        ),
        (
            "send-button",
            buttons(),
            "Mensaje con botones enviado exitosamente",
            "Mensaje con botones enviado a cola",
            json!({ "interactive": { "type": "button", "body": { "text": "¿Confirma?" },
                "action": { "buttons": [{ "type": "reply", "reply": { "id": "si", "title": "Sí" } }] } } }),
        ),
        (
            "send-location-request",
            json!({ "phone": PHONE, "body_text": "¿Dónde está?" }),
            "Solicitud de ubicación enviada exitosamente",
            "Solicitud de ubicación enviada a cola",
            json!({ "interactive": { "type": "location_request_message", "body": { "text": "¿Dónde está?" },
                "action": { "name": "send_location" } } }),
        ),
        (
            "send-media",
            json!({ "phone": PHONE, "type": "image", "media_url": "http://127.0.0.1:9/a.png", "caption": "Foto" }),
            "Archivo enviado exitosamente",
            "Archivo enviado a cola",
            json!({ "image": { "link": "http://127.0.0.1:9/a.png", "caption": "Foto" } }),
        ),
        (
            "send-reaction",
            json!({ "phone": PHONE, "message_id": "wamid.HBgMNTczMTIzNDU2Nzg5FQIAERgS", "emoji": "👍" }),
            "Reacción enviada exitosamente",
            "Reacción enviada a cola",
            json!({ "reaction": { "message_id": "wamid.HBgMNTczMTIzNDU2Nzg5FQIAERgS", "emoji": "👍" } }),
        ),
    ]
}

fn with(mut body: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

async fn until_task(world: &World, task: &str, wanted: &str) -> Value {
    let path = format!("/api/task-status/{task}");
    eventually(&format!("{task} to be {wanted}"), async || {
        let answer = world.get(&path).await;
        if answer.body["status"] == wanted { Ok(answer.body) } else { Err(answer) }
    })
    .await
}

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
async fn every_message_can_be_queued_and_asked_for() {
    let world = World::new().await;
    for (n, (route, request, _, queued, _)) in singles().into_iter().enumerate() {
        let flag = [json!(true), json!("true"), json!(1)][n % 3].clone();
        let answer = world.post(&format!("/api/{route}"), with(request, &json!({ "use_queue": flag }))).await;
        assert_fits(&answer, 200, &json!({ "success": true, "message": queued, "task_id": "<uuid>" }));
        let task = answer.body["task_id"].as_str().unwrap();
        let done = until_task(&world, task, "SUCCESS").await;
        let expected = json!({
            "task_id": task,
            "status": "SUCCESS",
            "result": { "success": true, "data": data(PHONE),
                "total": 1, "successful": 1, "sent": 1, "failed": 0, "errors": [] },
            "created_at": "<time>",
            "completed_at": "<time>",
        });
        assert!(fits(&expected, &done), "{done}");
        let alias = world.get(&format!("/api/messages/task-status/{task}")).await;
        assert_eq!((alias.status.as_u16(), &alias.body["result"]), (200, &done["result"]));
    }
    for flag in [json!(false), json!("false"), json!(0), json!(null)] {
        let body = json!({ "phone": PHONE, "message": "x", "use_queue": flag });
        assert!(world.post("/api/send-message", body).await.body["data"].is_object());
    }
    for unknown in ["12345678-1234-1234-1234-123456789abc", "019ab2f0-5f6b-8000-8000-0040000a1b2c", "x"] {
        let answer = world.get(&format!("/api/task-status/{unknown}")).await;
        assert_fits(&answer, 404, &json!({ "error": "Tarea no encontrada" }));
    }
}

#[tokio::test]
async fn a_task_that_failed_says_so_and_why() {
    let mut world = World::with(|settings| settings.retry.transactional.max_attempts = 2).await;
    let fault =
        |to: &str, code: u32| json!({ "match": { "to": to }, "action": { "error": { "code": code } } });
    world.faults(json!([fault("573000000001", 131_026), fault("573000000002", 131_016)])).await;
    let mut tasks = Vec::new();
    for (to, code) in [("573000000001", 131_026), ("573000000002", 131_016)] {
        let body = json!({ "phone": to, "message": "x", "use_queue": true });
        let queued = world.post("/api/send-message", body).await;
        tasks.push((to, code, queued.body["task_id"].as_str().unwrap().to_owned()));
    }
    let mut ended = Vec::new();
    for (to, code, task) in &tasks {
        let failed = until_task(&world, task, "FAILURE").await;
        let result = &failed["result"];
        assert_eq!(
            (&result["success"], &result["total"], &result["failed"]),
            (&json!(false), &json!(1), &json!(1))
        );
        assert_eq!((&result["successful"], &result["sent"]), (&json!(0), &json!(0)));
        let graph: Value = serde_json::from_str(result["error"].as_str().unwrap()).unwrap();
        assert_eq!(graph["error"]["code"], *code);
        let text = result["errors"][0].as_str().unwrap();
        assert!(
            text.starts_with(&format!("Error para {to}: ")) && text.contains(&code.to_string()),
            "{text}"
        );
        assert!(failed["completed_at"].is_string() && failed["created_at"].is_string(), "{failed}");
        ended.push(failed);
    }
    world.restart_node().await;
    for ((_, _, task), before) in tasks.iter().zip(ended) {
        assert_eq!(world.get(&format!("/api/task-status/{task}")).await.body, before);
    }
}

#[tokio::test]
async fn a_task_outlives_the_node_that_took_it() {
    let mut world = World::new().await;
    world.post("/instances/shop/disconnect", json!({})).await;
    let body = json!({ "phone": PHONE, "message": "x", "use_queue": true });
    let queued = world.post("/api/send-message", body).await;
    let task = queued.body["task_id"].as_str().unwrap().to_owned();
    world.restart_node().await;
    let waiting = world.get(&format!("/api/task-status/{task}")).await;
    let expected = json!({ "task_id": task, "status": "PENDING", "result": null, "created_at": "<time>",
        "completed_at": null });
    assert_fits(&waiting, 200, &expected);
    world.post("/instances/shop/connect", json!({})).await;
    until_task(&world, &task, "SUCCESS").await;
    assert_eq!(world.arrived().await.len(), 1);
}

#[tokio::test]
async fn a_task_that_waits_for_another_attempt_says_so() {
    let world = World::with(|settings| {
        settings.retry.transactional.first_delay = std::time::Duration::from_secs(600);
        settings.retry.transactional.max_delay = std::time::Duration::from_secs(600);
    })
    .await;
    world.faults(json!([{ "match": { "to": PHONE }, "action": { "error": { "code": 131_016 } } }])).await;
    let body = json!({ "phone": PHONE, "message": "x", "use_queue": true });
    let queued = world.post("/api/send-message", body).await;
    let task = until_task(&world, queued.body["task_id"].as_str().unwrap(), "RETRY").await;
    assert_eq!((&task["result"], &task["completed_at"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn what_is_missing_is_said_in_the_documented_words_and_order() {
    let world = World::new().await;
    let text = |text: &str| json!({ "error": text });
    let unsuccessful = |text: &str| json!({ "success": false, "error": text });
    let field = |name: &str| unsuccessful(&format!("Se requiere el campo '{name}'"));
    let mut cases = vec![
        ("send-message", json!({}), text(MISSING_TEXT)),
        ("send-message", json!({ "phone": PHONE }), text(MISSING_TEXT)),
        ("send-message", json!({ "phone": "", "message": "x" }), text(MISSING_TEXT)),
        ("send-message", json!({ "phone": 0, "message": "x" }), text(MISSING_TEXT)),
        ("send-message", json!({ "phone": PHONE, "message": [] }), text(MISSING_TEXT)),
        ("send-message", json!({ "phone": null, "message": {} }), text(MISSING_TEXT)),
        ("send-template", json!({ "phone": PHONE }), text(MISSING_TEMPLATE)),
        ("send-template-advanced", json!({ "template_name": "x" }), text(MISSING_TEMPLATE)),
        ("send-interactive", json!({ "phone": PHONE, "button_text": "x" }), text(MISSING_BODY)),
        ("send-location-request", json!({ "body_text": "x" }), text(MISSING_BODY)),
        (
            "send-media",
            json!({ "phone": PHONE, "type": "image" }),
            text("Faltan parámetros: phone, type y media_id son requeridos"),
        ),
        (
            "send-reaction",
            json!({ "phone": PHONE }),
            text("Faltan parámetros: phone y message_id son requeridos"),
        ),
        ("send-list", json!({}), unsuccessful("Se requiere un JSON con los datos del mensaje")),
    ];
    // What is missing from a list, in the order in which it is noticed.
    let mut growing = json!({ "unknown": 1 });
    for name in ["phone", "header_text", "body_text", "footer_text", "button_text"] {
        cases.push(("send-list", growing.clone(), field(name)));
        growing[name] = list()[name].clone();
    }
    let row = |row: Value| json!([{ "title": "A", "rows": [row] }]);
    for (sections, says) in [
        (json!(null), "Se requiere el campo 'sections' como array"),
        (json!([]), "Se requiere el campo 'sections' como array"),
        (json!("x"), "Se requiere el campo 'sections' como array"),
        (json!(["x"]), "Cada section debe ser un objeto"),
        (json!([{ "rows": [] }]), "Cada section debe tener un 'title'"),
        (json!([{ "title": "A" }]), "Cada section debe tener un array 'rows'"),
        (json!([{ "title": "A", "rows": "x" }]), "Cada section debe tener un array 'rows'"),
        (row(json!("x")), "Cada row debe ser un objeto"),
        (row(json!({ "title": "x" })), "Cada row debe tener un 'id'"),
        (row(json!({ "id": "1" })), "Cada row debe tener un 'title'"),
    ] {
        cases.push(("send-list", with(list(), &json!({ "sections": sections })), unsuccessful(says)));
    }
    let long = json!({ "id": "1", "title": "ñ".repeat(21) });
    let good = json!({ "id": "1", "title": "ñ".repeat(20) });
    for (buttons, says) in [
        (json!([]), "Se requiere al menos un botón en el campo 'buttons'"),
        (json!({ "id": 1 }), "Se requiere al menos un botón en el campo 'buttons'"),
        (json!([1, 2, 3, 4]), "Máximo 3 botones permitidos"),
        (json!(["x"]), "Botón 1 debe ser un objeto"),
        (json!([good, { "title": "x" }]), "Botón 2 debe tener un 'id'"),
        (json!([{ "id": "1" }]), "Botón 1 debe tener un 'title'"),
        (json!([good, long]), "Título del botón 2 debe tener máximo 20 caracteres"),
    ] {
        let body = json!({ "phone": PHONE, "body_text": "x", "buttons": buttons });
        cases.push(("send-button", body, text(says)));
    }
    cases.push(("send-button", json!({ "phone": PHONE, "buttons": [] }), text(MISSING_BODY)));
    for (route, body, expected) in cases {
        for prefix in ["/api", "/api/messages"] {
            let answer = world.post(&format!("{prefix}/{route}"), body.clone()).await;
            assert_fits(&answer, 400, &expected);
        }
    }
    assert!(world.arrived().await.is_empty());
}

#[tokio::test]
async fn what_whatsapp_would_refuse_is_refused_by_the_name_of_its_field() {
    let world = World::new().await;
    let interactive = |more: Value| with(json!({ "phone": PHONE, "body_text": "x" }), &more);
    let rows = |n: usize| (0..n).map(|n| json!({ "id": n + 1, "title": "x" })).collect::<Vec<_>>();
    let sections = |sections: Value| with(list(), &json!({ "sections": sections }));
    for (route, body, field) in [
        ("send-message", json!({ "phone": "abc", "message": "x" }), "phone"),
        ("send-message", json!({ "phone": "12345", "message": "x" }), "phone"),
        ("send-message", json!({ "phone": [PHONE], "message": "x" }), "phone"),
        ("send-message", json!({ "phone": PHONE, "message": true }), "message"),
        ("send-message", json!({ "phone": PHONE, "message": "x".repeat(4097) }), "message"),
        ("send-message", json!({ "phone": PHONE, "message": "x", "use_queue": "maybe" }), "use_queue"),
        ("send-template", json!({ "phone": PHONE, "template_name": "x", "parameters": "y" }), "parameters"),
        (
            "send-template",
            json!({ "phone": PHONE, "template_name": "x", "parameters": [[]] }),
            "parameters[0]",
        ),
        ("send-template", json!({ "phone": PHONE, "template_name": "x".repeat(513) }), "template_name"),
        (
            "send-template-advanced",
            json!({ "phone": PHONE, "template_name": "x", "components": 1 }),
            "components",
        ),
        (
            "send-template-advanced",
            json!({ "phone": PHONE, "template_name": "x", "components": [1] }),
            "components[0]",
        ),
        ("send-interactive", interactive(json!({ "body_text": "x".repeat(1025) })), "body_text"),
        ("send-interactive", interactive(json!({ "button_text": "x".repeat(21) })), "button_text"),
        ("send-interactive", interactive(json!({ "button_url": "tienda" })), "button_url"),
        ("send-interactive", interactive(json!({ "footer_text": "x".repeat(61) })), "footer_text"),
        (
            "send-interactive",
            interactive(json!({ "header_type": "audio", "header_content": "x" })),
            "header_type",
        ),
        (
            "send-interactive",
            interactive(json!({ "header_type": "text", "header_content": "x".repeat(61) })),
            "header_content",
        ),
        (
            "send-interactive",
            interactive(json!({ "header_type": "image", "header_content": "no es base64" })),
            "header_content",
        ),
        (
            "send-interactive",
            interactive(json!({ "header_type": "image", "header_content": STANDARD.encode("hola") })),
            "header_content",
        ),
        (
            "send-button",
            with(buttons(), &json!({ "buttons": [{ "id": "1", "title": "x", "type": "url" }] })),
            "buttons[0].type",
        ),
        (
            "send-button",
            with(
                buttons(),
                &json!({ "buttons": [{ "id": "1", "title": "x" }, { "id": "1", "title": "y" }] }),
            ),
            "buttons[1].id",
        ),
        ("send-list", with(list(), &json!({ "header_text": "x".repeat(61) })), "header_text"),
        ("send-list", sections(json!([{ "title": "x".repeat(25), "rows": rows(1) }])), "sections[0].title"),
        ("send-list", sections(json!([{ "title": "x", "rows": rows(11) }])), "sections[0].rows[10]"),
        (
            "send-list",
            sections(json!([{ "title": "x", "rows": [{ "id": "1", "title": "x".repeat(25) }] }])),
            "sections[0].rows[0].title",
        ),
        (
            "send-list",
            sections(
                json!([{ "title": "x", "rows": [{ "id": "1", "title": "x", "description": "x".repeat(73) }] }]),
            ),
            "sections[0].rows[0].description",
        ),
        (
            "send-list",
            sections(
                json!([{ "title": "x", "rows": [{ "id": "1", "title": "x" }, { "id": "1", "title": "y" }] }]),
            ),
            "sections[0].rows[1].id",
        ),
        ("send-media", json!({ "phone": PHONE, "type": "gif", "media_id": "1" }), "type"),
        ("send-media", json!({ "phone": PHONE, "type": "image", "media_url": "ftp://x/y" }), "media_url"),
        (
            "send-media",
            json!({ "phone": PHONE, "type": "audio", "media_id": "1", "caption": "x" }),
            "caption",
        ),
    ] {
        let answer = world.post(&format!("/api/{route}"), body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["field"]),
            (400, &json!(field)),
            "{body}: {answer:?}"
        );
        assert!(answer.body["error"].as_str().is_some_and(|error| error.contains(field)), "{answer:?}");
    }
    let bad = world.post("/api/send-message", json!({ "phone": "abc", "message": "x" })).await;
    assert_eq!(bad.body["success"], false);
    assert!(bad.body["error"].as_str().unwrap().starts_with("Error enviando mensaje: "), "{bad:?}");
    assert!(world.arrived().await.is_empty());
}

#[tokio::test]
async fn bodies_are_read_whatever_they_claim_to_be_and_refused_when_they_are_no_object() {
    let world = World::new().await;
    let send = async |kind: &str, body: &str| {
        let request = world.request(Method::POST, "/api/send-message").header("Content-Type", kind);
        Answer::of(request.body(body.to_owned())).await
    };
    let form = "application/x-www-form-urlencoded";
    let good = json!({ "phone": 573_123_456_789_u64, "message": 5 }).to_string();
    for kind in [form, "text/plain", "application/json; charset=utf-8"] {
        assert_fits(
            &send(kind, &good).await,
            200,
            &json!({ "success": true, "message": "Mensaje enviado exitosamente", "data": data(PHONE) }),
        );
    }
    assert_eq!(world.arrived().await[0]["body"]["text"]["body"], "5");
    for body in ["phone=573123456789&message=hola", "{", "[]", "null", "\"x\"", "{\"phone\":\"1\"} x"] {
        let answer = send(form, body).await;
        let error = answer.body["error"].as_str().unwrap_or_default();
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(error.starts_with("JSON inválido") && error.contains("application/json"), "{body}: {error}");
    }
    let empty = send("application/json", "").await;
    assert_fits(&empty, 400, &json!({ "error": "Se requiere un JSON con los datos del mensaje" }));
}

#[tokio::test]
async fn the_end_of_a_message_has_its_documented_form() {
    let world = World::new().await;
    let fault = |to: &str, action: Value| json!({ "match": { "to": to, "kind": "text" }, "action": action });
    world
        .faults(json!([
            fault("573000000001", json!({ "error": { "code": 131_026 } })),
            fault("573000000002", json!({ "error": { "code": 130_429 } })),
            fault("573000000003", json!({ "error": { "code": 131_016 } })),
            fault("573000000004", json!({ "close": "after", "drop_statuses": true })),
            fault("573000000005", json!({ "error": { "code": 190 } })),
        ]))
        .await;
    for (to, status, code, stands, task) in [
        ("573000000001", 400, Some(131_026), "failed", "FAILURE"),
        ("573000000002", 429, Some(130_429), "failed", "FAILURE"),
        ("573000000003", 503, Some(131_016), "failed", "FAILURE"),
        ("573000000004", 504, None, "ambiguous", "STARTED"),
        ("573000000005", 400, Some(190), "failed", "FAILURE"),
    ] {
        let answer = world.post("/api/send-message", json!({ "phone": to, "message": "x" })).await;
        assert_eq!(answer.status, status, "{to}: {answer:?}");
        assert_eq!(
            (&answer.body["success"], &answer.body["status"]),
            (&json!(false), &json!(stands)),
            "{answer:?}"
        );
        let error = answer.body["error"].as_str().unwrap();
        match code {
            Some(code) => {
                let graph: Value = serde_json::from_str(error).unwrap();
                assert_eq!(graph["error"]["code"], code);
                assert!(graph["error"]["message"].as_str().unwrap().starts_with(&format!("(#{code}) ")));
            }
            None => assert_eq!(error, "Resultado desconocido"),
        }
        assert_eq!(answer.headers.contains_key("retry-after"), status == 429);
        until_task(&world, answer.body["task_id"].as_str().unwrap(), task).await;
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
    assert_eq!((failed.status.as_u16(), &failed.body["success"]), (400, &json!(false)), "{failed:?}");
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

#[tokio::test]
async fn the_service_tells_how_its_parts_are() {
    let world = World::new().await;
    let stranger = reqwest::Client::new();
    let ask =
        async |path: &str| Answer::of(stranger.get(format!("http://{}{path}", world.node.address))).await;
    assert_fits(&ask("/api/health").await, 200, &json!({ "status": "ok" }));
    assert_eq!(ask("/health").await.status, 200);
    let services = |whatsapp: bool| json!({ "webhook": true, "whatsapp_service": whatsapp, "queue_service": true, "websocket_service": true });
    assert_fits(&ask("/api/status").await, 200, &json!({ "status": "healthy", "services": services(true) }));
    world.post("/instances/shop/disconnect", json!({})).await;
    assert_fits(
        &ask("/api/status").await,
        503,
        &json!({ "status": "degraded", "services": services(false) }),
    );
}

#[tokio::test]
async fn errors_around_the_routes_have_the_same_form() {
    let world = World::with(|settings| settings.http.json_body_limit = 64 << 10).await;
    for path in ["/api", "/api/", "/api/nothing", "/api/messages/nothing"] {
        assert_fits(&world.get(path).await, 404, &json!({ "error": "Endpoint no encontrado" }));
    }
    let wrong = world.get("/api/send-message").await;
    assert_eq!(
        (wrong.status.as_u16(), &wrong.body["error"]),
        (405, &json!("Método no permitido")),
        "{wrong:?}"
    );
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    let large = world.post("/api/send-message", json!({ "message": "x".repeat(100 << 10) })).await;
    assert_eq!((large.status.as_u16(), &large.body["error"]), (413, &json!("Solicitud demasiado grande")));
    let stranger = reqwest::Client::new().post(format!("http://{}/api/send-message", world.node.address));
    let stranger = Answer::of(stranger.json(&json!({}))).await;
    assert_eq!((stranger.status.as_u16(), &stranger.body["error"]), (401, &json!("No autorizado")));
    assert_eq!(stranger.headers["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn the_key_may_come_in_the_url_where_that_is_permitted() {
    let ask = async |world: &World, path: &str| {
        let url = format!("http://{}{path}", world.node.address);
        reqwest::Client::new().get(url).send().await.unwrap().status().as_u16()
    };
    let closed = World::empty(|_| {}).await;
    let path = "/api/task-status/x";
    assert_eq!(ask(&closed, &format!("{path}?api_key={KEY}")).await, 401);
    let open = World::empty(|settings| settings.http.query_key = true).await;
    assert_eq!(ask(&open, &format!("{path}?a=b&api_key={}", KEY.replace('-', "%2D"))).await, 404);
    for path in ["/api/task-status/x?api_key=wrong", "/api/task-status/x?api_key=", "/api/task-status/x"] {
        assert_eq!(ask(&open, path).await, 401, "{path}");
    }
    assert_eq!(ask(&open, &format!("/instances?api_key={KEY}")).await, 401);
}

#[tokio::test]
async fn programs_on_this_machine_need_no_key_where_that_is_permitted() {
    let open = |settings: &mut Settings| settings.http.open_api_on_loopback = true;
    let world = World::with(open).await;
    let ask = |path: &str| {
        let url = format!("http://{}{path}", world.node.address);
        reqwest::Client::new().post(url).json(&json!({ "phone": PHONE, "message": "x" }))
    };
    assert_eq!(Answer::of(ask("/api/send-message")).await.status, 200);
    assert_eq!(Answer::of(ask("/messages/text")).await.status, 401);
    for (name, value) in [
        ("X-Forwarded-For", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7"),
        ("Via", "1.1 proxy"),
        ("Origin", "https://evil.example"),
        ("Host", "evil.example"),
    ] {
        let answer = Answer::of(ask("/api/send-message").header(name, value)).await;
        assert_eq!(answer.status, 401, "{name}: {answer:?}");
    }
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
