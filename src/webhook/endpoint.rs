//! Endpoints: their configuration, their record, their runtime state, and the view that the API shows.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use crate::events::EventFilter as Events;
use relevo_clock::Random;
use relevo_domain::{InstanceNumber, Secret, Timestamp, ValidationError};

use super::health::{EndpointHealth, WebhookCounts};
use super::signature::Signer;

/// Text that the API shows instead of a secret.
pub const SECRET_MASK: &str = "********";

/// Maximum length of a URL, in bytes.
const MAX_URL: usize = 2048;

/// The id of an endpoint, in text `ep_` and 32 hexadecimal digits. Ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Uuid);

impl EndpointId {
    pub(super) fn generate(random: &Random) -> Self {
        Self(random.uuid())
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ep_{}", self.0.simple())
    }
}

impl FromStr for EndpointId {
    type Err = ValidationError;
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let id = text.strip_prefix("ep_").and_then(|hex| Uuid::try_parse(hex).ok()).map(Self);
        // Each id has one text form.
        id.filter(|id| id.to_string() == text)
            .ok_or_else(|| ValidationError::new("endpoint_id", "must be ep_ and 32 hexadecimal digits"))
    }
}

/// The instances whose events an endpoint receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointScope {
    /// One instance.
    Instance(InstanceNumber),
    /// All instances, including those that are created later.
    All,
}

impl EndpointScope {
    /// Whether the scope includes an instance.
    pub fn includes(self, instance: InstanceNumber) -> bool {
        match self {
            EndpointScope::Instance(number) => number == instance,
            EndpointScope::All => true,
        }
    }

    /// The instance of a scope of one instance.
    pub(super) fn instance(self) -> Option<InstanceNumber> {
        match self {
            EndpointScope::Instance(number) => Some(number),
            EndpointScope::All => None,
        }
    }
}

/// The configuration of an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// URL that receives the deliveries.
    pub url: Url,
    /// Secret that signs deliveries. An empty secret is the same as none.
    pub secret: Option<Secret>,
    /// Kinds of events that are delivered.
    pub events: Events,
    /// Whether deliveries are made.
    pub enabled: bool,
}

impl EndpointConfig {
    /// An enabled endpoint for all events, without a secret.
    pub fn for_all_events(url: Url) -> Self {
        Self { url, secret: None, events: Events::All, enabled: true }
    }
}

/// A configuration whose URL leads to a permitted address and whose secret is a valid key.
/// [`Handle::check`](super::Handle::check) makes it.
#[derive(Debug, Clone)]
pub struct CheckedConfig(pub(super) EndpointConfig);

/// A change of an endpoint. Fields with `None` stay unchanged.
#[derive(Debug, Clone, Default)]
pub struct EndpointUpdate {
    /// New URL.
    pub url: Option<Url>,
    /// New secret; `Some(None)` removes the secret.
    pub secret: Option<Option<Secret>>,
    /// New filter.
    pub events: Option<Events>,
    /// Enables or disables the endpoint.
    pub enabled: Option<bool>,
}

/// When and why an endpoint was disabled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisabledInfo {
    /// Time at which it was disabled.
    pub at: Timestamp,
    /// `requested`, or the last error of its deliveries.
    pub reason: String,
}

/// The record of an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    pub scope: EndpointScope,
    /// Whether it is the endpoint of its instance that `set_primary` replaces.
    #[serde(default)]
    pub primary: bool,
    pub url: Url,
    #[serde(default)]
    pub secret: Option<Secret>,
    pub events: Events,
    #[serde(default)]
    pub disabled: Option<DisabledInfo>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// The record of a new endpoint.
    pub fn new(scope: EndpointScope, primary: bool, config: EndpointConfig, now: Timestamp) -> Self {
        let EndpointConfig { url, secret, events, enabled } = config;
        let disabled = (!enabled).then(|| DisabledInfo::requested(now));
        let secret = secret.filter(|secret| !secret.is_empty());
        Self { scope, primary, url, secret, events, disabled, created_at: now, updated_at: now }
    }

    /// The record after an update.
    pub fn with_update(&self, update: EndpointUpdate, now: Timestamp) -> Self {
        let before = self.clone();
        Self {
            url: update.url.unwrap_or(before.url),
            secret: update.secret.unwrap_or(before.secret).filter(|secret| !secret.is_empty()),
            events: update.events.unwrap_or(before.events),
            disabled: match update.enabled {
                None => before.disabled,
                Some(true) => None,
                Some(false) => before.disabled.or_else(|| Some(DisabledInfo::requested(now))),
            },
            updated_at: now,
            ..before
        }
    }
}

impl DisabledInfo {
    fn requested(at: Timestamp) -> Self {
        Self { at, reason: "requested".to_owned() }
    }
}

/// Checks the length of a URL. `relevo_egress` checks where it leads.
pub(super) fn check_url(url: &Url) -> Result<(), ValidationError> {
    if url.as_str().len() > MAX_URL {
        return Err(ValidationError::new("url", format!("use a URL of at most {MAX_URL} characters")));
    }
    Ok(())
}

/// An endpoint with its runtime state.
pub(super) struct EndpointRuntime {
    pub id: EndpointId,
    pub endpoint: Endpoint,
    pub signer: Option<Signer>,
    /// Kept over updates of the endpoint and restarts of its actor.
    pub health: Arc<EndpointHealth>,
}

impl EndpointRuntime {
    /// The runtime state of an endpoint.
    ///
    /// # Errors
    ///
    /// The secret is no valid key.
    pub fn new(
        id: EndpointId,
        endpoint: Endpoint,
        health: Arc<EndpointHealth>,
    ) -> Result<Self, ValidationError> {
        let signer = endpoint.secret.as_ref().map(Signer::new).transpose()?;
        Ok(Self { id, endpoint, signer, health })
    }

    /// The view of the endpoint.
    pub fn view(&self) -> EndpointView {
        let endpoint = self.endpoint.clone();
        EndpointView {
            id: self.id,
            scope: endpoint.scope,
            primary: endpoint.primary,
            url: endpoint.url,
            secret: endpoint.secret.map(|_| SECRET_MASK),
            events: endpoint.events,
            disabled: endpoint.disabled,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            failures: self.health.longest_failing(),
            counts: self.health.counts(),
        }
    }
}

/// The public view of an endpoint, without its secret.
#[derive(Debug, Clone)]
pub struct EndpointView {
    /// Id of the endpoint.
    pub id: EndpointId,
    /// Instances whose events it receives.
    pub scope: EndpointScope,
    /// Whether it is the `webhook` resource of its instance.
    pub primary: bool,
    /// URL that receives the deliveries.
    pub url: Url,
    /// [`SECRET_MASK`] if there is one.
    pub secret: Option<&'static str>,
    /// Kinds of events that are delivered.
    pub events: Events,
    /// `None` while it is enabled.
    pub disabled: Option<DisabledInfo>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
    /// The oldest current failure.
    pub failures: Option<FailuresView>,
    /// Counters since the start of the node.
    pub counts: WebhookCounts,
}

/// An event that an endpoint fails to accept, and its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailuresView {
    /// Instance of the event.
    pub instance: InstanceNumber,
    /// Time of the first failed attempt.
    pub since: Timestamp,
    /// Number of failed attempts.
    pub attempts: u32,
    /// Error of the last attempt.
    pub error: String,
    /// Time of the next attempt.
    pub next_attempt: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_id_has_one_text_form() {
        let random = Random::seeded(1);
        let id = EndpointId::generate(&random);
        assert_eq!(id.to_string().parse(), Ok(id));
        let bare = random.uuid();
        for bad in [format!("{bare}"), format!("ep_{bare}"), "ep_".to_owned(), "ep_1".to_owned()] {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn update_changes_only_the_given_fields() {
        let now = Timestamp(5);
        let config = EndpointConfig {
            url: "https://one.example/".parse().unwrap(),
            secret: Some(Secret::new("s")),
            events: Events::All,
            enabled: true,
        };
        let before = Endpoint::new(EndpointScope::All, false, config, Timestamp(1));
        let same = before.with_update(EndpointUpdate::default(), now);
        assert_eq!(same, Endpoint { updated_at: now, ..before.clone() });
        let off = before.with_update(
            EndpointUpdate {
                enabled: Some(false),
                secret: Some(Some(Secret::new(""))),
                ..Default::default()
            },
            now,
        );
        assert_eq!((off.secret.clone(), off.disabled.clone()), (None, Some(DisabledInfo::requested(now))));
        let on = off.with_update(EndpointUpdate { enabled: Some(true), ..Default::default() }, now);
        assert_eq!(on.disabled, None);
    }
}
