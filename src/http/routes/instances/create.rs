//! `POST /instances`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::account_response;
use super::dto::request::CreateInstance;
use super::dto::response::InstanceResponse;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::JsonBody;
use crate::http::{AppState, json};

/// Creates an instance. A Cloud API instance connects at once; a linked device connects on request, or when its QR
/// code is requested.
#[utoipa::path(post, path = "/instances", operation_id = "create_instance", tag = "instances", request_body = CreateInstance, responses(
    (status = 201, description = "It is created, durably.", body = InstanceResponse),
    (status = 400, description = "A setting is missing or wrong.", body = ErrorBody),
    (status = 409, description = "An instance of that name exists.", body = ErrorBody),
    (status = 501, description = "This node does not have that provider.", body = ErrorBody),
))]
pub async fn create(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<InstanceResponse>), ApiError> {
    let (config, webhook_url) = json::parse::<CreateInstance>(&body)?.into_parts(&state.cloud_defaults)?;
    let account = state.services.accounts.create(config, webhook_url).await?;
    Ok((StatusCode::CREATED, account_response(account, Some("Instancia creada exitosamente"))))
}
