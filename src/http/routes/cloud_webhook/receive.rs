//! Deliveries of Meta.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::find_account;
use crate::http::access::Open;
use crate::http::body::BodyObserver;
use crate::http::connection::Connection;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::http::{AppState, body};
use crate::inbound::{SignatureCheck, WebhookAccount};

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
        (status = 408, description = "The body did not arrive in time.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        (status = 503, description = "It could not be stored; Meta repeats it.", body = ErrorBody),
    ))]
pub async fn receive(
    _: Open,
    State(state): State<AppState>,
    request: Request,
) -> Result<Json<WebhookReceivedResponse>, ApiError> {
    let accounts = state.services.instances.accounts();
    receive_delivery(&state, Some(accounts.as_ref()), request).await
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
        (status = 408, description = "The body did not arrive in time.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
        (status = 503, description = "It could not be stored; Meta repeats it.", body = ErrorBody),
    ))]
pub async fn receive_for_instance(
    _: Open,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    request: Request,
) -> Result<Json<WebhookReceivedResponse>, ApiError> {
    let account = find_account(&state, &id);
    receive_delivery(&state, account.as_ref().map(std::slice::from_ref), request).await
}

/// Receives a delivery to these accounts; `None` stands for an instance that does not exist.
async fn receive_delivery(
    state: &AppState,
    accounts: Option<&[WebhookAccount]>,
    request: Request,
) -> Result<Json<WebhookReceivedResponse>, ApiError> {
    let inbound = &state.services.inbound;
    let count_too_large = |error: &ApiError| {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            inbound.count_too_large();
        }
    };
    let request = body::check_announced_length(request, BODY_LIMIT).inspect_err(count_too_large)?;
    let signature = request.headers().get(SIGNATURE_HEADER).and_then(|value| value.to_str().ok());
    let mut check = match inbound.begin_check(accounts, signature) {
        Ok(check) => check,
        Err(forged) => {
            body::discard(request, BODY_LIMIT);
            return Err(forged.into());
        }
    };
    let connection = request.extensions().get::<Connection>().cloned();
    let received = body::receive_open_body(request, BODY_LIMIT, state, &mut check).await;
    let received = received.inspect_err(count_too_large)?;
    let signed = inbound.finish_check(check, received.bytes)?;
    if let Some(connection) = connection {
        connection.prove_request();
    }
    // An instance that does not exist has no valid signature.
    let counts = inbound.receive(accounts.unwrap_or_default(), signed).await?;
    tracing::debug!(?counts, "webhook received");
    Ok(Json(WebhookReceivedResponse { success: true, message: "Webhook enviado al WebSocket" }))
}

/// The signature is computed while the body arrives.
impl BodyObserver for SignatureCheck {
    async fn observe(&mut self, bytes: &[u8]) {
        self.update(bytes).await;
    }
}
