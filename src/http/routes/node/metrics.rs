//! `GET /metrics`.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::ApiError;

/// OpenMetrics 1.0, "Overall Structure".
const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics for Prometheus. They name the instances, so the key is required.
#[utoipa::path(get, path = "/metrics", operation_id = "get_metrics", tag = "node", responses(
    (status = 200, description = "Counters, gauges and histograms in the text format of OpenMetrics.",
        body = String, content_type = "application/openmetrics-text"),
))]
pub async fn metrics(
    _: Access<scope::Read>,
    State(state): State<AppState>,
) -> Result<impl IntoResponse, ApiError> {
    let reading = tokio::task::spawn_blocking(move || (state.services.metrics)());
    let text = reading.await.map_err(|_| ApiError::handler_panicked())?;
    Ok(([(CONTENT_TYPE, OPENMETRICS_TYPE)], text))
}
