//! What an endpoint is, as its owner configures it, as it is written down and as it is shown.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use crate::events::EventFilter as Events;
use relevo_domain::{InstanceNumber, Secret, Timestamp, ValidationError};

use super::health::{EndpointHealth, WebhookCounts};
use super::signature::Signer;

/// What is shown in place of a secret.
pub const SECRET_MASK: &str = "********";

/// The longest URL.
const MAX_URL: usize = 2048;

/// The name of an endpoint: `ep_` and 32 hexadecimal digits, given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Uuid);

impl EndpointId {
    pub(super) fn random() -> Self {
        Self(Uuid::new_v4())
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
        // One spelling: what is parsed is what is shown.
        id.filter(|id| id.to_string() == text).ok_or_else(|| {
            ValidationError::new("endpoint_id", "webhook endpoints are called ep_ and 32 hexadecimal digits")
        })
    }
}

/// Whose events an endpoint gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointScope {
    Instance(InstanceNumber),
    /// Every instance, also those that are created later.
    All,
}

impl EndpointScope {
    pub fn includes(self, instance: InstanceNumber) -> bool {
        match self {
            EndpointScope::Instance(number) => number == instance,
            EndpointScope::All => true,
        }
    }

    /// The one instance, where it is one.
    pub(super) fn instance(self) -> Option<InstanceNumber> {
        match self {
            EndpointScope::Instance(number) => Some(number),
            EndpointScope::All => None,
        }
    }
}

/// An endpoint as its owner wants it.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    pub url: Url,
    /// Signs deliveries. An empty one is none.
    pub secret: Option<Secret>,
    pub events: Events,
    pub enabled: bool,
}

/// A change of an endpoint: what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct EndpointUpdate {
    pub url: Option<Url>,
    /// `Some(None)` takes the secret away.
    pub secret: Option<Option<Secret>>,
    pub events: Option<Events>,
    pub enabled: Option<bool>,
}

/// Since when and why an endpoint gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisabledInfo {
    pub at: Timestamp,
    /// `requested`, or what its receiver did for so long.
    pub reason: String,
}

/// An endpoint as it is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    pub scope: EndpointScope,
    /// The one of its instance that `set_primary` replaces.
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
    pub fn new(scope: EndpointScope, primary: bool, config: EndpointConfig, now: Timestamp) -> Self {
        let EndpointConfig { url, secret, events, enabled } = config;
        let disabled = (!enabled).then(|| DisabledInfo::requested(now));
        let secret = secret.filter(|secret| !secret.is_empty());
        Self { scope, primary, url, secret, events, disabled, created_at: now, updated_at: now }
    }

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

/// Whether a URL may be written down. Where it leads is `egress`' question.
pub(super) fn check_url(url: &Url) -> Result<(), ValidationError> {
    if url.as_str().len() > MAX_URL {
        return Err(ValidationError::new("url", format!("use a URL of at most {MAX_URL} characters")));
    }
    Ok(())
}

/// An endpoint with what belongs to it while the node runs.
pub(super) struct EndpointRuntime {
    pub id: EndpointId,
    pub endpoint: Endpoint,
    pub signer: Option<Signer>,
    /// Outlives changes of the endpoint and crashes of its actor.
    pub health: Arc<EndpointHealth>,
}

impl EndpointRuntime {
    pub fn new(
        id: EndpointId,
        endpoint: Endpoint,
        health: Arc<EndpointHealth>,
    ) -> Result<Self, ValidationError> {
        let signer = endpoint.secret.as_ref().map(Signer::new).transpose()?;
        Ok(Self { id, endpoint, signer, health })
    }

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

/// An endpoint for people and programs: everything but its secret.
#[derive(Debug, Clone)]
pub struct EndpointView {
    pub id: EndpointId,
    pub scope: EndpointScope,
    pub primary: bool,
    pub url: Url,
    /// [`MASK`] when there is one.
    pub secret: Option<&'static str>,
    pub events: Events,
    /// `None` while it is enabled.
    pub disabled: Option<DisabledInfo>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// What keeps it from delivering at the moment.
    pub failures: Option<FailuresView>,
    pub counts: WebhookCounts,
}

/// An event that an endpoint does not take, and what is done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailuresView {
    pub instance: InstanceNumber,
    pub since: Timestamp,
    /// Failed attempts so far.
    pub attempts: u32,
    /// What the last one met.
    pub error: String,
    pub next_attempt: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_ids_have_one_spelling() {
        let id = EndpointId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        let bare = Uuid::new_v4();
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
