//! What an instance is configured to do, and the states that it can be in.

mod stored_config;

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{AmbiguousPolicy, InstanceId, ReasonCode};
use stored_config::StoredInstanceConfig;

/// The API through which an instance sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Meta's Graph API.
    CloudApi,
    /// A WhatsApp Web client (multi-device) that is paired with a phone.
    LinkedDevice,
}

impl ProviderKind {
    /// The value in configuration, JSON and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ProviderKind::CloudApi => "cloud_api",
            ProviderKind::LinkedDevice => "linked_device",
        }
    }
}

/// A credential. It is stored and used, and never shown, logged or returned by an API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The credential itself, only for sending it to its server and for comparison.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the credential is the empty text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Settings of an instance that uses the Cloud API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudApiSettings {
    /// Meta's id of the business phone number.
    pub phone_number_id: String,
    /// Authorises every request to the Graph API.
    pub access_token: Secret,
    /// The key that Meta signs webhooks with. Without it their signatures cannot be verified.
    #[serde(default)]
    pub app_secret: Option<Secret>,
    /// The token that Meta sends when it verifies the webhook.
    #[serde(default)]
    pub verify_token: Option<Secret>,
    /// Address of the Graph API.
    pub base_url: Url,
    /// For example `v25.0`.
    pub api_version: String,
}

/// Settings of an instance that is a linked device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkedDeviceSettings {
    /// Proxy for its connections to WhatsApp: `http://` or `socks5://`, with user and password if the proxy needs them.
    pub proxy: Option<Secret>,
    /// Number of new contacts that it may message per day; the node's limit when unset.
    pub first_contacts_per_day: Option<u32>,
    /// Whether it asks the phone for its chat history after pairing.
    pub sync_history: bool,
}

/// The provider of an instance with the settings that this provider has.
#[derive(Debug, Clone, PartialEq)]
pub enum ProviderConfig {
    /// Meta's Graph API.
    CloudApi(CloudApiSettings),
    /// A WhatsApp Web client.
    LinkedDevice(LinkedDeviceSettings),
}

impl ProviderConfig {
    /// The API that it uses.
    pub fn kind(&self) -> ProviderKind {
        match self {
            ProviderConfig::CloudApi(_) => ProviderKind::CloudApi,
            ProviderConfig::LinkedDevice(_) => ProviderKind::LinkedDevice,
        }
    }

    /// The settings of an instance on the Cloud API.
    pub fn cloud_api(&self) -> Option<&CloudApiSettings> {
        match self {
            ProviderConfig::CloudApi(settings) => Some(settings),
            ProviderConfig::LinkedDevice(_) => None,
        }
    }
}

/// How fast an instance may send: a steady rate and a burst.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Messages per second; may be below 1.
    pub per_second: f64,
    /// Messages that may be sent at once after a pause.
    pub burst: NonZeroU32,
}

/// An instance as its owner configured it. The store keeps it with its secrets, in the form of
/// [`StoredInstanceConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredInstanceConfig", into = "StoredInstanceConfig")]
pub struct InstanceConfig {
    /// The name in URLs and webhooks.
    pub id: InstanceId,
    /// A name for display.
    pub name: Option<String>,
    /// The API that it uses, with its settings.
    pub provider: ProviderConfig,
    /// Rate limit for sending; the provider's default when unset.
    pub rate_limit: Option<RateLimit>,
    /// Number of messages that may be in flight at once, each in a different lane.
    pub workers: Option<NonZeroU32>,
    /// What happens to messages whose outcome stays unknown; the node's policy when unset.
    pub on_ambiguous: Option<AmbiguousPolicy>,
}

/// The state of an instance. Every state except `created` and `connected` has a [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Configured, never started.
    Created,
    /// The client is starting, pairing or reconnecting.
    Connecting,
    /// Messages can be sent.
    Connected,
    /// Sends nothing and keeps its queue, until it gets new credentials or `resume`.
    Paused,
    /// Stopped by request.
    Disconnected,
    /// WhatsApp ended the pairing; the instance must be paired again.
    LoggedOut,
    /// Restarted too often; waits for `restart`.
    Failed,
}

impl InstanceState {
    /// The value in JSON, events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            InstanceState::Created => "created",
            InstanceState::Connecting => "connecting",
            InstanceState::Connected => "connected",
            InstanceState::Paused => "paused",
            InstanceState::Disconnected => "disconnected",
            InstanceState::LoggedOut => "logged_out",
            InstanceState::Failed => "failed",
        }
    }
}

/// Why an instance is in its state: a stable code for programs and a text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A [`ReasonCode`] as text, because a stored record can contain a code of another version.
    pub code: String,
    /// What happened, with the provider's text if there is one, and what to do.
    pub text: String,
}

impl Reason {
    /// A reason with one of the codes of this version.
    pub fn new(code: ReasonCode, text: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), text: text.into() }
    }

    /// Whether this is the reason's code.
    pub fn is(&self, code: ReasonCode) -> bool {
        self.code == code.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_keeps_a_stored_code_of_another_version() {
        let stored = r#"{"code":"solar_flare","text":"wait"}"#;
        let reason: Reason = serde_json::from_str(stored).unwrap();
        assert!(ReasonCode::ALL.iter().all(|code| !reason.is(*code)));
        assert_eq!(serde_json::to_string(&reason).unwrap(), stored);
    }

    #[test]
    fn secret_is_redacted_in_debug_output() {
        assert_eq!(format!("{:?}", Secret::new("EAAG")), "Secret(…)");
    }
}
