//! `GET /queue`.

use axum::Json;
use axum::extract::State;

use super::dto::QueueList;
use super::load_queue;
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;

/// The queues of all instances.
#[utoipa::path(get, path = "/queue", operation_id = "list_queues", tag = "queue", responses(
    (status = 200, description = "All queues, by the names of their instances.", body = QueueList),
))]
pub async fn list_all(
    _: Access<scope::Read>,
    State(state): State<AppState>,
) -> Result<Json<QueueList>, ApiError> {
    let mut data = Vec::new();
    for view in state.services.instances.list() {
        data.push(load_queue(&state, view.config.id, view.number).await?);
    }
    let total = data.iter().map(|queue| queue.depth.total).sum();
    Ok(Json(QueueList { success: true, data, total }))
}
