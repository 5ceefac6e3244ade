use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{AmbiguousPolicy, ValidationError};

/// The name of an instance, chosen by its owner: 1 to 64 letters, digits, `-`, `_` or `.`, not beginning with a
/// dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = ValidationError;
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if text.is_empty() {
            return Err(ValidationError::new("instance_id", "instance_id es requerido"));
        }
        if text.len() > 64 || !plain || text.starts_with('.') {
            return Err(ValidationError::new("instance_id", "use 1 to 64 letters, digits, '-', '_' or '.'"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for InstanceId {
    type Error = ValidationError;
    fn try_from(text: String) -> Result<Self, ValidationError> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of an instance within this data folder: 24 bits, given once, never given again, so that a new
/// instance under an old name never meets the old one's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceNumber(u32);

impl InstanceNumber {
    pub const FIRST: InstanceNumber = InstanceNumber(1);

    pub fn get(self) -> u32 {
        self.0
    }

    /// The next number; `None` after 16,777,215 instances.
    pub fn next(self) -> Option<InstanceNumber> {
        (self.0 < 0xFF_FFFF).then_some(InstanceNumber(self.0 + 1))
    }

    pub(super) fn from_low_bits(bits: u32) -> Self {
        Self(bits & 0xFF_FFFF)
    }

    /// The number as it stands in keys; `None` for what was never given.
    pub fn from_be_bytes(bytes: [u8; 4]) -> Option<InstanceNumber> {
        let number = u32::from_be_bytes(bytes);
        (1..=0xFF_FFFF).contains(&number).then_some(InstanceNumber(number))
    }
}

/// Which road to WhatsApp an instance takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Meta's Graph API.
    CloudApi,
    /// WhatsApp Web, multi-device.
    LinkedDevice,
}

impl ProviderKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ProviderKind::CloudApi => "cloud_api",
            ProviderKind::LinkedDevice => "linked_device",
        }
    }
}

/// A credential. It is stored and it is used; it is never shown, logged or given back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The credential itself: for the wire and for comparing, nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What an instance on the Cloud API needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudApiSettings {
    pub phone_number_id: String,
    pub access_token: Secret,
    /// Signs Meta's webhooks. Without it their signatures cannot be checked.
    #[serde(default)]
    pub app_secret: Option<Secret>,
    /// The word that Meta repeats when it verifies the webhook.
    #[serde(default)]
    pub verify_token: Option<Secret>,
    pub base_url: Url,
    /// `v25.0` and the like.
    pub api_version: String,
}

/// What an instance that is a linked device may be told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkedDeviceSettings {
    /// Its way to WhatsApp: `http://` or `socks5://`, with user and password where the proxy asks for them.
    #[serde(default)]
    pub proxy: Option<Secret>,
    /// People whom it may write to first within a day; the node's own limit when unset.
    #[serde(default)]
    pub first_contacts_per_day: Option<u32>,
}

/// How fast an instance may send: a steady rate, and how many may go at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Messages per second; fractions are slower than one a second.
    pub per_second: f64,
    pub burst: NonZeroU32,
}

/// An instance as its owner configured it. Durable, secrets and all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceConfig {
    pub id: InstanceId,
    #[serde(default)]
    pub name: Option<String>,
    pub provider: ProviderKind,
    #[serde(default)]
    pub cloud_api: Option<CloudApiSettings>,
    #[serde(default)]
    pub linked_device: Option<LinkedDeviceSettings>,
    #[serde(default)]
    pub webhook_url: Option<Url>,
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// How many messages may be on their way at once, each in a lane of its own.
    #[serde(default)]
    pub workers: Option<NonZeroU32>,
    #[serde(default)]
    pub sync_history: bool,
    /// What becomes of messages whose outcome stays unknown; the node's own policy when unset.
    #[serde(default)]
    pub on_ambiguous: Option<AmbiguousPolicy>,
}

/// What an instance is doing. Closed; each state but `created` and `connected` comes with a [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Known, never asked to connect.
    Created,
    Connecting,
    Connected,
    /// Keeps its queue and waits for new credentials or for `resume`.
    Paused,
    /// Asked to stay away.
    Disconnected,
    LoggedOut,
    /// Restarted too often; waits for `restart`.
    Failed,
}

impl InstanceState {
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

/// Why an instance is in the state that it is in: a stable code for programs, words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// For example `auth_rejected`, `account_blocked`, `unreachable`, `requested`, `restart_limit`.
    pub code: String,
    /// What happened, in the provider's own words where it has any, and what to do.
    pub text: String,
}

impl Reason {
    pub fn new(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.to_owned(), text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_accepts_only_plain_names() {
        for good in ["shop", "a", "Shop-1_b.c"] {
            assert!(good.parse::<InstanceId>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", ".hidden", "ñ", &"x".repeat(65)] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn secret_is_redacted_in_debug_output() {
        assert_eq!(format!("{:?}", Secret::new("EAAG")), "Secret(…)");
    }
}
