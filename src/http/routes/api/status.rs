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

/// The components of the documented service, and their counterparts in this node.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ServiceReport {
    /// `healthy`, or `degraded` if one of them is down.
    #[schema(example = "healthy")]
    status: &'static str,
    services: ServiceAvailability,
}

#[derive(Debug, Serialize, ToSchema)]
struct ServiceAvailability {
    /// Whether webhooks of Meta can be received.
    webhook: bool,
    /// Whether the default instance is connected; without a default, any instance.
    whatsapp_service: bool,
    /// Whether messages can be queued.
    queue_service: bool,
    /// Whether the consumer of received messages is reachable, or none is configured.
    websocket_service: bool,
}

/// Whether every component works.
#[utoipa::path(get, path = "/api/status", operation_id = "api_status", tag = "api", responses(
    (status = 200, description = "Every component works.", body = ServiceReport),
    (status = 503, description = "At least one component is down.", body = ServiceReport),
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

/// The process responds.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ApiHealthResponse {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the process responds.
#[utoipa::path(get, path = "/api/health", operation_id = "api_health", tag = "api", responses(
    (status = 200, description = "The process responds.", body = ApiHealthResponse),
))]
pub async fn health(_: Open) -> Json<ApiHealthResponse> {
    Json(ApiHealthResponse { status: "ok" })
}
