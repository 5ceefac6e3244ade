//! `/webhook` and `/instances/{id}/cloud-webhook`: where Meta reports. No API key: what comes in is signed.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryParams, TargetInstance};
use crate::http::page::{self, PageResponse};
use crate::http::{AppState, body};
use crate::inbound::{self, QuarantineId, QuarantinedBody, WebhookAccount};
use relevo_domain::{InstanceId, Timestamp, ValidationError};

/// The largest delivery that is taken, in bytes. Meta's are up to 3 MB (developers.facebook.com, WhatsApp
/// webhooks).
const BODY_LIMIT: usize = 4 << 20;

/// The most kept deliveries of a page.
const MAX_QUARANTINED: usize = 10;

/// Carries `sha256=` and the HMAC of the body under the app secret.
const SIGNATURE_HEADER: &str = "x-hub-signature-256";

/// What Meta asks when the webhook's address is entered.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct VerificationQuery {
    /// `subscribe`.
    #[serde(rename = "hub.mode", default)]
    #[param(required = true)]
    mode: String,
    /// The word that was entered beside the address.
    #[serde(rename = "hub.verify_token", default)]
    #[param(required = true)]
    verify_token: String,
    /// What is to be answered.
    #[serde(rename = "hub.challenge", default)]
    #[param(required = true)]
    challenge: String,
}

/// The delivery is durable.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookReceivedResponse {
    success: bool,
    /// Always the same words, which callers of the documented system know.
    #[schema(example = "Webhook enviado al WebSocket")]
    message: &'static str,
}

/// A delivery that nobody understood, as it came.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuarantinedWebhook {
    received_at: String,
    /// What about it made no sense, and where.
    reason: String,
    /// Its length when it came, in bytes. What no secret vouches for is kept cut to 64 KiB.
    bytes: usize,
    /// Not there when it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The same in base64, when it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Which page of kept deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct QuarantineQuery {
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500, of which at most 10 are given at once; each may have megabytes.
    limit: Option<usize>,
}

/// Answers Meta's verification of this address.
#[utoipa::path(get, path = "/webhook", operation_id = "verify_webhook", tag = "webhook", params(VerificationQuery), responses(
    (status = 200, description = "The challenge.", body = String, content_type = "text/plain"),
    (status = 400, description = "There is no challenge.", body = ErrorBody),
    (status = 403, description = "The word is not one of ours.", body = String, content_type = "text/plain"),
))]
pub async fn verify(
    State(state): State<AppState>,
    query: Result<Query<VerificationQuery>, QueryRejection>,
) -> Response {
    answer_challenge(&state, &state.services.instances.accounts(), query)
}

/// Answers Meta's verification of one instance's own address.
#[utoipa::path(get, path = "/instances/{id}/cloud-webhook", operation_id = "verify_cloud_webhook", tag = "webhook",
    params(("id" = String, Path, description = "The instance's name."), VerificationQuery), responses(
        (status = 200, description = "The challenge.", body = String, content_type = "text/plain"),
        (status = 400, description = "There is no challenge.", body = ErrorBody),
        (status = 403, description = "The word is neither the instance's nor the node's.", body = String,
            content_type = "text/plain"),
        (status = 404, description = "The word is the node's, and there is no such instance on the Cloud API.",
            body = ErrorBody),
    ))]
pub async fn verify_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    query: Result<Query<VerificationQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let account = find_account(&state, &id);
    let answer = answer_challenge(&state, account.as_slice(), query);
    // Who does not know a word is not told who exists.
    if account.is_none() && answer.status() != StatusCode::FORBIDDEN {
        return Err(ApiError::unknown_instance(id.as_str()));
    }
    Ok(answer)
}

fn answer_challenge(
    state: &AppState,
    accounts: &[WebhookAccount],
    query: Result<Query<VerificationQuery>, QueryRejection>,
) -> Response {
    let known = query.ok().filter(|Query(asked)| {
        let node_token = state.cloud_defaults.verify_token.as_ref();
        inbound::verify_subscription(accounts, node_token, &asked.mode, &asked.verify_token)
    });
    match known {
        None => (StatusCode::FORBIDDEN, "Error de verificación").into_response(),
        Some(Query(asked)) if asked.challenge.is_empty() => {
            ApiError::from(ValidationError::new("hub.challenge", "is missing")).into_response()
        }
        Some(Query(asked)) => asked.challenge.into_response(),
    }
}

/// Takes statuses, incoming messages and news of accounts from Meta. What is signed and makes no sense is kept for
/// inspection and answered with success, because Meta would only repeat it.
#[utoipa::path(post, path = "/webhook", operation_id = "receive_webhook", tag = "webhook", request_body = Object,
    params(("X-Hub-Signature-256" = String, Header,
        description = "`sha256=` and the HMAC-SHA256 of the body under the app secret.")),
    responses(
        (status = 200, description = "It is durable; Meta may forget it.", body = WebhookReceivedResponse),
        (status = 400, description = "The body broke off.", body = ErrorBody),
        (status = 403, description = "The signature is missing or wrong.", body = ErrorBody),
        (status = 413, description = "It is larger than Meta's webhooks are.", body = ErrorBody),
        (status = 503, description = "It could not be kept; Meta repeats it.", body = ErrorBody),
    ))]
pub async fn receive(
    State(state): State<AppState>,
    headers: HeaderMap,
    RawWebhook(delivery): RawWebhook,
) -> Result<Json<WebhookReceivedResponse>, ApiError> {
    receive_delivery(&state, &state.services.instances.accounts(), &headers, delivery).await
}

/// The same for one instance: what concerns another one is kept, and nobody is told of it. For an instance that there
/// is not, no signature is right.
#[utoipa::path(post, path = "/instances/{id}/cloud-webhook", operation_id = "receive_cloud_webhook", tag = "webhook",
    request_body = Object,
    params(("id" = String, Path, description = "The instance's name."), ("X-Hub-Signature-256" = String, Header,
        description = "`sha256=` and the HMAC-SHA256 of the body under the app secret.")),
    responses(
        (status = 200, description = "It is durable; Meta may forget it.", body = WebhookReceivedResponse),
        (status = 400, description = "The body broke off.", body = ErrorBody),
        (status = 403, description = "The signature is missing or wrong, or there is no such instance on the Cloud API.",
            body = ErrorBody),
        (status = 413, description = "It is larger than Meta's webhooks are.", body = ErrorBody),
        (status = 503, description = "It could not be kept; Meta repeats it.", body = ErrorBody),
    ))]
pub async fn receive_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    headers: HeaderMap,
    RawWebhook(delivery): RawWebhook,
) -> Result<Json<WebhookReceivedResponse>, ApiError> {
    match find_account(&state, &id) {
        Some(account) => receive_delivery(&state, &[account], &headers, delivery).await,
        None => Err(state.services.inbound.reject_unknown_instance().into()),
    }
}

async fn receive_delivery(
    state: &AppState,
    accounts: &[WebhookAccount],
    headers: &HeaderMap,
    delivery: body::ReceivedBody,
) -> Result<Json<WebhookReceivedResponse>, ApiError> {
    let signature = headers.get(SIGNATURE_HEADER).and_then(|value| value.to_str().ok());
    let received = state.services.inbound.receive(accounts, delivery.bytes, signature).await?;
    tracing::debug!(?received, "webhook");
    Ok(Json(WebhookReceivedResponse { success: true, message: "Webhook enviado al WebSocket" }))
}

fn find_account(state: &AppState, id: &InstanceId) -> Option<WebhookAccount> {
    let accounts = state.services.instances.accounts();
    accounts.iter().find(|account| account.name == *id).cloned()
}

/// Deliveries that nobody understood, the newest first. The newest 200 are kept.
#[utoipa::path(get, path = "/webhook/kept", operation_id = "list_kept_webhooks", tag = "webhook", params(QuarantineQuery),
    responses(
        (status = 200, description = "A page of them.", body = PageResponse<QuarantinedWebhook>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_quarantined(
    State(state): State<AppState>,
    QueryParams(wanted): QueryParams<QuarantineQuery>,
) -> Result<Json<PageResponse<QuarantinedWebhook>>, ApiError> {
    let limit = page::validate_limit(wanted.limit)?.min(MAX_QUARANTINED);
    let after = wanted.after.as_deref().map(parse_cursor).transpose()?;
    let found = state.services.inbound.list_quarantined(after, limit).await?;
    let cursor = |kept: &QuarantinedBody| Some(format!("{}.{}", kept.id.at.millis(), kept.id.nonce));
    Ok(Json(PageResponse::new(found, limit, cursor)))
}

/// The place that a page's `next` names.
fn parse_cursor(cursor: &str) -> Result<QuarantineId, ValidationError> {
    let parts = cursor.split_once('.').and_then(|(at, nonce)| {
        Some(QuarantineId { at: Timestamp(at.parse().ok()?), nonce: nonce.parse().ok()? })
    });
    parts.ok_or_else(|| ValidationError::new("after", "must be the `next` of the page before"))
}

impl From<QuarantinedBody> for QuarantinedWebhook {
    fn from(kept: QuarantinedBody) -> Self {
        let text = std::str::from_utf8(&kept.body).ok().map(str::to_owned);
        Self {
            received_at: kept.id.at.to_string(),
            reason: kept.reason,
            bytes: kept.size,
            body_base64: text.is_none().then(|| STANDARD.encode(&kept.body)),
            body: text,
        }
    }
}

/// The raw bytes of a webhook: they are what is signed.
pub(in crate::http) struct RawWebhook(body::ReceivedBody);

impl FromRequest<AppState> for RawWebhook {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let arrived = body::receive_body(request, BODY_LIMIT, state).await;
        arrived.map(Self).inspect_err(|refusal| {
            if refusal.status() == StatusCode::PAYLOAD_TOO_LARGE {
                state.services.inbound.count_too_large();
            }
        })
    }
}
