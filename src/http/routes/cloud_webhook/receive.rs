//! Deliveries of Meta.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::find_account;
use crate::http::access::Open;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::http::{AppState, body};
use crate::inbound::WebhookAccount;

/// The largest delivery that is taken, in bytes. Meta's are up to 3 MB (developers.facebook.com, WhatsApp
/// webhooks).
const BODY_LIMIT: usize = 4 << 20;

/// Carries `sha256=` and the HMAC of the body under the app secret.
const SIGNATURE_HEADER: &str = "x-hub-signature-256";

/// The delivery is durable.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookReceivedResponse {
    success: bool,
    /// Always the same words, which callers of the documented system know.
    #[schema(example = "Webhook enviado al WebSocket")]
    message: &'static str,
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
    _: Open,
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
    params(TargetInstance, ("X-Hub-Signature-256" = String, Header,
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
    _: Open,
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
