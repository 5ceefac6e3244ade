//! The application API under `/api`, which answers as the documented Flask service does.

mod auth;
mod bulk;
mod bulk_large;
mod clients;
mod errors;
mod messages;
mod tasks;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, World, eventually};

const PHONE: &str = "573123456789";

/// Whether `found` equals `expected`, where `<uuid>`, `<wamid>` and `<time>` match any value of that kind.
fn fits(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected.iter().all(|(key, value)| found.get(key).is_some_and(|other| fits(value, other)))
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected.iter().zip(found).all(|(expected, found)| fits(expected, found))
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

/// Every route for single messages with a request, the message of the direct and of the queued answer, and the fields
/// that WhatsApp receives.
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
