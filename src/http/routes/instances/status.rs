//! `GET /instances/{id}/status`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::dto::response::{QueueDepth, StateReason};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// The state of an instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceStatusResponse {
    success: bool,
    instance_id: String,
    #[schema(example = "connected")]
    status: &'static str,
    #[schema(example = "connected")]
    state: &'static str,
    reason: StateReason,
    restarts: u32,
    queue: QueueDepth,
}

/// The state of an instance, its reason, and its queue depth.
#[utoipa::path(get, path = "/instances/{id}/status", operation_id = "get_instance_status", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "Its state.", body = InstanceStatusResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn status(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceStatusResponse>, ApiError> {
    let view = state.services.instances.get(&id)?;
    let depth = state.services.instances.depth(&id)?;
    Ok(Json(InstanceStatusResponse {
        success: true,
        instance_id: id.into(),
        status: view.state.state.as_str(),
        state: view.state.state.as_str(),
        reason: StateReason { code: view.state.reason.code, text: view.state.reason.text },
        restarts: view.state.restarts,
        queue: QueueDepth::new(depth),
    }))
}
