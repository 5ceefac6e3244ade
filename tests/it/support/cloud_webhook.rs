//! Meta's side of the webhook: bodies, signatures and deliveries.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{APP_SECRET, Answer, World};

/// Phone number of the user Ana.
pub const ANA: &str = "573001234567";

/// `phone_number_id` of an instance.
pub fn number_of(world: &World, instance: &str) -> String {
    world.instance(instance)["cloud_api"]["phone_number_id"].as_str().unwrap().to_owned()
}

/// A webhook body for the number of an instance.
pub fn webhook(world: &World, instance: &str, field: &str, value: Value) -> Vec<u8> {
    webhook_about(&number_of(world, instance), field, value)
}

/// A webhook body for a `phone_number_id`.
pub fn webhook_about(phone_number_id: &str, field: &str, mut value: Value) -> Vec<u8> {
    value["messaging_product"] = json!("whatsapp");
    value["metadata"] = json!({ "display_phone_number": "15550001111", "phone_number_id": phone_number_id });
    let change = json!({ "field": field, "value": value });
    let entry = json!([{ "id": "WABA", "time": 1_763_800_000, "changes": [change] }]);
    json!({ "object": "whatsapp_business_account", "entry": entry }).to_string().into_bytes()
}

/// A text message of Ana.
pub fn text(id: &str, body: &str) -> Value {
    text_from(ANA, id, body)
}

/// A text message of a user.
pub fn text_from(phone: &str, id: &str, body: &str) -> Value {
    json!({ "id": id, "from": phone, "timestamp": "1763800000", "type": "text", "text": { "body": body } })
}

/// A status of a message to Ana.
pub fn status(id: &str, word: &str) -> Value {
    json!({ "id": id, "status": word, "timestamp": "1763800000", "recipient_id": ANA })
}

/// Signature of a body with the app secret of the tests.
pub fn signature(body: &[u8]) -> String {
    signature_with(APP_SECRET, body)
}

/// Signature of a body: `sha256=` and the HMAC in hex.
pub fn signature_with(app_secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(app_secret.as_bytes()).unwrap();
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// Posts a body with a signature to a path.
pub async fn deliver_to(world: &World, path: &str, body: Vec<u8>, signature: &str) -> Answer {
    let request = world.request(Method::POST, path).header("X-Hub-Signature-256", signature);
    Answer::of(request.body(body)).await
}

/// Posts a signed body to `/webhook` and returns the answer.
pub async fn post_webhook(world: &World, body: Vec<u8>) -> Answer {
    let signature = signature(&body);
    deliver_to(world, "/webhook", body, &signature).await
}

/// Posts a signed body to `/webhook` and expects the documented success.
pub async fn deliver(world: &World, body: Vec<u8>) {
    let answer = post_webhook(world, body).await;
    let documented = json!({ "success": true, "message": "Webhook enviado al WebSocket" });
    assert_eq!((answer.status.as_u16(), answer.body), (200, documented));
}

/// Sends an inbound message of Ana through the sandbox. Returns its id.
pub async fn send_inbound(world: &World, mut message: Value) -> String {
    message["from"] = json!(ANA);
    message["name"] = json!("Ana");
    message["phone_number_id"] = json!(number_of(world, "shop"));
    let written = world.control(Method::POST, "/_sandbox/inbound", Some(message)).await;
    assert!(written.status.is_success(), "{written:?}");
    written.body["wamid"].as_str().unwrap().to_owned()
}

/// Value of the metric `relevo_inbound_total` for a kind.
pub async fn inbound_count(world: &World, kind: &str) -> u64 {
    let metrics = world.get("/metrics").await.body.as_str().unwrap().to_owned();
    let line = format!("relevo_inbound_total{{kind=\"{kind}\"}} ");
    metrics.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}
