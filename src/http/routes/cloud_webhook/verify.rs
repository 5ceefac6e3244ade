//! The verification of the webhook address by Meta.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::find_account;
use crate::http::AppState;
use crate::http::access::Open;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::inbound::{self, WebhookAccount};
use relevo_domain::ValidationError;

/// The query of Meta's verification request.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct VerificationQuery {
    /// `subscribe`.
    #[serde(rename = "hub.mode", default)]
    #[param(required = true)]
    mode: String,
    /// The verify token.
    #[serde(rename = "hub.verify_token", default)]
    #[param(required = true)]
    verify_token: String,
    /// The text to return.
    #[serde(rename = "hub.challenge", default)]
    #[param(required = true)]
    challenge: String,
}

/// Answers Meta's verification of this address.
#[utoipa::path(get, path = "/webhook", operation_id = "verify_webhook", tag = "webhook", params(VerificationQuery), responses(
    (status = 200, description = "The challenge.", body = String, content_type = "text/plain"),
    (status = 400, description = "The challenge is missing.", body = ErrorBody),
    (status = 403, description = "The verify token is wrong.", body = String, content_type = "text/plain"),
))]
pub async fn verify(
    _: Open,
    State(state): State<AppState>,
    query: Result<Query<VerificationQuery>, QueryRejection>,
) -> Response {
    answer_challenge(&state, &state.services.instances.accounts(), query)
}

/// Answers Meta's verification of the webhook of one instance.
#[utoipa::path(get, path = "/instances/{id}/cloud-webhook", operation_id = "verify_cloud_webhook", tag = "webhook",
    params(TargetInstance, VerificationQuery), responses(
        (status = 200, description = "The challenge.", body = String, content_type = "text/plain"),
        (status = 400, description = "The challenge is missing.", body = ErrorBody),
        (status = 403, description = "The verify token is neither the instance's nor the node's.", body = String,
            content_type = "text/plain"),
        (status = 404, description = "The verify token is the node's, and no such Cloud API instance exists.",
            body = ErrorBody),
    ))]
pub async fn verify_for_instance(
    _: Open,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    query: Result<Query<VerificationQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let account = find_account(&state, &id);
    let answer = answer_challenge(&state, account.as_slice(), query);
    // Without a valid token, the response does not reveal which instances exist.
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
    let verified = query.ok().filter(|Query(verification)| {
        let node_token = state.cloud_defaults.verify_token.as_ref();
        inbound::verify_subscription(accounts, node_token, &verification.mode, &verification.verify_token)
    });
    match verified {
        None => (StatusCode::FORBIDDEN, "Error de verificación").into_response(),
        Some(Query(verification)) if verification.challenge.is_empty() => {
            ApiError::from(ValidationError::new("hub.challenge", "is missing")).into_response()
        }
        Some(Query(verification)) => verification.challenge.into_response(),
    }
}
