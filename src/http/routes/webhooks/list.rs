//! `GET …/webhooks`.

use axum::Json;
use axum::extract::State;

use super::dto::EndpointList;
use super::load_endpoint;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;
use crate::webhook::EndpointScope;

async fn list_endpoints(
    state: &AppState,
    scope: Option<EndpointScope>,
) -> Result<Json<EndpointList>, ApiError> {
    let mut data = Vec::new();
    for view in state.services.webhooks.list(scope) {
        let id = view.id;
        match load_endpoint(state, view).await {
            Ok(endpoint) => data.push(endpoint),
            // Deleted after the list was read.
            Err(_) if state.services.webhooks.get(id).is_err() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Json(EndpointList { success: true, total: data.len(), data }))
}

/// The endpoints of one instance.
#[utoipa::path(get, path = "/instances/{id}/webhooks", operation_id = "list_instance_endpoints", tag = "webhooks",
    params(TargetInstance), responses(
        (status = 200, description = "Its endpoints.", body = EndpointList),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list_for_instance(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<EndpointList>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    list_endpoints(&state, Some(EndpointScope::Instance(number))).await
}

/// Every endpoint of the node.
#[utoipa::path(get, path = "/webhooks", operation_id = "list_endpoints", tag = "webhooks", responses(
    (status = 200, description = "All endpoints.", body = EndpointList),
))]
pub async fn list(
    _: Access<scope::Read>,
    State(state): State<AppState>,
) -> Result<Json<EndpointList>, ApiError> {
    list_endpoints(&state, None).await
}
