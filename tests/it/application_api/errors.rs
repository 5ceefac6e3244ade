//! Error answers of the application API: invalid requests and messages that were not sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use super::{PHONE, assert_fits, buttons, data, list, until_task, with};
use crate::support::{Answer, World};

const MISSING_TEXT: &str = "Faltan parámetros: phone y message son requeridos";
const MISSING_BODY: &str = "Faltan parámetros: phone y body_text son requeridos";
const MISSING_TEMPLATE: &str = "Faltan parámetros: phone y template_name son requeridos";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn missing_fields_are_refused_with_the_documented_texts() {
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
    // Missing fields of a list, in the order of the checks.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_field_is_refused_with_its_name() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn body_must_be_a_json_object_but_may_have_any_content_type() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn failed_message_is_answered_in_the_documented_form() {
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
    for (to, status, code, message_status, task) in [
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
            (&json!(false), &json!(message_status)),
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
