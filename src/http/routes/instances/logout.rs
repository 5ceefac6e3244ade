//! `POST /instances/{id}/logout`.

use axum::Json;
use axum::extract::State;

use super::dto::response::InstanceResponse;
use super::instance_response;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// Unlinks the instance from its phone and deletes its keys; queued messages wait. To disconnect without unlinking,
/// use `disconnect`.
#[utoipa::path(post, path = "/instances/{id}/logout", operation_id = "logout_instance", tag = "instances",
    params(TargetInstance), responses(
        (status = 200, description = "It is unlinked.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
        (status = 501, description = "The provider of this instance does not link to a phone.", body = ErrorBody),
    ))]
pub async fn logout(
    _: Access<scope::Manage>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.logout(&id).await?;
    instance_response(&state, view, Some("Sesión cerrada"))
}
