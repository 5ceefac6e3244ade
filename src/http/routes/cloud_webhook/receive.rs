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

/// Maximum size of a delivery, in bytes. Meta's are up to 3 MB (developers.facebook.com, WhatsApp webhooks).
const BODY_LIMIT: usize = 4 << 20;

/// The header with `sha256=` and the HMAC of the body under the app secret.
const SIGNATURE_HEADER: &str = "x-hub-signature-256";

/// The delivery is durable.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookReceivedResponse {
    success: bool,
    /// The constant text of the documented system.
    #[schema(example = "Webhook enviado al WebSocket")]
    message: &'static str,
}

/// Receives statuses, incoming messages and account updates from Meta. A signed delivery that cannot be parsed is
/// quarantined and answered with success, because Meta would only repeat it.
#[utoipa::path(post, path = "/webhook", operation_id = "receive_webhook", tag = "webhook", request_body = Object,
    params(("X-Hub-Signature-256" = String, Header,
        description = "`sha256=` and the HMAC-SHA256 of the body under the app secret.")),
    responses(
        (status = 200, description = "It is durable; Meta need not repeat it.", body = WebhookReceivedResponse),
        (status = 400, description = "The body is incomplete.", body = ErrorBody),
        (status = 403, description = "The signature is missing or wrong.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        (status = 503, description = "It could not be stored; Meta repeats it.", body = ErrorBody),
    ))]
pub async fn receive(
    _: Open,
    State(state): State<AppState>,
    headers: HeaderMap,
    RawWebhook(delivery): RawWebhook,
) -> Result<Json<WebhookReceivedResponse>, ApiError> {
    receive_delivery(&state, &state.services.instances.accounts(), &headers, delivery).await
}

/// The same for one instance: changes of other accounts are quarantined. For an unknown instance, no signature is
/// valid.
#[utoipa::path(post, path = "/instances/{id}/cloud-webhook", operation_id = "receive_cloud_webhook", tag = "webhook",
    request_body = Object,
    params(TargetInstance, ("X-Hub-Signature-256" = String, Header,
        description = "`sha256=` and the HMAC-SHA256 of the body under the app secret.")),
    responses(
        (status = 200, description = "It is durable; Meta need not repeat it.", body = WebhookReceivedResponse),
        (status = 400, description = "The body is incomplete.", body = ErrorBody),
        (status = 403, description = "The signature is missing or wrong, or there is no such instance on the Cloud API.",
            body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        (status = 503, description = "It could not be stored; Meta repeats it.", body = ErrorBody),
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

/// The raw bytes of a delivery: the signature covers them.
pub(in crate::http) struct RawWebhook(body::ReceivedBody);

impl FromRequest<AppState> for RawWebhook {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let received = body::receive_body(request, BODY_LIMIT, state).await;
        received.map(Self).inspect_err(|error| {
            if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
                state.services.inbound.count_too_large();
            }
        })
    }
}
