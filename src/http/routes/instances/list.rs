//! `GET /instances`.

use axum::Json;
use axum::extract::State;

use super::dto::response::{Instance, InstanceList};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;

/// Lists the instances.
#[utoipa::path(get, path = "/instances", operation_id = "list_instances", tag = "instances", responses(
    (status = 200, description = "All instances, by name.", body = InstanceList),
))]
pub async fn list(
    _: Access<scope::Read>,
    State(state): State<AppState>,
) -> Result<Json<InstanceList>, ApiError> {
    let data: Vec<_> = state.services.accounts.list()?.into_iter().map(Instance::new).collect();
    Ok(Json(InstanceList { success: true, total: data.len(), data }))
}
