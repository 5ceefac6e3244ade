//! `GET /api/status`, which asks the parts, and `GET /api/health`, which needs no key.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::access::{Access, Open, scope};
use crate::instance::InstanceView;
use relevo_domain::InstanceState;

/// The parts that the documented service consisted of, and what stands for each here.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ServiceReport {
    /// `healthy`, or `degraded` when one of them is down.
    #[schema(example = "healthy")]
    status: &'static str,
    services: ServiceAvailability,
}

#[derive(Debug, Serialize, ToSchema)]
struct ServiceAvailability {
    /// What Meta reports can be taken in.
    webhook: bool,
    /// The default instance is connected; where there is no default, any instance is.
    whatsapp_service: bool,
    /// New messages can be queued.
    queue_service: bool,
    /// The consumer of received messages can be reached, or none is configured.
    websocket_service: bool,
}

/// Whether every part can do its work.
#[utoipa::path(get, path = "/api/status", operation_id = "api_status", tag = "api", responses(
    (status = 200, description = "Every part works.", body = ServiceReport),
    (status = 503, description = "At least one does not.", body = ServiceReport),
))]
pub async fn status(
    _: Access<scope::Read>,
    State(state): State<AppState>,
) -> (StatusCode, Json<ServiceReport>) {
    let health = (state.services.health)();
    let services = ServiceAvailability {
        webhook: !health.store_failed,
        whatsapp_service: is_connected(&state),
        queue_service: !health.store_failed && !health.disk_full,
        websocket_service: is_relay_available(&state).await,
    };
    let ServiceAvailability { webhook, whatsapp_service, queue_service, websocket_service } = services;
    let (code, status) = match webhook && whatsapp_service && queue_service && websocket_service {
        true => (StatusCode::OK, "healthy"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
    };
    (code, Json(ServiceReport { status, services }))
}

async fn is_relay_available(state: &AppState) -> bool {
    let relay = &state.services.relay;
    !relay.is_enabled() || relay.health().await.is_ok_and(|health| health.available)
}

fn is_connected(state: &AppState) -> bool {
    let instances = &state.services.instances;
    let connected = |view: &InstanceView| view.state.state == InstanceState::Connected;
    match &state.options.default_instance {
        Some(id) => instances.get(id).is_ok_and(|view| connected(&view)),
        None => instances.list().iter().any(connected),
    }
}

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ApiHealthResponse {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/api/health", operation_id = "api_health", tag = "api", responses(
    (status = 200, description = "It does.", body = ApiHealthResponse),
))]
pub async fn health(_: Open) -> Json<ApiHealthResponse> {
    Json(ApiHealthResponse { status: "ok" })
}
