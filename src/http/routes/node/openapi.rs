//! `GET /openapi.json`.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::http::AppState;
use crate::http::access::Open;

/// This document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "get_openapi", tag = "node", responses(
    (status = 200, description = "The OpenAPI document of this API.", body = Object),
))]
pub async fn openapi_document(_: Open, State(state): State<AppState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], state.openapi_document.get().cloned().unwrap_or_default())
}
