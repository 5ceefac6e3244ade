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

/// Answers Meta's verification of this address.
#[utoipa::path(get, path = "/webhook", operation_id = "verify_webhook", tag = "webhook", params(VerificationQuery), responses(
    (status = 200, description = "The challenge.", body = String, content_type = "text/plain"),
    (status = 400, description = "There is no challenge.", body = ErrorBody),
    (status = 403, description = "The word is not one of ours.", body = String, content_type = "text/plain"),
))]
pub async fn verify(
    _: Open,
    State(state): State<AppState>,
    query: Result<Query<VerificationQuery>, QueryRejection>,
) -> Response {
    answer_challenge(&state, &state.services.instances.accounts(), query)
}

/// Answers Meta's verification of one instance's own address.
#[utoipa::path(get, path = "/instances/{id}/cloud-webhook", operation_id = "verify_cloud_webhook", tag = "webhook",
    params(TargetInstance, VerificationQuery), responses(
        (status = 200, description = "The challenge.", body = String, content_type = "text/plain"),
        (status = 400, description = "There is no challenge.", body = ErrorBody),
        (status = 403, description = "The word is neither the instance's nor the node's.", body = String,
            content_type = "text/plain"),
        (status = 404, description = "The word is the node's, and there is no such instance on the Cloud API.",
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
