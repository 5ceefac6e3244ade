//! `POST /_sandbox/inbound`: a user writes to the business.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::control::{Body, Problem, report};
use crate::faults;
use crate::ids::{self, Direction};
use crate::media;
use crate::media_store::Origin;
use crate::payloads;
use crate::state::Shared;

/// A user's message: a text, a file, any other type with its object under its name, or a whole message.
#[derive(Debug, Deserialize)]
pub struct Inbound {
    from: String,
    name: Option<String>,
    /// The number that is written to.
    #[serde(default = "some_number")]
    phone_number_id: String,
    #[serde(default = "text")]
    r#type: String,
    text: Option<Value>,
    caption: Option<String>,
    filename: Option<String>,
    mime_type: Option<String>,
    /// The file in base64; without it a sample is sent.
    data: Option<String>,
    /// The whole message as the webhook has it; what is missing of `from`, `id` and `timestamp` is added.
    message: Option<Map<String, Value>>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

fn text() -> String {
    "text".into()
}

fn some_number() -> String {
    "106540352242922".into()
}

pub async fn post(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Body(inbound): Body<Inbound>,
) -> Result<Json<Value>, Problem> {
    let wa_id = faults::plain(&inbound.from).into_owned();
    if wa_id.is_empty() || wa_id.len() > 64 {
        return Err(Problem::invalid("from: must be the user's phone number, for example \"16505551234\""));
    }
    if !shared.courier.has_receiver() {
        return Err(Problem::no_receiver());
    }
    let user_id = ids::user_id(&wa_id);
    let mut message = match &inbound.message {
        Some(message) => message.clone(),
        None => inbound.compose(&shared, &headers)?,
    };
    let wamid = || json!(shared.ids.wamid(&wa_id, Direction::Inbound));
    let id = message.entry("id").or_insert_with(wamid).clone();
    message.entry("from").or_insert_with(|| json!(wa_id));
    message.entry("from_user_id").or_insert_with(|| json!(user_id));
    message.entry("timestamp").or_insert_with(|| json!(shared.clock.now().seconds().to_string()));
    let content = message.get("type").and_then(|kind| message.get(kind.as_str()?));
    let media_id = content.and_then(|content| content.get("id")).cloned();
    let name = inbound.name.as_deref().unwrap_or("Sandbox user");
    let value = payloads::inbound(&shared, &inbound.phone_number_id, name, &wa_id, &user_id, message.into());
    let body = payloads::change(&shared, "messages", &value).map_err(Problem::internal)?;
    shared.stats.inbound.add(1);
    let delivery = shared.courier.deliver(&shared, body.into(), 1).await;
    let mut answer = json!({ "wamid": id });
    if let (Some(answer), Some(media_id)) = (answer.as_object_mut(), media_id) {
        answer.insert("media_id".into(), media_id);
    }
    Ok(Json(report(delivery, answer)))
}

impl Inbound {
    fn compose(&self, shared: &Shared, headers: &HeaderMap) -> Result<Map<String, Value>, Problem> {
        let kind = self.r#type.as_str();
        let content = match (kind, &self.text, self.more.get(kind)) {
            ("text", Some(Value::String(body)), _) => json!({ "body": body }),
            ("text", Some(object), _) => object.clone(),
            ("text", None, _) => return Err(Problem::invalid("text: what the user writes is missing")),
            (_, _, Some(content)) => content.clone(),
            ("image" | "audio" | "video" | "document" | "sticker", ..) => self.file(shared, headers)?,
            _ => {
                let reason =
                    format!("{kind}: put the message's object under this name, as the webhook has it");
                return Err(Problem::invalid(reason));
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

    /// Stores the file, so that it can be fetched, and describes it as the webhook does.
    fn file(&self, shared: &Shared, headers: &HeaderMap) -> Result<Value, Problem> {
        let kind = self.r#type.as_str();
        let (usual_type, sample) = sample(kind);
        let bytes = match &self.data {
            Some(data) => STANDARD
                .decode(data)
                .map_err(|error| Problem::invalid(format!("data: not base64: {error}")))?,
            None => sample.to_vec(),
        };
        let mime_type = self.mime_type.as_deref().unwrap_or(usual_type);
        let id = media::keep(shared, &self.phone_number_id, mime_type, bytes.into(), Origin::Received)
            .ok_or_else(|| Problem::invalid("data: larger than all the media that the sandbox keeps"))?;
        let sha256 = shared.media.get(&id, None, shared.clock.now()).map(|file| file.sha256);
        let mut file = json!({
            "id": id, "mime_type": mime_type, "sha256": sha256, "url": media::address(shared, &id, headers),
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

/// A PNG of one transparent point.
const PNG: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, 0x49, 0x48, 0x44, 0x52, 0, 0, 0, 1, 0, 0,
    0, 1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63,
    0x64, 0x60, 0xf8, 0x5f, 0x0f, 0, 2, 0x87, 1, 0x80, 0xeb, 0x47, 0xba, 0x92, 0, 0, 0, 0, 0x49, 0x45, 0x4e,
    0x44, 0xae, 0x42, 0x60, 0x82,
];

/// The type that users usually send of a kind, and a stand-in for a file of it. Only the image is a real one.
fn sample(kind: &str) -> (&'static str, &'static [u8]) {
    match kind {
        "image" => ("image/png", PNG),
        "audio" => ("audio/ogg; codecs=opus", b"OggS sample"),
        "video" => ("video/mp4", b"\0\0\0\x18ftypmp42 sample"),
        "sticker" => ("image/webp", b"RIFF\x0c\0\0\0WEBPVP8 sample"),
        _ => ("text/plain", b"A document from the sandbox.\n"),
    }
}
