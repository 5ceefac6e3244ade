//! `GET /health…`. No key is needed; only with one does a response name accounts.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::access::Open;
use crate::http::routes::instances::dto::response::StateReason;
use crate::http::{AppState, NodeHealth};
use crate::instance::InstanceView;
use relevo_domain::{InstanceState, Timestamp};

/// The health of the node, by component.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthReport {
    /// `healthy`, `degraded` (messages are accepted, and at least one instance cannot send), or `unhealthy`.
    #[schema(example = "healthy")]
    status: &'static str,
    store: ComponentHealth,
    disk: ComponentHealth,
    /// The number of instances in each state.
    instances: InstanceCounts,
    /// With the key: the instances that `instances.unable_to_send` counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    unable_to_send: Option<Vec<UnableInstance>>,
}

/// An instance that should send and cannot.
#[derive(Debug, Serialize, ToSchema)]
struct UnableInstance {
    #[schema(example = "shop")]
    instance_id: String,
    #[schema(example = "paused")]
    status: &'static str,
    reason: StateReason,
    /// RFC 3339; not before the start of the node.
    since: String,
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
    /// Those that should be connected and could not send for more than a minute. Instances that were never connected, or
    /// that an operator disconnected, paused or logged out, do not count.
    unable_to_send: usize,
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
    fn new(views: &[InstanceView], now: Timestamp) -> Self {
        let mut counts = Self::default();
        for view in views {
            counts.total += 1;
            *match view.state.state {
                InstanceState::Created => &mut counts.created,
                InstanceState::Connecting => &mut counts.connecting,
                InstanceState::Connected => &mut counts.connected,
                InstanceState::Paused => &mut counts.paused,
                InstanceState::Disconnected => &mut counts.disconnected,
                InstanceState::LoggedOut => &mut counts.logged_out,
                InstanceState::Failed => &mut counts.failed,
            } += 1;
            counts.unable_to_send += usize::from(view.is_unable_to_send(now));
        }
        counts
    }
}

impl UnableInstance {
    fn new(view: &InstanceView) -> Option<Self> {
        let reason = &view.state.reason;
        Some(Self {
            instance_id: view.config.id.to_string(),
            status: view.state.state.as_str(),
            reason: StateReason { code: reason.code.clone(), text: reason.text.clone() },
            since: view.unable_since?.to_string(),
        })
    }
}

/// The health of the node. An instance that cannot send degrades it and is no reason to restart the node.
#[utoipa::path(get, path = "/health", operation_id = "get_health", tag = "node", responses(
    (status = 200, description = "Messages are accepted.", body = HealthReport),
    (status = 503, description = "No message is accepted; see the reasons.", body = HealthReport),
))]
pub async fn health(open: Open, State(state): State<AppState>) -> (StatusCode, Json<HealthReport>) {
    let health = (state.services.health)();
    let (store, disk) = (ComponentHealth::of_store(health), ComponentHealth::of_disk(health));
    let ok = store.reason.is_none() && disk.reason.is_none();
    let (views, now) = (state.services.instances.list(), state.services.clock.now());
    let instances = InstanceCounts::new(&views, now);
    let unable = views.iter().filter(|view| view.is_unable_to_send(now)).filter_map(UnableInstance::new);
    let report = HealthReport {
        status: match (ok, instances.unable_to_send) {
            (false, _) => "unhealthy",
            (true, 0) => "healthy",
            (true, _) => "degraded",
        },
        store,
        disk,
        instances,
        unable_to_send: open.has_key.then(|| unable.collect()),
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
