//! Responses about instances. They hold no secrets.

use serde::Serialize;
use utoipa::ToSchema;

use super::request::{OnAmbiguous, ProviderName, Rate};
use crate::accounts::Account;
use crate::instance::InstanceView;
use crate::queue::Depth;
use relevo_domain::{CloudApiSettings, LinkedDeviceSettings, ProviderConfig};

/// An instance, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct Instance {
    #[schema(example = "shop")]
    instance_id: String,
    /// The configured name, or the display name of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    provider: ProviderName,
    /// The JID of a linked device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "573001234567:12@s.whatsapp.net")]
    jid: Option<String>,
    /// The LID of that account.
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
    /// When the client tries to connect again.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// Restarts of the client since the node started.
    restarts: u32,
    /// The settings of an instance on the Cloud API.
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_api: Option<CloudApiView>,
    /// The settings of a linked device, if it has settings of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    linked_device: Option<LinkedDeviceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_url: Option<String>,
    /// Whether a linked device asks the phone for its chat history after pairing.
    sync_history: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_ambiguous: Option<OnAmbiguous>,
    /// Accepted messages that are not settled: waiting or in flight.
    queue_depth: u64,
    /// RFC 3339, like all times in this response.
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
    pub(in crate::http) code: String,
    /// What happened and what to do.
    pub(in crate::http) text: String,
}

/// The Cloud API settings without secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct CloudApiView {
    phone_number_id: String,
    base_url: String,
    api_version: String,
    has_access_token: bool,
    has_app_secret: bool,
    has_verify_token: bool,
}

/// The linked device settings without secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct LinkedDeviceView {
    has_proxy: bool,
    /// Missing: the node's setting. 0 is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_contacts_per_day: Option<u32>,
}

/// One instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceResponse {
    pub(in crate::http) success: bool,
    pub(in crate::http) data: Instance,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) message: Option<&'static str>,
}

/// All instances, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceList {
    pub(in crate::http) success: bool,
    pub(in crate::http) data: Vec<Instance>,
    pub(in crate::http) total: usize,
}

/// Accepted messages that are not settled, by class.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueDepth {
    transactional: u64,
    bulk: u64,
    pub(in crate::http) total: u64,
}

impl QueueDepth {
    pub(in crate::http) fn new(depth: Depth) -> Self {
        Self { transactional: depth.transactional, bulk: depth.bulk, total: depth.total() }
    }
}

impl Instance {
    pub(in crate::http) fn new(account: Account) -> Self {
        let Account { instance: view, queue_depth, webhook_url } = account;
        let InstanceView { config, state, account, .. } = view;
        let phone = account.as_ref().and_then(|account| account.phone()).map(str::to_owned);
        let (jid, lid, shown) =
            account.map_or((None, None, None), |account| (Some(account.jid), account.lid, account.name));
        let provider = config.provider.kind().into();
        let (cloud_api, linked_device, sync_history) = match config.provider {
            ProviderConfig::CloudApi(settings) => (Some(CloudApiView::new(settings)), None, false),
            ProviderConfig::LinkedDevice(settings) => {
                let sync_history = settings.sync_history;
                (None, LinkedDeviceView::new(settings), sync_history)
            }
        };
        Self {
            instance_id: config.id.into(),
            name: config.name.or(shown),
            provider,
            jid,
            lid,
            phone,
            status: state.state.as_str(),
            state: state.state.as_str(),
            reason: StateReason { code: state.reason.code, text: state.reason.text },
            next_attempt_at: state.next_attempt_at.map(|at| at.to_string()),
            restarts: state.restarts,
            cloud_api,
            linked_device,
            webhook_url: webhook_url.map(String::from),
            sync_history,
            rate_limit: config.rate_limit.map(Rate::new),
            workers: config.workers.map(u32::from),
            on_ambiguous: config.on_ambiguous.map(OnAmbiguous::from),
            queue_depth,
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
    /// `None` if the device uses the node's settings.
    fn new(settings: LinkedDeviceSettings) -> Option<Self> {
        let LinkedDeviceSettings { proxy, first_contacts_per_day, .. } = settings;
        let view = Self { has_proxy: proxy.is_some(), first_contacts_per_day };
        (view.has_proxy || view.first_contacts_per_day.is_some()).then_some(view)
    }
}
