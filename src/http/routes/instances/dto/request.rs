//! Requests about an instance, and their conversion into its configuration.

use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer, Serialize};
use url::Url;
use utoipa::ToSchema;

use crate::http::CloudDefaults;
use relevo_domain::{
    AmbiguousPolicy, CloudApiSettings, InstanceConfig, InstanceId, LinkedDeviceSettings, ProviderConfig,
    ProviderKind, RateLimit, Secret, ValidationError,
};

/// A new instance. Only `instance_id` and the credentials of the provider are required.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CreateInstance {
    /// 1 to 64 letters, digits, `-`, `_` or `.`. Also read: `id`, `instanceName`, `instanceID`.
    #[serde(default, alias = "id", alias = "instanceName", alias = "instanceID", alias = "instanceId")]
    #[schema(required = true, example = "shop")]
    instance_id: String,
    /// Default: `cloud_api` if that field is given, otherwise `linked_device`.
    provider: Option<ProviderName>,
    cloud_api: Option<CloudApi>,
    linked_device: Option<LinkedDevice>,
    #[schema(example = "Shop")]
    name: Option<String>,
    /// The URL that receives the events of this instance.
    webhook_url: Option<String>,
    /// A linked device asks the phone for its chat history after pairing. Default: false.
    sync_history: Option<bool>,
    rate_limit: Option<Rate>,
    /// Maximum number of messages in flight.
    #[schema(value_type = Option<u32>, minimum = 1)]
    workers: Option<NonZeroU32>,
    on_ambiguous: Option<OnAmbiguous>,
}

/// Changes to an instance. Omitted fields keep their values; `null` or an empty text restores the default.
#[derive(Debug, Deserialize, ToSchema)]
pub struct UpdateInstance {
    /// The provider of an instance cannot change: another one than that of the instance is refused.
    provider: Option<ProviderName>,
    /// Omitted fields keep their values; new credentials resume an instance that paused because of the old ones.
    cloud_api: Option<CloudApi>,
    linked_device: Option<LinkedDevice>,
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>)]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>)]
    webhook_url: Option<Option<String>>,
    /// Linked devices only.
    sync_history: Option<bool>,
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<Rate>)]
    rate_limit: Option<Option<Rate>>,
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    workers: Option<Option<NonZeroU32>>,
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<OnAmbiguous>)]
    on_ambiguous: Option<Option<OnAmbiguous>>,
}

/// Distinguishes `null` from a missing field.
///
/// # Errors
///
/// The value cannot be deserialised.
pub(in crate::http) fn double_option<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// The credentials of a number on Meta's Cloud API. Never returned.
#[derive(Deserialize, ToSchema)]
pub struct CloudApi {
    /// Required for a new instance.
    #[schema(example = "106540352242922")]
    phone_number_id: Option<String>,
    /// Required for a new instance.
    access_token: Option<String>,
    /// Verifies the signatures of Meta's webhooks. Default: the node's secret.
    app_secret: Option<String>,
    /// The verify token that Meta sends when it verifies the webhook.
    verify_token: Option<String>,
    #[schema(example = "https://graph.facebook.com")]
    base_url: Option<String>,
    #[schema(example = "v25.0")]
    api_version: Option<String>,
}

/// Written by hand to hide the secrets.
impl std::fmt::Debug for CloudApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudApi").field("phone_number_id", &self.phone_number_id).finish_non_exhaustive()
    }
}

/// Settings of a linked device. Omitted fields keep their values; `null` restores the node's setting.
#[derive(Deserialize, ToSchema)]
pub struct LinkedDevice {
    /// The proxy to WhatsApp: `http://` or `socks5://`, with user and password if the proxy requires them. Never
    /// returned.
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>, example = "socks5://user:password@proxy.example:1080")]
    proxy: Option<Option<String>>,
    /// Maximum number of first messages to new recipients a day; 0 is unlimited.
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<u32>, example = 100)]
    first_contacts_per_day: Option<Option<u32>>,
}

/// Written by hand to hide the secret.
impl std::fmt::Debug for LinkedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = &self.first_contacts_per_day;
        f.debug_struct("LinkedDevice").field("first_contacts_per_day", limit).finish_non_exhaustive()
    }
}

impl LinkedDevice {
    fn apply(self, mut settings: LinkedDeviceSettings) -> LinkedDeviceSettings {
        if let Some(proxy) = self.proxy {
            settings.proxy = non_empty_secret(proxy);
        }
        if let Some(limit) = self.first_contacts_per_day {
            settings.first_contacts_per_day = limit;
        }
        settings
    }
}

/// The rate limit of an instance.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// Messages per second, more than 0; may be a fraction.
    #[schema(example = 80.0)]
    per_second: f64,
    /// The burst: how many messages may be sent at once after a pause.
    #[schema(value_type = u32, minimum = 1, example = 80)]
    burst: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderName {
    /// Meta's Graph API.
    CloudApi,
    /// WhatsApp Web, multi-device.
    LinkedDevice,
}

/// The policy for a message whose outcome stays unknown.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnAmbiguous {
    /// Becomes a dead letter: never sent twice.
    Hold,
    /// Is sent again: never lost, possibly delivered twice.
    Resend,
}

impl CreateInstance {
    /// The configuration of the new instance, and the URL of its webhook.
    ///
    /// # Errors
    ///
    /// A setting is missing or invalid.
    pub fn into_parts(
        self,
        defaults: &CloudDefaults,
    ) -> Result<(InstanceConfig, Option<Url>), ValidationError> {
        let id: InstanceId = self.instance_id.parse()?;
        let fields = ProviderFields {
            cloud_api: self.cloud_api,
            linked_device: self.linked_device,
            sync_history: self.sync_history,
        };
        let webhook_url = parse_webhook_url(self.webhook_url)?;
        let config = InstanceConfig {
            id,
            name: self.name.filter(|name| !name.is_empty()),
            provider: fields.into_provider(self.provider, defaults)?,
            rate_limit: self.rate_limit.map(Rate::into_rate_limit).transpose()?,
            workers: self.workers,
            on_ambiguous: self.on_ambiguous.map(AmbiguousPolicy::from),
        };
        Ok((config, webhook_url))
    }
}

impl UpdateInstance {
    /// The change of the webhook: `None` if the request does not name it, `Some(None)` if it is deleted.
    ///
    /// # Errors
    ///
    /// The URL is invalid.
    pub fn webhook_url(&self) -> Result<Option<Option<Url>>, ValidationError> {
        self.webhook_url.clone().map(parse_webhook_url).transpose()
    }

    /// `config` with the changes applied.
    ///
    /// # Errors
    ///
    /// A setting is invalid.
    pub fn apply(self, mut config: InstanceConfig) -> Result<InstanceConfig, ValidationError> {
        let kind = config.provider.kind();
        if self.provider.is_some_and(|provider| provider != ProviderName::from(kind)) {
            let reason =
                format!("cannot change from {}; create another instance and delete this one", kind.as_str());
            return Err(ValidationError::new("provider", reason));
        }
        let fields = ProviderFields {
            cloud_api: self.cloud_api,
            linked_device: self.linked_device,
            sync_history: self.sync_history,
        };
        config.provider = fields.apply(config.provider)?;
        if let Some(name) = self.name {
            config.name = name.filter(|name| !name.is_empty());
        }
        if let Some(rate) = self.rate_limit {
            config.rate_limit = rate.map(Rate::into_rate_limit).transpose()?;
        }
        if let Some(workers) = self.workers {
            config.workers = workers;
        }
        if let Some(policy) = self.on_ambiguous {
            config.on_ambiguous = policy.map(AmbiguousPolicy::from);
        }
        Ok(config)
    }
}

/// The fields of a request that belong to one provider.
struct ProviderFields {
    cloud_api: Option<CloudApi>,
    linked_device: Option<LinkedDevice>,
    sync_history: Option<bool>,
}

impl ProviderFields {
    /// The provider of a new instance with its settings.
    ///
    /// # Errors
    ///
    /// A field is missing, belongs to the other provider, or is invalid.
    fn into_provider(
        self,
        requested: Option<ProviderName>,
        defaults: &CloudDefaults,
    ) -> Result<ProviderConfig, ValidationError> {
        let implied =
            if self.cloud_api.is_some() { ProviderName::CloudApi } else { ProviderName::LinkedDevice };
        match requested.unwrap_or(implied) {
            ProviderName::CloudApi => {
                let section = self.into_cloud_api()?;
                let section = section.ok_or_else(|| {
                    ValidationError::new("cloud_api", "is required for the provider cloud_api")
                })?;
                Ok(ProviderConfig::CloudApi(section.into_settings(defaults)?))
            }
            ProviderName::LinkedDevice => {
                let settings = self.apply_to_linked_device(LinkedDeviceSettings::default())?;
                Ok(ProviderConfig::LinkedDevice(settings))
            }
        }
    }

    /// The settings of an existing instance with the changes applied.
    ///
    /// # Errors
    ///
    /// A field belongs to the other provider, or is invalid.
    fn apply(self, provider: ProviderConfig) -> Result<ProviderConfig, ValidationError> {
        match provider {
            ProviderConfig::CloudApi(settings) => match self.into_cloud_api()? {
                Some(changes) => Ok(ProviderConfig::CloudApi(changes.apply(settings)?)),
                None => Ok(ProviderConfig::CloudApi(settings)),
            },
            ProviderConfig::LinkedDevice(settings) => {
                Ok(ProviderConfig::LinkedDevice(self.apply_to_linked_device(settings)?))
            }
        }
    }

    fn into_cloud_api(self) -> Result<Option<CloudApi>, ValidationError> {
        let refuse = |field| Err(ValidationError::new(field, "does not go with the provider cloud_api"));
        match self {
            Self { linked_device: Some(_), .. } => refuse("linked_device"),
            Self { sync_history: Some(true), .. } => refuse("sync_history"),
            Self { cloud_api, .. } => Ok(cloud_api),
        }
    }

    fn apply_to_linked_device(
        self,
        settings: LinkedDeviceSettings,
    ) -> Result<LinkedDeviceSettings, ValidationError> {
        if self.cloud_api.is_some() {
            return Err(ValidationError::new("cloud_api", "does not go with the provider linked_device"));
        }
        let settings = match self.linked_device {
            Some(changes) => changes.apply(settings),
            None => settings,
        };
        let sync_history = self.sync_history.unwrap_or(settings.sync_history);
        Ok(LinkedDeviceSettings { sync_history, ..settings })
    }
}

impl CloudApi {
    fn into_settings(self, defaults: &CloudDefaults) -> Result<CloudApiSettings, ValidationError> {
        let required = |field: &str, text: Option<String>| {
            let text = text.filter(|text| !text.trim().is_empty());
            text.ok_or_else(|| ValidationError::new(format!("cloud_api.{field}"), "is required"))
        };
        Ok(CloudApiSettings {
            phone_number_id: required("phone_number_id", self.phone_number_id)?,
            access_token: Secret::new(required("access_token", self.access_token)?),
            app_secret: non_empty_secret(self.app_secret).or_else(|| defaults.app_secret.clone()),
            verify_token: non_empty_secret(self.verify_token),
            base_url: parse_base_url(self.base_url)?.unwrap_or_else(|| defaults.base_url.clone()),
            api_version: parse_api_version(self.api_version)?.unwrap_or_else(|| defaults.api_version.clone()),
        })
    }

    fn apply(self, settings: CloudApiSettings) -> Result<CloudApiSettings, ValidationError> {
        let text = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        Ok(CloudApiSettings {
            phone_number_id: text(self.phone_number_id).unwrap_or(settings.phone_number_id),
            access_token: non_empty_secret(self.access_token).unwrap_or(settings.access_token),
            app_secret: non_empty_secret(self.app_secret).or(settings.app_secret),
            verify_token: non_empty_secret(self.verify_token).or(settings.verify_token),
            base_url: parse_base_url(self.base_url)?.unwrap_or(settings.base_url),
            api_version: parse_api_version(self.api_version)?.unwrap_or(settings.api_version),
        })
    }
}

impl Rate {
    pub fn new(rate: RateLimit) -> Self {
        Self { per_second: rate.per_second, burst: rate.burst }
    }

    fn into_rate_limit(self) -> Result<RateLimit, ValidationError> {
        if !self.per_second.is_finite() || self.per_second <= 0.0 {
            return Err(ValidationError::new("rate_limit.per_second", "must be more than 0"));
        }
        Ok(RateLimit { per_second: self.per_second, burst: self.burst })
    }
}

impl From<OnAmbiguous> for AmbiguousPolicy {
    fn from(policy: OnAmbiguous) -> Self {
        match policy {
            OnAmbiguous::Hold => AmbiguousPolicy::Hold,
            OnAmbiguous::Resend => AmbiguousPolicy::Resend,
        }
    }
}

impl From<AmbiguousPolicy> for OnAmbiguous {
    fn from(policy: AmbiguousPolicy) -> Self {
        match policy {
            AmbiguousPolicy::Hold => OnAmbiguous::Hold,
            AmbiguousPolicy::Resend => OnAmbiguous::Resend,
        }
    }
}

impl From<ProviderKind> for ProviderName {
    fn from(kind: ProviderKind) -> Self {
        match kind {
            ProviderKind::CloudApi => ProviderName::CloudApi,
            ProviderKind::LinkedDevice => ProviderName::LinkedDevice,
        }
    }
}

fn non_empty_secret(text: Option<String>) -> Option<Secret> {
    text.filter(|text| !text.trim().is_empty()).map(Secret::new)
}

fn parse_webhook_url(text: Option<String>) -> Result<Option<Url>, ValidationError> {
    parse_http_url("webhook_url", text)
}

fn parse_base_url(text: Option<String>) -> Result<Option<Url>, ValidationError> {
    parse_http_url("cloud_api.base_url", text)
}

/// An http(s) URL; `None` for an empty text.
///
/// # Errors
///
/// The text is not an http(s) URL.
pub(in crate::http) fn parse_http_url(
    field: &str,
    text: Option<String>,
) -> Result<Option<Url>, ValidationError> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    match Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(url)),
        _ => Err(ValidationError::new(field, "must be an address that begins with https:// or http://")),
    }
}

/// `v` and a version number; `None` for an empty text.
fn parse_api_version(text: Option<String>) -> Result<Option<String>, ValidationError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let version = text.strip_prefix('v').and_then(|rest| rest.split_once('.'));
    match version {
        Some((major, minor)) if number(major) && number(minor) => Ok(Some(text)),
        _ => Err(ValidationError::new("cloud_api.api_version", "must look like v25.0")),
    }
}

#[cfg(test)]
mod tests;
