//! Tests of the requests about instances.

use serde_json::{Value, json};

use super::*;

fn defaults() -> CloudDefaults {
    CloudDefaults {
        base_url: "https://graph.facebook.com".parse().unwrap(),
        api_version: "v25.0".to_owned(),
        app_secret: Some(Secret::new("node-secret")),
        verify_token: None,
    }
}

fn parse_config(body: Value) -> Result<InstanceConfig, ValidationError> {
    Ok(parse_parts(body)?.0)
}

fn parse_parts(body: Value) -> Result<(InstanceConfig, Option<Url>), ValidationError> {
    serde_json::from_value::<CreateInstance>(body).unwrap().into_parts(&defaults())
}

fn update(body: Value, config: InstanceConfig) -> Result<InstanceConfig, ValidationError> {
    serde_json::from_value::<UpdateInstance>(body).unwrap().apply(config)
}

fn sample_config() -> InstanceConfig {
    let cloud_api = json!({ "phone_number_id": "1", "access_token": "t" });
    parse_config(json!({ "instance_id": "shop", "cloud_api": cloud_api })).unwrap()
}

#[test]
fn omitted_settings_use_the_defaults_of_the_node() {
    let config = sample_config();
    let cloud = config.provider.cloud_api().unwrap();
    assert_eq!(cloud.base_url.as_str(), "https://graph.facebook.com/");
    assert_eq!(cloud.api_version, "v25.0");
    assert_eq!(cloud.app_secret, Some(Secret::new("node-secret")));
}

#[test]
fn instance_id_aliases_are_read() {
    for name in ["instance_id", "id", "instanceName", "instanceID"] {
        let body = json!({ name: "shop", "webhook_url": "", "sync_history": true });
        let (config, webhook_url) = parse_parts(body).unwrap();
        assert_eq!(config.id.as_str(), "shop");
        let expected = LinkedDeviceSettings { sync_history: true, ..LinkedDeviceSettings::default() };
        assert_eq!((config.provider, webhook_url), (ProviderConfig::LinkedDevice(expected), None));
    }
}

#[test]
fn invalid_setting_is_named() {
    let cloud = json!({ "phone_number_id": "1", "access_token": "t" });
    for (field, body) in [
        ("instance_id", json!({})),
        ("instance_id", json!({ "id": "a b" })),
        ("cloud_api", json!({ "id": "a", "provider": "cloud_api" })),
        ("cloud_api", json!({ "id": "a", "provider": "linked_device", "cloud_api": cloud })),
        ("linked_device", json!({ "id": "a", "cloud_api": cloud, "linked_device": {} })),
        ("sync_history", json!({ "id": "a", "cloud_api": cloud, "sync_history": true })),
        ("cloud_api.access_token", json!({ "id": "a", "cloud_api": { "phone_number_id": "1" } })),
        ("webhook_url", json!({ "id": "a", "webhook_url": "example.com" })),
        ("rate_limit.per_second", json!({ "id": "a", "rate_limit": { "per_second": 0.0, "burst": 1 } })),
    ] {
        assert_eq!(parse_config(body.clone()).unwrap_err().field, field, "{body}");
    }
}

#[test]
fn linked_device_proxy_and_limit_are_set() {
    let config = parse_config(json!({
        "id": "a", "linked_device": { "proxy": "socks5://p:1080", "first_contacts_per_day": 5 },
    }))
    .unwrap();
    let mut expected = LinkedDeviceSettings {
        proxy: Some(Secret::new("socks5://p:1080")),
        first_contacts_per_day: Some(5),
        sync_history: false,
    };
    assert_eq!(config.provider, ProviderConfig::LinkedDevice(expected.clone()));
    let config = update(json!({ "linked_device": { "proxy": null }, "sync_history": true }), config).unwrap();
    (expected.proxy, expected.sync_history) = (None, true);
    assert_eq!(config.provider, ProviderConfig::LinkedDevice(expected.clone()));
    let config = update(json!({ "name": "Shop" }), config).unwrap();
    assert_eq!(config.provider, ProviderConfig::LinkedDevice(expected));
}

#[test]
fn update_keeps_the_provider() {
    let linked = parse_config(json!({ "id": "a" })).unwrap();
    for (field, config, body) in [
        ("provider", sample_config(), json!({ "provider": "linked_device" })),
        ("provider", linked.clone(), json!({ "provider": "cloud_api" })),
        ("cloud_api", linked.clone(), json!({ "cloud_api": {} })),
        ("linked_device", sample_config(), json!({ "linked_device": {} })),
        ("sync_history", sample_config(), json!({ "sync_history": true })),
    ] {
        assert_eq!(update(body.clone(), config).unwrap_err().field, field, "{body}");
    }
    for (config, provider) in [(sample_config(), "cloud_api"), (linked, "linked_device")] {
        let body = json!({ "provider": provider, "sync_history": false });
        assert_eq!(update(body, config.clone()), Ok(config));
    }
}

#[test]
fn update_changes_only_the_given_fields() {
    let mut expected = sample_config();
    let config =
        update(json!({ "cloud_api": { "access_token": "new" }, "workers": 3 }), sample_config()).unwrap();
    expected.workers = NonZeroU32::new(3);
    let ProviderConfig::CloudApi(settings) = &mut expected.provider else { panic!("{expected:?}") };
    settings.access_token = Secret::new("new");
    assert_eq!(config, expected);
    let config = update(json!({ "workers": null, "cloud_api": { "access_token": "t" } }), config).unwrap();
    assert_eq!(config, sample_config());
    assert_eq!(
        update(json!({ "cloud_api": { "base_url": "x" } }), sample_config()).unwrap_err().field,
        "cloud_api.base_url"
    );
}
