//! `PUT /instances/{id}`.

use axum::Json;
use axum::extract::State;

use super::dto::request::UpdateInstance;
use super::dto::response::InstanceResponse;
use super::{instance_response, webhook};
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
    let sets_webhook = changes.sets_webhook();
    let config = changes.apply(state.services.instances.get(&id)?.config)?;
    let url = config.webhook_url.clone().filter(|_| sets_webhook);
    webhook::check_webhook_url(&state, url.as_ref()).await?;
    let view = state.services.instances.update(config).await?;
    if sets_webhook {
        webhook::set_webhook(&state, view.number, url).await?;
    }
    instance_response(&state, view, Some("Instancia actualizada exitosamente"))
}
