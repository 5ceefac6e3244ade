//! `/instances`: the accounts that this node runs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, TargetInstance};
use crate::http::{AppState, json};
use crate::instance::InstanceView;
use crate::queue::Depth;
use relevo_domain::{CloudApiSettings, LinkedDeviceSettings};

use super::primary;
use super::settings::{CreateInstance, OnAmbiguous, ProviderName, Rate, UpdateInstance};

/// An instance, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct Instance {
    #[schema(example = "shop")]
    instance_id: String,
    /// Its own, or the name that its account shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    provider: ProviderName,
    /// Of a linked device: its address on WhatsApp.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "573001234567:12@s.whatsapp.net")]
    jid: Option<String>,
    /// The hidden id of that account.
    #[serde(skip_serializing_if = "Option::is_none")]
    lid: Option<String>,
    /// The number of that account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "573001234567")]
    phone: Option<String>,
    /// `created`, `connecting`, `connected`, `paused`, `disconnected`, `logged_out` or `failed`.
    #[schema(example = "connected")]
    status: &'static str,
    /// The same as `status`.
    #[schema(example = "connected")]
    state: &'static str,
    reason: StateReason,
    /// When its client tries to connect again by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// How often its client was replaced since the node started.
    restarts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_api: Option<CloudApiView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    linked_device: Option<LinkedDeviceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_url: Option<String>,
    sync_history: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_ambiguous: Option<OnAmbiguous>,
    /// Messages that are accepted and not settled, in flight or waiting.
    queue_depth: u64,
    /// RFC 3339, as all times here.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_connected_at: Option<String>,
    created_at: String,
    updated_at: String,
}

/// Why an instance is in its state.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateReason {
    /// Stable, for programs.
    #[schema(example = "auth_rejected")]
    code: String,
    /// What happened and what to do.
    text: String,
}

/// What may be shown of an account on the Cloud API.
#[derive(Debug, Serialize, ToSchema)]
pub struct CloudApiView {
    phone_number_id: String,
    base_url: String,
    api_version: String,
    has_access_token: bool,
    has_app_secret: bool,
    has_verify_token: bool,
}

/// What may be shown of a linked device's settings.
#[derive(Debug, Serialize, ToSchema)]
pub struct LinkedDeviceView {
    has_proxy: bool,
    /// The node's own when it is not there; 0 is any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_contacts_per_day: Option<u32>,
}

/// One instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceResponse {
    success: bool,
    data: Instance,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

/// All instances, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceList {
    success: bool,
    data: Vec<Instance>,
    total: usize,
}

/// Something was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceDeletedResponse {
    success: bool,
    message: &'static str,
}

/// What an instance is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceStatusResponse {
    success: bool,
    instance_id: String,
    #[schema(example = "connected")]
    status: &'static str,
    #[schema(example = "connected")]
    state: &'static str,
    reason: StateReason,
    restarts: u32,
    queue: QueueDepth,
}

/// Messages that are accepted and not settled, by class.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueDepth {
    transactional: u64,
    bulk: u64,
    pub(super) total: u64,
}

impl QueueDepth {
    pub(super) fn new(depth: Depth) -> Self {
        Self { transactional: depth.transactional, bulk: depth.bulk, total: depth.total() }
    }
}

impl Instance {
    fn new(view: InstanceView, depth: Depth, webhook_url: Option<Url>) -> Self {
        let InstanceView { config, state, account, .. } = view;
        let phone = account.as_ref().and_then(|account| account.phone()).map(str::to_owned);
        let (jid, lid, shown) =
            account.map_or((None, None, None), |account| (Some(account.jid), account.lid, account.name));
        Self {
            instance_id: config.id.into(),
            name: config.name.or(shown),
            provider: view.provider.into(),
            jid,
            lid,
            phone,
            status: state.state.as_str(),
            state: state.state.as_str(),
            reason: StateReason { code: state.reason.code, text: state.reason.text },
            next_attempt_at: state.next_attempt_at.map(|at| at.to_string()),
            restarts: state.restarts,
            cloud_api: config.cloud_api.map(CloudApiView::new),
            linked_device: config.linked_device.map(LinkedDeviceView::new),
            webhook_url: webhook_url.map(String::from),
            sync_history: config.sync_history,
            rate_limit: config.rate_limit.map(Rate::new),
            workers: config.workers.map(u32::from),
            on_ambiguous: config.on_ambiguous.map(OnAmbiguous::from),
            queue_depth: depth.total(),
            last_connected_at: view.last_connected_at.map(|at| at.to_string()),
            created_at: view.created_at.to_string(),
            updated_at: view.updated_at.to_string(),
        }
    }
}

impl CloudApiView {
    fn new(settings: CloudApiSettings) -> Self {
        Self {
            phone_number_id: settings.phone_number_id,
            base_url: settings.base_url.into(),
            api_version: settings.api_version,
            has_access_token: !settings.access_token.is_empty(),
            has_app_secret: settings.app_secret.is_some(),
            has_verify_token: settings.verify_token.is_some(),
        }
    }
}

impl LinkedDeviceView {
    fn new(settings: LinkedDeviceSettings) -> Self {
        let LinkedDeviceSettings { proxy, first_contacts_per_day } = settings;
        Self { has_proxy: proxy.is_some(), first_contacts_per_day }
    }
}

/// Shows an instance with what waits in its queue.
fn load_instance(state: &AppState, view: InstanceView) -> Result<Instance, ApiError> {
    let depth = state.services.instances.depth(&view.config.id)?;
    let webhook = state.services.webhooks.primary(view.number);
    Ok(Instance::new(view, depth, webhook.map(|endpoint| endpoint.url)))
}

pub(super) fn instance_response(
    state: &AppState,
    view: InstanceView,
    message: Option<&'static str>,
) -> Result<Json<InstanceResponse>, ApiError> {
    Ok(Json(InstanceResponse { success: true, data: load_instance(state, view)?, message }))
}

/// Creates an instance. One on the Cloud API connects at once; a linked device when it is asked to, or for its code.
#[utoipa::path(post, path = "/instances", operation_id = "create_instance", tag = "instances", request_body = CreateInstance, responses(
    (status = 201, description = "It exists, durably.", body = InstanceResponse),
    (status = 400, description = "A setting is missing or wrong.", body = ErrorBody),
    (status = 409, description = "An instance of that name exists.", body = ErrorBody),
    (status = 501, description = "This node does not have that provider.", body = ErrorBody),
))]
pub async fn create(
    State(state): State<AppState>,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<InstanceResponse>), ApiError> {
    let config = json::parse::<CreateInstance>(&body)?.into_config(&state.cloud_defaults)?;
    let url = config.webhook_url.clone();
    primary::check_webhook_url(&state, url.as_ref()).await?;
    let view = state.services.instances.create(config).await?;
    if url.is_some() {
        primary::set_webhook(&state, view.number, url).await?;
    }
    Ok((StatusCode::CREATED, instance_response(&state, view, Some("Instancia creada exitosamente"))?))
}

/// Every instance.
#[utoipa::path(get, path = "/instances", operation_id = "list_instances", tag = "instances", responses(
    (status = 200, description = "All instances, by name.", body = InstanceList),
))]
pub async fn list(State(state): State<AppState>) -> Result<Json<InstanceList>, ApiError> {
    let views = state.services.instances.list();
    let data = views.into_iter().map(|view| load_instance(&state, view)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(InstanceList { success: true, total: data.len(), data }))
}

/// One instance.
#[utoipa::path(get, path = "/instances/{id}", operation_id = "get_instance", tag = "instances",
    responses(
        (status = 200, description = "The instance.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn get(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.get(&id)?;
    instance_response(&state, view, None)
}

/// Changes an instance: fields that are left out stay as they are.
#[utoipa::path(put, path = "/instances/{id}", operation_id = "update_instance", tag = "instances", request_body = UpdateInstance,
    responses(
        (status = 200, description = "It is changed, durably.", body = InstanceResponse),
        (status = 400, description = "A setting is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn update(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<InstanceResponse>, ApiError> {
    let changes: UpdateInstance = json::parse(&body)?;
    let aims = changes.sets_webhook();
    let config = changes.apply(state.services.instances.get(&id)?.config)?;
    let url = config.webhook_url.clone().filter(|_| aims);
    primary::check_webhook_url(&state, url.as_ref()).await?;
    let view = state.services.instances.update(config).await?;
    if aims {
        primary::set_webhook(&state, view.number, url).await?;
    }
    instance_response(&state, view, Some("Instancia actualizada exitosamente"))
}

/// Deletes an instance with its queue, its events, its keys and its webhook endpoints. A linked device is unlinked first.
#[utoipa::path(delete, path = "/instances/{id}", operation_id = "delete_instance", tag = "instances",
    responses(
        (status = 200, description = "It is gone.", body = InstanceDeletedResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn delete(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceDeletedResponse>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    state.services.instances.delete(id).await?;
    // Should the process die here, its endpoints stay, get nothing, and can be deleted by their ids.
    state.services.webhooks.delete_instance(number).await?;
    Ok(Json(InstanceDeletedResponse { success: true, message: "Instancia eliminada exitosamente" }))
}

/// Asks an instance to be connected, now and after every restart of the node.
#[utoipa::path(post, path = "/instances/{id}/connect", operation_id = "connect_instance", tag = "instances",
    responses(
        (status = 200, description = "It connects; `status` tells how far it is.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn connect(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.connect(id).await?;
    instance_response(&state, view, Some("Conexión iniciada"))
}

/// Asks an instance to stay away from WhatsApp. What is queued waits, and what comes is queued. A linked device stays
/// linked.
#[utoipa::path(post, path = "/instances/{id}/disconnect", operation_id = "disconnect_instance", tag = "instances",
    responses(
        (status = 200, description = "It is disconnected.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn disconnect(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.disconnect(id).await?;
    instance_response(&state, view, Some("Instancia desconectada"))
}

/// Replaces an instance's client, whatever state it is in.
#[utoipa::path(post, path = "/instances/{id}/restart", operation_id = "restart_instance", tag = "instances",
    responses(
        (status = 200, description = "A new client connects.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn restart(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.restart(id).await?;
    instance_response(&state, view, Some("Instancia reiniciada"))
}

/// Resumes an instance that paused, for example because its account was blocked; its queue goes on.
#[utoipa::path(post, path = "/instances/{id}/resume", operation_id = "resume_instance", tag = "instances",
    responses(
        (status = 200, description = "It connects again.", body = InstanceResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn resume(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceResponse>, ApiError> {
    let view = state.services.instances.connect(id).await?;
    instance_response(&state, view, Some("Instancia reanudada"))
}

/// What an instance is doing, why, and what waits in its queue.
#[utoipa::path(get, path = "/instances/{id}/status", operation_id = "get_instance_status", tag = "instances",
    responses(
        (status = 200, description = "Its state.", body = InstanceStatusResponse),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn status(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
) -> Result<Json<InstanceStatusResponse>, ApiError> {
    let view = state.services.instances.get(&id)?;
    let depth = state.services.instances.depth(&id)?;
    Ok(Json(InstanceStatusResponse {
        success: true,
        instance_id: id.into(),
        status: view.state.state.as_str(),
        state: view.state.state.as_str(),
        reason: StateReason { code: view.state.reason.code, text: view.state.reason.text },
        restarts: view.state.restarts,
        queue: QueueDepth::new(depth),
    }))
}
