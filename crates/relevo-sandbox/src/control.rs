//! The control plane under `/_sandbox/`: for tests and for people, never for what is being tested.

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

/// Why the control plane did not do what it was asked, in words.
#[derive(Debug)]
pub struct ControlError {
    status: StatusCode,
    reason: String,
}

impl ControlError {
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: reason.into() }
    }

    pub fn no_receiver() -> Self {
        let reason = "there is no webhook receiver: name one with POST /_sandbox/webhook {\"url\": …}";
        Self { status: StatusCode::CONFLICT, reason: reason.into() }
    }

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

/// JSON whatever the content type says: people type `curl -d` here.
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

/// `GET /`: what there is.
pub async fn index() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], include_str!("index.txt")).into_response()
}

#[derive(Debug, Deserialize)]
pub struct MessagesQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    to: Option<String>,
    /// How long to wait for something to show, in milliseconds; none when absent, a minute at most.
    #[serde(default)]
    wait_ms: u64,
}

/// The most entries on one page.
const MAX_PAGE: usize = 10_000;

const MAX_WAIT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct MessagesPage<'a> {
    messages: Vec<JournalEntryView<'a>>,
    /// Pass it as `after` to go on from here.
    last: u64,
    more: bool,
    /// Older ones that are no longer kept.
    forgotten: u64,
}

/// `GET /_sandbox/messages`.
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
        // Listens before it looks, so that nothing can come unnoticed in between.
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

/// `GET /_sandbox/stats`.
pub async fn stats(State(shared): State<Arc<SandboxState>>) -> Json<Value> {
    let mut stats = shared.stats.to_json();
    let fill = shared.media.usage();
    if let Value::Object(stats) = &mut stats {
        stats.insert("callback_data".into(), json!(shared.journal.callback_data()));
        stats.insert("statuses_waiting".into(), json!(shared.webhook_sender.pending_count()));
        let media = json!({ "files": fill.files, "bytes": fill.bytes, "evicted": fill.evicted });
        stats.insert("media_kept".into(), media);
    }
    Json(stats)
}

/// `POST /_sandbox/reset`.
pub async fn reset(State(shared): State<Arc<SandboxState>>) -> Json<Value> {
    shared.reset();
    Json(json!({ "ok": true }))
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum FaultInput {
    Several(Vec<Value>),
    One(Value),
}

/// `POST /_sandbox/faults`.
pub async fn arm(
    State(shared): State<Arc<SandboxState>>,
    LenientJson(given): LenientJson<FaultInput>,
) -> Result<Json<Value>, ControlError> {
    let given = match given {
        FaultInput::Several(list) => list,
        FaultInput::One(one) => vec![one],
    };
    // One by one, so that the reason names the field and not merely that no variant fitted.
    let parse = |(index, value)| {
        serde_json::from_value::<Fault>(value)
            .map_err(|error| ControlError::invalid(format!("fault {index}: {error}")))
    };
    let faults = given.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    match shared.faults.arm(faults) {
        Some(ids) => Ok(Json(json!({ "ids": ids }))),
        None => Err(ControlError::invalid(format!(
            "at most {MAX_FAULTS} faults can be armed: DELETE /_sandbox/faults"
        ))),
    }
}

/// `GET /_sandbox/faults`.
pub async fn faults(State(shared): State<Arc<SandboxState>>) -> Json<Value> {
    Json(json!({ "faults": shared.faults.list() }))
}

#[derive(Debug, Deserialize)]
pub struct DisarmQuery {
    id: Option<u64>,
}

/// `DELETE /_sandbox/faults`, all or one by `?id=`.
pub async fn disarm(
    State(shared): State<Arc<SandboxState>>,
    Query(which): Query<DisarmQuery>,
) -> Json<Value> {
    Json(json!({ "disarmed": shared.faults.disarm(which.id) }))
}

/// A new receiver; `{"url": null}` removes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverRequest {
    url: Option<Url>,
    /// Absent: the one that webhooks were signed with so far.
    app_secret: Option<Secret>,
    verify_token: Option<Secret>,
}

/// `POST /_sandbox/webhook`. With a verify token the receiver must pass Meta's verification first.
pub async fn set_webhook(
    State(shared): State<Arc<SandboxState>>,
    LenientJson(new): LenientJson<ReceiverRequest>,
) -> Result<Json<Value>, ControlError> {
    let Some(url) = new.url else {
        shared.webhook_sender.set_receiver(None);
        return Ok(Json(json!({ "url": null })));
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ControlError::invalid("url: must be http or https"));
    }
    let verified = match &new.verify_token {
        Some(token) => Some(shared.webhook_sender.verify(&url, token).await),
        None => None,
    };
    if let Some(Err(reason)) = &verified {
        let reason = format!("the receiver failed verification and was not set: {reason}");
        return Err(ControlError { status: StatusCode::UNPROCESSABLE_ENTITY, reason });
    }
    let before = shared.webhook_sender.receiver().and_then(|receiver| receiver.app_secret.clone());
    let app_secret = new.app_secret.or(before).or_else(|| shared.options.app_secret.clone());
    let answer = json!({ "url": url, "signed": app_secret.is_some(), "verified": verified.map(|_| true) });
    shared.webhook_sender.set_receiver(Some(WebhookReceiver { url, app_secret }));
    Ok(Json(answer))
}

/// `POST /_sandbox/statuses`: any webhook at all, for odd payloads. A whole one (with `object`) goes out as it
/// is, a change (`field` and `value`) is put into an envelope, and anything else is taken for a value of the
/// field `messages`.
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

/// Adds to `answer` whether the receiver took a webhook, and what it said when it did not.
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
