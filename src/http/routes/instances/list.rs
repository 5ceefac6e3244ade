//! `GET /instances`.

use axum::Json;
use axum::extract::State;

use super::dto::response::InstanceList;
use super::load_instance;
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
    let views = state.services.instances.list();
    let data = views.into_iter().map(|view| load_instance(&state, view)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(InstanceList { success: true, total: data.len(), data }))
}
