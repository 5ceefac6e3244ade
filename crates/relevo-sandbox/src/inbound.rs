//! `POST /_sandbox/inbound`: sends a user's message to the business.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::control::{ControlError, LenientJson, with_delivery};
use crate::faults;
use crate::ids::{self, WamidDirection};
use crate::media;
use crate::media_store::MediaOrigin;
use crate::state::SandboxState;
use crate::webhook_body;

/// A user's message: a text, a file, another type with its object under its name, or a complete message.
#[derive(Debug, Deserialize)]
pub struct InboundRequest {
    from: String,
    name: Option<String>,
    /// The receiving phone number id.
    #[serde(default = "default_phone_number_id")]
    phone_number_id: String,
    #[serde(default = "default_type")]
    r#type: String,
    text: Option<Value>,
    caption: Option<String>,
    filename: Option<String>,
    mime_type: Option<String>,
    /// The file in base64; default: a sample file.
    data: Option<String>,
    /// The complete message in the webhook's format; absent `from`, `id` and `timestamp` are added.
    message: Option<Map<String, Value>>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

fn default_type() -> String {
    "text".into()
}

fn default_phone_number_id() -> String {
    "106540352242922".into()
}

/// Builds the webhook of a user's message and sends it to the receiver.
///
/// # Errors
/// The request is invalid, or there is no webhook receiver.
pub async fn post(
    State(shared): State<Arc<SandboxState>>,
    headers: HeaderMap,
    LenientJson(inbound): LenientJson<InboundRequest>,
) -> Result<Json<Value>, ControlError> {
    let wa_id = faults::strip_punctuation(&inbound.from).into_owned();
    if wa_id.is_empty() || wa_id.len() > 64 {
        return Err(ControlError::invalid(
            "from: must be the user's phone number, for example \"16505551234\"",
        ));
    }
    if !shared.webhook_sender.has_receiver() {
        return Err(ControlError::no_receiver());
    }
    let user_id = ids::user_id(&wa_id);
    let mut message = match &inbound.message {
        Some(message) => message.clone(),
        None => inbound.build_message(&shared, &headers)?,
    };
    let wamid = || json!(shared.ids.wamid(&wa_id, WamidDirection::Inbound));
    let id = message.entry("id").or_insert_with(wamid).clone();
    message.entry("from").or_insert_with(|| json!(wa_id));
    message.entry("from_user_id").or_insert_with(|| json!(user_id));
    message.entry("timestamp").or_insert_with(|| json!(shared.clock.now().seconds().to_string()));
    let content = message.get("type").and_then(|kind| message.get(kind.as_str()?));
    let media_id = content.and_then(|content| content.get("id")).cloned();
    let name = inbound.name.as_deref().unwrap_or("Sandbox user");
    let value = webhook_body::inbound_value(
        &shared,
        &inbound.phone_number_id,
        name,
        &wa_id,
        &user_id,
        message.into(),
    );
    let body = webhook_body::change_body(&shared, "messages", &value).map_err(ControlError::internal)?;
    shared.stats.inbound.add(1);
    let delivery = shared.webhook_sender.deliver(&shared, body.into(), 1).await;
    let mut answer = json!({ "wamid": id });
    if let (Some(answer), Some(media_id)) = (answer.as_object_mut(), media_id) {
        answer.insert("media_id".into(), media_id);
    }
    Ok(Json(with_delivery(delivery, answer)))
}

impl InboundRequest {
    fn build_message(
        &self,
        shared: &SandboxState,
        headers: &HeaderMap,
    ) -> Result<Map<String, Value>, ControlError> {
        let kind = self.r#type.as_str();
        let content = match (kind, &self.text, self.more.get(kind)) {
            ("text", Some(Value::String(body)), _) => json!({ "body": body }),
            ("text", Some(object), _) => object.clone(),
            ("text", None, _) => {
                return Err(ControlError::invalid("text: the text of the message is missing"));
            }
            (_, _, Some(content)) => content.clone(),
            ("image" | "audio" | "video" | "document" | "sticker", ..) => {
                self.store_attachment(shared, headers)?
            }
            _ => {
                let reason =
                    format!("{kind}: put the message's object under this name, in the format of the webhook");
                return Err(ControlError::invalid(reason));
            }
        };
        let mut message = Map::new();
        message.insert("type".into(), json!(kind));
        message.insert(kind.into(), content);
        if let Some(context) = self.more.get("context") {
            message.insert("context".into(), context.clone());
        }
        Ok(message)
    }

    /// Stores the file for download and returns its description in the format of the webhook.
    fn store_attachment(&self, shared: &SandboxState, headers: &HeaderMap) -> Result<Value, ControlError> {
        let kind = self.r#type.as_str();
        let (usual_type, sample) = sample_file(kind);
        let bytes = match &self.data {
            Some(data) => STANDARD
                .decode(data)
                .map_err(|error| ControlError::invalid(format!("data: not base64: {error}")))?,
            None => sample.to_vec(),
        };
        let mime_type = self.mime_type.as_deref().unwrap_or(usual_type);
        let id =
            media::store_file(shared, &self.phone_number_id, mime_type, bytes.into(), MediaOrigin::Received)
                .ok_or_else(|| ControlError::invalid("data: larger than the media store of the sandbox"))?;
        let sha256 = shared.media.get(&id, None, shared.clock.now()).map(|file| file.sha256);
        let mut file = json!({
            "id": id, "mime_type": mime_type, "sha256": sha256, "url": media::download_url(shared, &id, headers),
        });
        let extra = [
            ("caption", self.caption.as_ref().map(|caption| json!(caption))),
            (
                "filename",
                (kind == "document").then(|| json!(self.filename.as_deref().unwrap_or("sample.txt"))),
            ),
            ("voice", (kind == "audio").then_some(json!(true))),
            ("animated", (kind == "sticker").then_some(json!(false))),
        ];
        if let Value::Object(file) = &mut file {
            file.extend(extra.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
        Ok(file)
    }
}

/// A PNG of one transparent pixel.
const PNG: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, 0x49, 0x48, 0x44, 0x52, 0, 0, 0, 1, 0, 0,
    0, 1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63,
    0x64, 0x60, 0xf8, 0x5f, 0x0f, 0, 2, 0x87, 1, 0x80, 0xeb, 0x47, 0xba, 0x92, 0, 0, 0, 0, 0x49, 0x45, 0x4e,
    0x44, 0xae, 0x42, 0x60, 0x82,
];

/// The usual MIME type of a message type and a sample file. Only the image is a valid file.
fn sample_file(kind: &str) -> (&'static str, &'static [u8]) {
    match kind {
        "image" => ("image/png", PNG),
        "audio" => ("audio/ogg; codecs=opus", b"OggS sample"),
        "video" => ("video/mp4", b"\0\0\0\x18ftypmp42 sample"),
        "sticker" => ("image/webp", b"RIFF\x0c\0\0\0WEBPVP8 sample"),
        _ => ("text/plain", b"A document from the sandbox.\n"),
    }
}
