//! `/webhook`: where Meta reports. No API key: what comes in is signed.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::Invalid;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::{AppState, body};
use crate::inbound;

/// The largest delivery that is taken, in bytes. Meta's are up to 3 MB (developers.facebook.com, WhatsApp
/// webhooks).
const BODY_LIMIT: usize = 4 << 20;

/// Carries `sha256=` and the HMAC of the body under the app secret.
const SIGNATURE: &str = "x-hub-signature-256";

/// What Meta asks when the webhook's address is entered.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Verification {
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
pub struct Taken {
    success: bool,
}

/// Answers Meta's verification of this address.
#[utoipa::path(get, path = "/webhook", operation_id = "verify_webhook", tag = "webhook", params(Verification), responses(
    (status = 200, description = "The challenge.", body = String, content_type = "text/plain"),
    (status = 400, description = "There is no challenge.", body = ErrorBody),
    (status = 403, description = "The word is not one of ours.", body = String, content_type = "text/plain"),
))]
pub async fn verify(
    State(state): State<AppState>,
    query: Result<Query<Verification>, QueryRejection>,
) -> Response {
    let known = query.ok().filter(|Query(asked)| {
        let accounts = state.services.instances.accounts();
        let node_token = state.cloud_defaults.verify_token.as_ref();
        inbound::verify(&accounts, node_token, &asked.mode, &asked.verify_token)
    });
    match known {
        None => (StatusCode::FORBIDDEN, "Error de verificación").into_response(),
        Some(Query(asked)) if asked.challenge.is_empty() => {
            ApiError::from(Invalid::new("hub.challenge", "is missing")).into_response()
        }
        Some(Query(asked)) => asked.challenge.into_response(),
    }
}

/// Takes statuses and incoming messages from Meta.
#[utoipa::path(post, path = "/webhook", operation_id = "receive_webhook", tag = "webhook", request_body = Object,
    params(("X-Hub-Signature-256" = String, Header,
        description = "`sha256=` and the HMAC-SHA256 of the body under the app secret.")),
    responses(
        (status = 200, description = "It is durable; Meta may forget it.", body = Taken),
        (status = 400, description = "It is not a webhook of the Cloud API.", body = ErrorBody),
        (status = 403, description = "The signature is missing or wrong.", body = ErrorBody),
        (status = 413, description = "It is larger than Meta's webhooks are.", body = ErrorBody),
        (status = 503, description = "It could not be kept; Meta repeats it.", body = ErrorBody),
    ))]
pub async fn receive(
    State(state): State<AppState>,
    headers: HeaderMap,
    Delivery(delivery): Delivery,
) -> Result<Json<Taken>, ApiError> {
    let signature = headers.get(SIGNATURE).and_then(|value| value.to_str().ok());
    let accounts = state.services.instances.accounts();
    let received = state.services.inbound.receive(&accounts, delivery.bytes, signature).await?;
    tracing::debug!(?received, "webhook");
    Ok(Json(Taken { success: true }))
}

/// The raw bytes of a webhook: they are what is signed.
pub(in crate::http) struct Delivery(body::Arrived);

impl FromRequest<AppState> for Delivery {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(body::receive(request, BODY_LIMIT, state).await?))
    }
}
