//! Meta, as far as tests play its part: webhooks, signed and delivered.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{APP_SECRET, Answer, World};

/// A user.
pub const ANA: &str = "573001234567";

pub fn number_of(world: &World, instance: &str) -> String {
    world.instance(instance)["cloud_api"]["phone_number_id"].as_str().unwrap().to_owned()
}

/// A webhook about an instance's number.
pub fn webhook(world: &World, instance: &str, field: &str, value: Value) -> Vec<u8> {
    webhook_about(&number_of(world, instance), field, value)
}

/// A webhook about the number that Meta knows by this id.
pub fn webhook_about(phone_number_id: &str, field: &str, mut value: Value) -> Vec<u8> {
    value["messaging_product"] = json!("whatsapp");
    value["metadata"] = json!({ "display_phone_number": "15550001111", "phone_number_id": phone_number_id });
    let change = json!({ "field": field, "value": value });
    let entry = json!([{ "id": "WABA", "time": 1_763_800_000, "changes": [change] }]);
    json!({ "object": "whatsapp_business_account", "entry": entry }).to_string().into_bytes()
}

/// Ana writes.
pub fn text(id: &str, body: &str) -> Value {
    text_from(ANA, id, body)
}

pub fn text_from(phone: &str, id: &str, body: &str) -> Value {
    json!({ "id": id, "from": phone, "timestamp": "1763800000", "type": "text", "text": { "body": body } })
}

/// A fact about a message to Ana.
pub fn status(id: &str, word: &str) -> Value {
    json!({ "id": id, "status": word, "timestamp": "1763800000", "recipient_id": ANA })
}

pub fn signature(body: &[u8]) -> String {
    signature_with(APP_SECRET, body)
}

pub fn signature_with(app_secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(app_secret.as_bytes()).unwrap();
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

pub async fn deliver_to(world: &World, path: &str, body: Vec<u8>, signature: &str) -> Answer {
    let request = world.request(Method::POST, path).header("X-Hub-Signature-256", signature);
    Answer::of(request.body(body)).await
}

/// Delivers as Meta does; whatever the answer is.
pub async fn offer(world: &World, body: Vec<u8>) -> Answer {
    let signature = signature(&body);
    deliver_to(world, "/webhook", body, &signature).await
}

/// Delivers as Meta does, and is taken.
pub async fn deliver(world: &World, body: Vec<u8>) {
    let answer = offer(world, body).await;
    let documented = json!({ "success": true, "message": "Webhook enviado al WebSocket" });
    assert_eq!((answer.status.as_u16(), answer.body), (200, documented));
}

/// A user writes through the sandbox; tells the message's id.
pub async fn write(world: &World, mut message: Value) -> String {
    message["from"] = json!(ANA);
    message["name"] = json!("Ana");
    message["phone_number_id"] = json!(number_of(world, "shop"));
    let written = world.control(Method::POST, "/_sandbox/inbound", Some(message)).await;
    assert!(written.status.is_success(), "{written:?}");
    written.body["wamid"].as_str().unwrap().to_owned()
}

/// How much of a kind the node has counted at its webhook.
pub async fn counted(world: &World, kind: &str) -> u64 {
    let metrics = world.get("/metrics").await.body.as_str().unwrap().to_owned();
    let line = format!("relevo_inbound_total{{kind=\"{kind}\"}} ");
    metrics.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}
