//! `PUT /instances/{id}`.

use axum::Json;
use axum::extract::State;

use super::account_response;
use super::dto::request::UpdateInstance;
use super::dto::response::InstanceResponse;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::{AppState, json};

/// Updates an instance; omitted fields keep their values.
#[utoipa::path(put, path = "/instances/{id}", operation_id = "update_instance", tag = "instances", request_body = UpdateInstance,
    params(TargetInstance), responses(
        (status = 200, description = "It is updated, durably.", body = InstanceResponse),
        (status = 400, description = "A setting is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn update(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<InstanceResponse>, ApiError> {
    let changes: UpdateInstance = json::parse(&body)?;
    let webhook_url = changes.webhook_url()?;
    let account = state.services.accounts.update(id, |config| changes.apply(config), webhook_url).await?;
    Ok(account_response(account, Some("Instancia actualizada exitosamente")))
}
