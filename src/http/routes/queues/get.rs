//! `GET /instances/{id}/queue`.

use axum::Json;
use axum::extract::State;

use super::dto::QueueResponse;
use super::load_queue;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::TargetInstance;

/// The queue of an instance, by recipient.
#[utoipa::path(get, path = "/instances/{id}/queue", operation_id = "get_queue", tag = "queue", params(TargetInstance), responses(
    (status = 200, description = "The queue.", body = QueueResponse),
    (status = 404, description = "No such instance.", body = ErrorBody),
))]
pub async fn get_for_instance(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<QueueResponse>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    Ok(Json(QueueResponse { success: true, data: load_queue(&state, id, number).await? }))
}
