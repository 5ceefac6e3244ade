//! `GET /health…`. No key is needed, so no response names an account.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::access::Open;
use crate::http::{AppState, NodeHealth};
use relevo_domain::InstanceState;

/// The health of the node, by component.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthReport {
    /// `healthy` or `unhealthy`.
    #[schema(example = "healthy")]
    status: &'static str,
    store: ComponentHealth,
    disk: ComponentHealth,
    /// The number of instances in each state. It does not affect `status`: each instance has its own state.
    instances: InstanceCounts,
}

#[derive(Debug, Serialize, ToSchema)]
struct ComponentHealth {
    /// `ok` or `error`.
    #[schema(example = "ok")]
    status: &'static str,
    /// What is wrong and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct InstanceCounts {
    total: usize,
    created: usize,
    connecting: usize,
    connected: usize,
    paused: usize,
    disconnected: usize,
    logged_out: usize,
    failed: usize,
}

impl ComponentHealth {
    fn new(reason: Option<&'static str>) -> Self {
        Self { status: if reason.is_some() { "error" } else { "ok" }, reason }
    }

    fn of_store(health: NodeHealth) -> Self {
        Self::new(match health {
            NodeHealth { store_failed: true, .. } => {
                Some("the database failed; restart the node, and see its log")
            }
            NodeHealth { store_damaged: true, .. } => Some(
                "a part of the database is damaged on the disk; stop the node, and see its log and docs/damage.md",
            ),
            _ => None,
        })
    }

    fn of_disk(health: NodeHealth) -> Self {
        let reason = "the disk is nearly full; free some space, and messages are accepted again";
        Self::new(health.disk_full.then_some(reason))
    }
}

impl InstanceCounts {
    fn from_states(states: impl Iterator<Item = InstanceState>) -> Self {
        let mut counts = Self::default();
        for state in states {
            counts.total += 1;
            *match state {
                InstanceState::Created => &mut counts.created,
                InstanceState::Connecting => &mut counts.connecting,
                InstanceState::Connected => &mut counts.connected,
                InstanceState::Paused => &mut counts.paused,
                InstanceState::Disconnected => &mut counts.disconnected,
                InstanceState::LoggedOut => &mut counts.logged_out,
                InstanceState::Failed => &mut counts.failed,
            } += 1;
        }
        counts
    }
}

/// The health of the node.
#[utoipa::path(get, path = "/health", operation_id = "get_health", tag = "node", responses(
    (status = 200, description = "Messages are accepted.", body = HealthReport),
    (status = 503, description = "No message is accepted; see the reasons.", body = HealthReport),
))]
pub async fn health(_: Open, State(state): State<AppState>) -> (StatusCode, Json<HealthReport>) {
    let health = (state.services.health)();
    let (store, disk) = (ComponentHealth::of_store(health), ComponentHealth::of_disk(health));
    let ok = store.reason.is_none() && disk.reason.is_none();
    let report = HealthReport {
        status: if ok { "healthy" } else { "unhealthy" },
        store,
        disk,
        instances: InstanceCounts::from_states(
            state.services.instances.list().iter().map(|view| view.state.state),
        ),
    };
    (if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(report))
}

/// The process responds.
#[derive(Debug, Serialize, ToSchema)]
pub struct LivenessResponse {
    #[schema(example = "alive")]
    status: &'static str,
}

/// Whether the process responds. If it does not, restart it.
#[utoipa::path(get, path = "/health/live", operation_id = "get_liveness", tag = "node", responses(
    (status = 200, description = "The process responds.", body = LivenessResponse),
))]
pub async fn live(_: Open) -> Json<LivenessResponse> {
    Json(LivenessResponse { status: "alive" })
}

/// Whether the node accepts messages; the same as `/health`.
#[utoipa::path(get, path = "/health/ready", operation_id = "get_readiness", tag = "node", responses(
    (status = 200, description = "Messages are accepted.", body = HealthReport),
    (status = 503, description = "No message is accepted; see the reasons.", body = HealthReport),
))]
pub async fn ready(open: Open, state: State<AppState>) -> (StatusCode, Json<HealthReport>) {
    health(open, state).await
}
