//! The form in which an instance's configuration is stored: the provider's name, and a section per provider.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{
    CloudApiSettings, InstanceConfig, LinkedDeviceSettings, ProviderConfig, ProviderKind, RateLimit, Secret,
};
use crate::{AmbiguousPolicy, InstanceId, ValidationError};

/// An [`InstanceConfig`] as records contain it. Names and types of the fields are part of the format of the data folder.
///
/// Earlier binaries also wrote `webhook_url`, a copy of the URL of the primary webhook endpoint that a change or deletion of
/// the endpoint did not update. It is ignored: the endpoint's own record is right.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredInstanceConfig {
    id: InstanceId,
    #[serde(default)]
    name: Option<String>,
    provider: ProviderKind,
    #[serde(default)]
    cloud_api: Option<CloudApiSettings>,
    #[serde(default)]
    linked_device: Option<StoredLinkedDevice>,
    #[serde(default)]
    rate_limit: Option<RateLimit>,
    #[serde(default)]
    workers: Option<NonZeroU32>,
    /// Records of Cloud API instances contain it, too; it has no effect there.
    #[serde(default)]
    sync_history: bool,
    #[serde(default)]
    on_ambiguous: Option<AmbiguousPolicy>,
}

/// The section of a linked device; absent in records of linked devices that use the node's settings.
#[derive(PartialEq, Eq, Default, Serialize, Deserialize)]
struct StoredLinkedDevice {
    #[serde(default)]
    proxy: Option<Secret>,
    #[serde(default)]
    first_contacts_per_day: Option<u32>,
}

/// The section of the other provider is ignored, as an unknown field is.
impl TryFrom<StoredInstanceConfig> for InstanceConfig {
    type Error = ValidationError;

    fn try_from(stored: StoredInstanceConfig) -> Result<Self, ValidationError> {
        let provider = match stored.provider {
            ProviderKind::CloudApi => ProviderConfig::CloudApi(stored.cloud_api.ok_or_else(|| {
                ValidationError::new("cloud_api", "is required for the provider cloud_api")
            })?),
            ProviderKind::LinkedDevice => {
                let StoredLinkedDevice { proxy, first_contacts_per_day } =
                    stored.linked_device.unwrap_or_default();
                let sync_history = stored.sync_history;
                ProviderConfig::LinkedDevice(LinkedDeviceSettings {
                    proxy,
                    first_contacts_per_day,
                    sync_history,
                })
            }
        };
        Ok(Self {
            id: stored.id,
            name: stored.name,
            provider,
            rate_limit: stored.rate_limit,
            workers: stored.workers,
            on_ambiguous: stored.on_ambiguous,
        })
    }
}

impl From<InstanceConfig> for StoredInstanceConfig {
    fn from(config: InstanceConfig) -> Self {
        let provider = config.provider.kind();
        let (cloud_api, linked_device, sync_history) = match config.provider {
            ProviderConfig::CloudApi(settings) => (Some(settings), None, false),
            ProviderConfig::LinkedDevice(settings) => {
                let LinkedDeviceSettings { proxy, first_contacts_per_day, sync_history } = settings;
                let section = StoredLinkedDevice { proxy, first_contacts_per_day };
                (
                    None,
                    Some(section).filter(|section| *section != StoredLinkedDevice::default()),
                    sync_history,
                )
            }
        };
        Self {
            id: config.id,
            name: config.name,
            provider,
            cloud_api,
            linked_device,
            rate_limit: config.rate_limit,
            workers: config.workers,
            sync_history,
            on_ambiguous: config.on_ambiguous,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn load(stored: &Value) -> Result<InstanceConfig, serde_json::Error> {
        serde_json::from_value(stored.clone())
    }

    /// A record of a Cloud API instance as an earlier binary wrote it.
    fn cloud_record() -> Value {
        json!({
            "id": "shop", "name": "Shop", "provider": "cloud_api",
            "cloud_api": {
                "phone_number_id": "1001", "access_token": "EAAG", "app_secret": "s", "verify_token": null,
                "base_url": "https://graph.facebook.com/", "api_version": "v25.0",
            },
            "linked_device": null, "webhook_url": null, "rate_limit": { "per_second": 80.0, "burst": 80 },
            "workers": 4, "sync_history": false, "on_ambiguous": null,
        })
    }

    /// A record of a linked device as an earlier binary wrote it.
    fn linked_record() -> Value {
        json!({
            "id": "phone", "name": null, "provider": "linked_device", "cloud_api": null,
            "linked_device": { "proxy": "socks5://proxy:1080", "first_contacts_per_day": 5 },
            "webhook_url": "https://example.com/events", "rate_limit": null, "workers": null, "sync_history": true,
            "on_ambiguous": "resend",
        })
    }

    #[test]
    fn earlier_records_are_read_and_written_unchanged_but_for_the_webhook_url() {
        let mut plain = linked_record();
        plain["linked_device"] = Value::Null;
        for mut record in [cloud_record(), linked_record(), plain] {
            let config = load(&record).unwrap();
            record.as_object_mut().unwrap().remove("webhook_url").unwrap();
            assert_eq!(serde_json::to_value(&config).unwrap(), record);
        }
        let linked = load(&linked_record()).unwrap().provider;
        let expected = LinkedDeviceSettings {
            proxy: Some(Secret::new("socks5://proxy:1080")),
            first_contacts_per_day: Some(5),
            sync_history: true,
        };
        assert_eq!(linked, ProviderConfig::LinkedDevice(expected));
    }

    #[test]
    fn empty_section_of_a_linked_device_is_the_missing_one() {
        let mut record = linked_record();
        record["linked_device"] = json!({ "proxy": null, "first_contacts_per_day": null });
        let config = load(&record).unwrap();
        record["linked_device"] = Value::Null;
        assert_eq!(config, load(&record).unwrap());
        record.as_object_mut().unwrap().remove("webhook_url").unwrap();
        assert_eq!(serde_json::to_value(config).unwrap(), record);
    }

    #[test]
    fn fields_of_later_versions_are_optional() {
        let config = load(&json!({ "id": "phone", "provider": "linked_device" })).unwrap();
        assert_eq!(config.provider, ProviderConfig::LinkedDevice(LinkedDeviceSettings::default()));
        assert_eq!((config.name, config.workers), (None, None));
    }

    #[test]
    fn section_must_fit_the_provider() {
        let mut record = cloud_record();
        record["cloud_api"] = Value::Null;
        let error = load(&record).unwrap_err().to_string();
        assert!(error.contains("cloud_api") && error.contains("is required"), "{error}");

        let mut record = cloud_record();
        record["sync_history"] = json!(true);
        assert_eq!(load(&record).unwrap(), load(&cloud_record()).unwrap());
    }
}
