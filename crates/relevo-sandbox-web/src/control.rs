//! The control plane under `/_web/`: the functions of the handle, for operators and tests in other processes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use relevo_linked_device::client::wacore_binary::Jid;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::accounts::is_phone_number;
use crate::faults::{FaultRule, MAX_RULES};
use crate::phone::{self, Phone};
use crate::phone_events::PhoneEvent;
use crate::server_state::ServerState;
use crate::{Disconnection, WebHandle};

/// Maximum number of entries on one page.
const MAX_PAGE: usize = 10_000;

/// Reason why the control plane refused a request.
#[derive(Debug)]
struct WebControlError(StatusCode, String);

impl IntoResponse for WebControlError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<phone::Error> for WebControlError {
    fn from(error: phone::Error) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

/// A JSON body with any content type, because `curl -d` does not send a JSON content type.
struct LenientJson<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequest<S> for LenientJson<T> {
    type Rejection = WebControlError;

    async fn from_request(request: Request, state: &S) -> Result<Self, WebControlError> {
        let invalid = |reason: String| WebControlError(StatusCode::BAD_REQUEST, reason);
        let bytes = Bytes::from_request(request, state).await.map_err(|error| invalid(error.body_text()))?;
        let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
        serde_json::from_slice(&bytes).map(Self).map_err(|error| invalid(error.to_string()))
    }
}

type JsonResult = Result<Json<Value>, WebControlError>;

/// The routes of the control plane.
pub fn routes() -> Router<Arc<ServerState>> {
    Router::new()
        .route("/", get(index))
        .route("/_web/journal", get(journal))
        .route("/_web/stats", get(stats))
        .route("/_web/faults", post(arm).get(faults).delete(disarm))
        .route("/_web/restart", post(restart))
        .route("/_web/groups", post(create_group))
        .route("/_web/phones/{number}", get(get_phone))
        .route("/_web/phones/{number}/scan", post(scan))
        .route("/_web/phones/{number}/code", post(enter_code))
        .route("/_web/phones/{number}/say", post(send_text))
        .route("/_web/phones/{number}/unlink", post(unlink))
        .route("/_web/phones/{number}/eject", post(disconnect))
        .route("/_web/phones/{number}/mute", post(mute))
}

/// `GET /`: a description of the server.
async fn index() -> &'static str {
    include_str!("index.txt")
}

fn resolve_phone(shared: &Arc<ServerState>, number: &str) -> Result<Arc<Phone>, WebControlError> {
    let plain = number.trim_start_matches('+');
    if !is_phone_number(plain) {
        let reason = format!("{number}: a phone number has 1 to 15 digits");
        return Err(WebControlError(StatusCode::BAD_REQUEST, reason));
    }
    Ok(shared.phone(shared.account(plain)))
}

fn parse_jid(text: &str) -> Result<Jid, WebControlError> {
    let plain = text.trim_start_matches('+');
    if is_phone_number(plain) {
        return Ok(Jid::pn(plain));
    }
    let wrong =
        |_| WebControlError(StatusCode::BAD_REQUEST, format!("{text} is neither a phone number nor a JID"));
    plain.parse().map_err(wrong)
}

#[derive(Debug, Deserialize)]
struct JournalQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// `GET /_web/journal?after=&limit=`: the accepted messages in order.
async fn journal(State(shared): State<Arc<ServerState>>, Query(paging): Query<JournalQuery>) -> Json<Value> {
    let limit = paging.limit.unwrap_or(100).min(MAX_PAGE);
    let messages = shared.journal.page(paging.after, limit);
    let last = messages.last().map_or(paging.after, |entry| entry.seq);
    Json(json!({ "messages": messages, "last": last }))
}

/// `GET /_web/stats`: queries, and the history of connections.
async fn stats(State(shared): State<Arc<ServerState>>) -> Json<Value> {
    Json(json!({
        "messages": shared.journal.accepted_count(),
        "online": shared.registry().online_count(),
        "opened": shared.stats.opened(),
        "logins": shared.stats.logins(),
        "queries": shared.stats.queries(),
        "media_kept": shared.media.len(),
        "connections": shared.stats.connection_records(),
    }))
}

/// `POST /_web/faults`: arms a rule.
async fn arm(
    State(shared): State<Arc<ServerState>>,
    LenientJson(rule): LenientJson<FaultRule>,
) -> JsonResult {
    match shared.faults.arm(rule) {
        Some(id) => Ok(Json(json!({ "id": id }))),
        None => {
            let reason = format!("at most {MAX_RULES} rules can be armed: DELETE /_web/faults");
            Err(WebControlError(StatusCode::CONFLICT, reason))
        }
    }
}

/// `GET /_web/faults`: the armed rules.
async fn faults(State(shared): State<Arc<ServerState>>) -> Json<Value> {
    Json(json!({ "faults": shared.faults.to_json() }))
}

#[derive(Debug, Deserialize)]
struct DisarmQuery {
    id: Option<u64>,
}

/// `DELETE /_web/faults`: disarms all rules, or the one with `?id=`.
async fn disarm(State(shared): State<Arc<ServerState>>, Query(query): Query<DisarmQuery>) -> Json<Value> {
    Json(json!({ "disarmed": shared.faults.disarm(query.id) }))
}

#[derive(Debug, Deserialize)]
struct RestartRequest {
    #[serde(default)]
    rest_ms: u64,
}

/// `POST /_web/restart {"rest_ms"?}`: closes all sockets and refuses new ones for this time.
async fn restart(
    State(shared): State<Arc<ServerState>>,
    LenientJson(restart): LenientJson<RestartRequest>,
) -> Json<Value> {
    shared.restart(Duration::from_millis(restart.rest_ms));
    Json(json!({ "ok": true }))
}

#[derive(Debug, Deserialize)]
struct CreateGroupRequest {
    subject: String,
    owner: String,
    #[serde(default)]
    members: Vec<String>,
}

/// `POST /_web/groups {"subject", "owner", "members"}`.
async fn create_group(
    State(shared): State<Arc<ServerState>>,
    LenientJson(request): LenientJson<CreateGroupRequest>,
) -> JsonResult {
    let owner = resolve_phone(&shared, &request.owner)?;
    let members =
        request.members.iter().map(|number| resolve_phone(&shared, number)).collect::<Result<Vec<_>, _>>()?;
    let members: Vec<&Phone> = members.iter().map(AsRef::as_ref).collect();
    let jid = WebHandle::create_group_in(&shared, &request.subject, &owner, &members);
    Ok(Json(json!({ "jid": jid.to_string() })))
}

/// `GET /_web/phones/{number}`: the phone's devices and events. Creates the account if it does not exist.
async fn get_phone(State(shared): State<Arc<ServerState>>, Path(number): Path<String>) -> JsonResult {
    let phone = resolve_phone(&shared, &number)?;
    let seen: Vec<Value> = phone.events().iter().map(|event| event_to_json(event)).collect();
    Ok(Json(json!({
        "jid": phone.jid().to_string(),
        "lid": phone.lid().to_string(),
        "devices": phone.devices(),
        "seen": seen,
    })))
}

fn event_to_json(event: &PhoneEvent) -> Value {
    match event {
        PhoneEvent::Message(received) => json!({ "message": {
            "id": received.id, "chat": received.chat.to_string(), "sender": received.sender.to_string(),
            "from_me": received.from_me, "edit": received.edit, "text": received.text(),
        }}),
        PhoneEvent::Undecryptable { id, sender, why } => {
            json!({ "unreadable": { "id": id, "sender": sender.to_string(), "why": why } })
        }
        PhoneEvent::Receipt { ids, kind, chat, reader } => json!({ "receipt": {
            "ids": ids, "kind": kind, "chat": chat.to_string(), "reader": reader.to_string(),
        }}),
        PhoneEvent::Typing { chat, sender, state, media } => json!({ "typing": {
            "chat": chat.to_string(), "sender": sender.to_string(), "state": state, "media": media,
        }}),
        PhoneEvent::Presence { who, available } => {
            json!({ "presence": { "who": who.to_string(), "available": available } })
        }
        PhoneEvent::PairingCodeRequested => json!({ "code_wanted": {} }),
    }
}

#[derive(Debug, Deserialize)]
struct CodeInput {
    code: String,
}

/// `POST /_web/phones/{number}/scan {"code"}`: the content of a QR code.
async fn scan(
    State(shared): State<Arc<ServerState>>,
    Path(number): Path<String>,
    LenientJson(scan): LenientJson<CodeInput>,
) -> JsonResult {
    let device = resolve_phone(&shared, &number)?.scan(&scan.code)?;
    Ok(Json(json!({ "device": device })))
}

/// `POST /_web/phones/{number}/code {"code"}`: the eight characters of a pairing code.
async fn enter_code(
    State(shared): State<Arc<ServerState>>,
    Path(number): Path<String>,
    LenientJson(code): LenientJson<CodeInput>,
) -> JsonResult {
    resolve_phone(&shared, &number)?.enter_pairing_code(&code.code).await?;
    Ok(Json(json!({ "ok": true })))
}

#[derive(Debug, Deserialize)]
struct SayRequest {
    to: String,
    text: String,
}

/// `POST /_web/phones/{number}/say {"to", "text"}`: `to` is a number or a JID.
async fn send_text(
    State(shared): State<Arc<ServerState>>,
    Path(number): Path<String>,
    LenientJson(say): LenientJson<SayRequest>,
) -> JsonResult {
    let id = resolve_phone(&shared, &number)?.send_text(&parse_jid(&say.to)?, &say.text)?;
    Ok(Json(json!({ "id": id })))
}

#[derive(Debug, Deserialize)]
struct DeviceSelector {
    device: Option<u16>,
}

/// `POST /_web/phones/{number}/unlink {"device"}`.
async fn unlink(
    State(shared): State<Arc<ServerState>>,
    Path(number): Path<String>,
    LenientJson(selector): LenientJson<DeviceSelector>,
) -> JsonResult {
    let phone = resolve_phone(&shared, &number)?;
    for device in phone
        .devices()
        .into_iter()
        .filter(|device| selector.device.is_none_or(|selected| selected == *device))
    {
        phone.unlink(device)?;
    }
    Ok(Json(json!({ "devices": phone.devices() })))
}

#[derive(Debug, Deserialize)]
struct EjectRequest {
    device: Option<u16>,
    #[serde(default)]
    how: Disconnection,
}

/// `POST /_web/phones/{number}/eject {"device"?, "how"?}`: `"cut"`, `"replaced"` or `{"error": 503}`.
async fn disconnect(
    State(shared): State<Arc<ServerState>>,
    Path(number): Path<String>,
    LenientJson(eject): LenientJson<EjectRequest>,
) -> JsonResult {
    let phone = resolve_phone(&shared, &number)?;
    Ok(Json(json!({ "ejected": shared.disconnect(phone.account(), eject.device, eject.how) })))
}

#[derive(Debug, Deserialize)]
struct MuteRequest {
    device: Option<u16>,
    #[serde(default = "default_true")]
    muted: bool,
}

fn default_true() -> bool {
    true
}

/// `POST /_web/phones/{number}/mute {"device"?, "muted"?}`: the connections neither read nor answer.
async fn mute(
    State(shared): State<Arc<ServerState>>,
    Path(number): Path<String>,
    LenientJson(mute): LenientJson<MuteRequest>,
) -> JsonResult {
    let phone = resolve_phone(&shared, &number)?;
    Ok(Json(json!({ "muted": shared.mute(phone.account(), mute.device, mute.muted) })))
}
