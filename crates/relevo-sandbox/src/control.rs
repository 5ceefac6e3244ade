//! The control plane under `/_sandbox/`, for tests and operators.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use crate::faults::{self, Fault, MAX_FAULTS};
use crate::journal::{JournalEntry, JournalEntryView, JournalPage};
use crate::state::SandboxState;
use crate::webhook_body;
use crate::webhooks::{DeliveryResult, WebhookReceiver};
use relevo_domain::Secret;

/// Reason why the control plane refused a request.
#[derive(Debug)]
pub struct ControlError {
    status: StatusCode,
    reason: String,
}

impl ControlError {
    /// The request is wrong: 400.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: reason.into() }
    }

    /// The request requires a webhook receiver: 409.
    pub fn no_receiver() -> Self {
        let reason = "there is no webhook receiver: set one with POST /_sandbox/webhook {\"url\": …}";
        Self { status: StatusCode::CONFLICT, reason: reason.into() }
    }

    /// A body could not be serialised: 500.
    pub fn internal(error: serde_json::Error) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, reason: error.to_string() }
    }
}

impl From<JsonRejection> for ControlError {
    fn from(rejection: JsonRejection) -> Self {
        Self { status: rejection.status(), reason: rejection.body_text() }
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.reason }))).into_response()
    }
}

/// A JSON body with any content type, because `curl -d` does not send a JSON content type.
pub struct LenientJson<T>(pub T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequest<S> for LenientJson<T> {
    type Rejection = ControlError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ControlError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ControlError::invalid(error.body_text()))?;
        Ok(Self(Json::from_bytes(&bytes)?.0))
    }
}

/// `GET /`: a description of the server.
pub async fn index() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], include_str!("index.txt")).into_response()
}

/// Query of [`messages`].
#[derive(Debug, Deserialize)]
pub struct MessagesQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    to: Option<String>,
    /// Time to wait for a matching message, in milliseconds; default 0, at most one minute.
    #[serde(default)]
    wait_ms: u64,
}

/// Maximum number of entries on one page.
const MAX_PAGE: usize = 10_000;

/// Maximum of `wait_ms`.
const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct MessagesPage<'a> {
    messages: Vec<JournalEntryView<'a>>,
    /// The value of `after` for the next page.
    last: u64,
    more: bool,
    /// Number of evicted older messages.
    forgotten: u64,
}

/// `GET /_sandbox/messages`: the received messages.
pub async fn messages(
    State(shared): State<Arc<SandboxState>>,
    Query(paging): Query<MessagesQuery>,
) -> Response {
    let page = wait_for_page(&shared, &paging).await;
    Json(MessagesPage {
        messages: page.entries.iter().map(|(number, entry)| JournalEntryView::new(*number, entry)).collect(),
        last: page.last,
        more: page.more,
        forgotten: page.evicted,
    })
    .into_response()
}

async fn wait_for_page(shared: &SandboxState, paging: &MessagesQuery) -> JournalPage {
    let to = paging.to.as_deref().map(faults::strip_punctuation);
    let wanted = |entry: &JournalEntry| to.as_deref().is_none_or(|to| entry.to.as_deref() == Some(to));
    let limit = paging.limit.unwrap_or(100).min(MAX_PAGE);
    let timeout = tokio::time::sleep(Duration::from_millis(paging.wait_ms).min(MAX_WAIT));
    tokio::pin!(timeout);
    let mut after = paging.after;
    loop {
        // Subscribes before it reads, so that no write is missed in between.
        let written = shared.journal.written.notified();
        tokio::pin!(written);
        written.as_mut().enable();
        let page = shared.journal.page(after, limit, wanted);
        if !page.entries.is_empty() || limit == 0 || paging.wait_ms == 0 {
            return page;
        }
        after = page.last;
        tokio::select! {
            () = written => {}
            () = &mut timeout => return page,
            () = shared.closing.cancelled() => return page,
        }
    }
}

/// `GET /_sandbox/stats`: the counters.
pub async fn stats(State(shared): State<Arc<SandboxState>>) -> Json<Value> {
    let mut stats = shared.stats.to_json();
    let usage = shared.media.usage();
    if let Value::Object(stats) = &mut stats {
        stats.insert("callback_data".into(), json!(shared.journal.callback_data()));
        stats.insert("statuses_waiting".into(), json!(shared.webhook_sender.pending_count()));
        let media = json!({ "files": usage.files, "bytes": usage.bytes, "evicted": usage.evicted });
        stats.insert("media_kept".into(), media);
    }
    Json(stats)
}

/// `POST /_sandbox/reset`: clears all state except the webhook receiver.
pub async fn reset(State(shared): State<Arc<SandboxState>>) -> Json<Value> {
    shared.reset();
    Json(json!({ "ok": true }))
}

/// One fault or a list of faults.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum FaultInput {
    Several(Vec<Value>),
    One(Value),
}

/// `POST /_sandbox/faults`: arms faults.
///
/// # Errors
/// A fault is malformed, or too many faults are armed.
pub async fn arm(
    State(shared): State<Arc<SandboxState>>,
    LenientJson(input): LenientJson<FaultInput>,
) -> Result<Json<Value>, ControlError> {
    let input = match input {
        FaultInput::Several(list) => list,
        FaultInput::One(fault) => vec![fault],
    };
    // Parsed one by one, so that the error names the field and not only the enum.
    let parse = |(index, value)| {
        serde_json::from_value::<Fault>(value)
            .map_err(|error| ControlError::invalid(format!("fault {index}: {error}")))
    };
    let faults = input.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    match shared.faults.arm(faults) {
        Some(ids) => Ok(Json(json!({ "ids": ids }))),
        None => Err(ControlError::invalid(format!(
            "at most {MAX_FAULTS} faults can be armed: DELETE /_sandbox/faults"
        ))),
    }
}

/// `GET /_sandbox/faults`: the armed faults.
pub async fn faults(State(shared): State<Arc<SandboxState>>) -> Json<Value> {
    Json(json!({ "faults": shared.faults.list() }))
}

/// Query of [`disarm`].
#[derive(Debug, Deserialize)]
pub struct DisarmQuery {
    id: Option<u64>,
}

/// `DELETE /_sandbox/faults`: disarms all faults, or the one with `?id=`.
pub async fn disarm(
    State(shared): State<Arc<SandboxState>>,
    Query(query): Query<DisarmQuery>,
) -> Json<Value> {
    Json(json!({ "disarmed": shared.faults.disarm(query.id) }))
}

/// A new webhook receiver; `{"url": null}` removes the current one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverRequest {
    url: Option<Url>,
    /// Default: the secret of the current receiver.
    app_secret: Option<Secret>,
    verify_token: Option<Secret>,
}

/// `POST /_sandbox/webhook`: sets the webhook receiver. With a verify token the receiver must pass Meta's
/// verification first.
///
/// # Errors
/// The URL is not http or https, or the verification failed.
pub async fn set_webhook(
    State(shared): State<Arc<SandboxState>>,
    LenientJson(request): LenientJson<ReceiverRequest>,
) -> Result<Json<Value>, ControlError> {
    let Some(url) = request.url else {
        shared.webhook_sender.set_receiver(None);
        return Ok(Json(json!({ "url": null })));
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ControlError::invalid("url: must be http or https"));
    }
    let verified = match &request.verify_token {
        Some(token) => Some(shared.webhook_sender.verify(&url, token).await),
        None => None,
    };
    if let Some(Err(reason)) = &verified {
        let reason = format!("the receiver failed verification and was not set: {reason}");
        return Err(ControlError { status: StatusCode::UNPROCESSABLE_ENTITY, reason });
    }
    let previous = shared.webhook_sender.receiver().and_then(|receiver| receiver.app_secret.clone());
    let app_secret = request.app_secret.or(previous).or_else(|| shared.options.app_secret.clone());
    let answer = json!({ "url": url, "signed": app_secret.is_some(), "verified": verified.map(|_| true) });
    shared.webhook_sender.set_receiver(Some(WebhookReceiver { url, app_secret }));
    Ok(Json(answer))
}

/// `POST /_sandbox/statuses`: sends any webhook. A complete body (with `object`) is sent unchanged, a change
/// (`field` and `value`) is wrapped in an envelope, and every other value is sent as a change of the field
/// `messages`.
///
/// # Errors
/// The body is not JSON, or there is no receiver.
pub async fn post_statuses(
    State(shared): State<Arc<SandboxState>>,
    body: Bytes,
) -> Result<Json<Value>, ControlError> {
    let value: Value = Json::from_bytes(&body)?.0;
    let webhook: Bytes = if value.get("object").is_some() {
        body
    } else {
        let (field, value) = match (value.get("field").and_then(Value::as_str), value.get("value")) {
            (Some(field), Some(inner)) => (field, inner),
            _ => ("messages", &value),
        };
        webhook_body::change_body(&shared, field, value).map_err(ControlError::internal)?.into()
    };
    match shared.webhook_sender.deliver(&shared, webhook, 1).await {
        DeliveryResult::NoReceiver => Err(ControlError::no_receiver()),
        delivery => Ok(Json(with_delivery(delivery, json!({})))),
    }
}

/// Adds to `answer` whether the receiver accepted a webhook, and its HTTP status.
pub fn with_delivery(delivery: DeliveryResult, mut answer: Value) -> Value {
    if let Value::Object(answer) = &mut answer {
        let status = match delivery {
            DeliveryResult::Accepted => Some(200),
            DeliveryResult::Rejected(status) => status.map(|status| status.as_u16()),
            DeliveryResult::NoReceiver => None,
        };
        answer.insert("delivered".into(), json!(delivery == DeliveryResult::Accepted));
        answer.insert("receiver_status".into(), json!(status));
    }
    answer
}
