//! `GET /instances/{id}`.

use axum::Json;
use axum::extract::State;

use super::account_response;
use super::dto::response::InstanceResponse;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// One instance.
#[utoipa::path(get, path = "/instances/{id}", operation_id = "get_instance", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "The instance.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    Ok(account_response(state.services.accounts.get(&id)?, None))
}
