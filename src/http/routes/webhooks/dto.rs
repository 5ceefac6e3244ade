//! Webhook endpoints: requests and responses.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::required_url;
use crate::http::routes::instances::dto::request::double_option;
use crate::webhook::{EndpointConfig, EndpointUpdate, Events, SECRET_MASK};
use relevo_domain::{Secret, ValidationError};

/// A new endpoint.
#[derive(Deserialize, ToSchema)]
pub struct NewEndpoint {
    #[serde(default)]
    #[schema(required = true, example = "https://example.com/events")]
    url: String,
    /// Names of events, such as `message_ack`. Without any, or with `all`, it is every event.
    #[serde(default)]
    events: Vec<String>,
    /// Signs deliveries. Never given back.
    secret: Option<String>,
    enabled: Option<bool>,
}

/// What changes about an endpoint; what is left out stays.
#[derive(Deserialize, ToSchema)]
pub struct EndpointChanges {
    url: Option<String>,
    events: Option<Vec<String>>,
    /// `null`, or an empty text, takes it away.
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>)]
    secret: Option<Option<String>>,
    enabled: Option<bool>,
}

/// An endpoint, how it fares and how far behind it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Endpoint {
    #[schema(example = "ep_30313233343536373839616263646566")]
    pub(super) endpoint_id: String,
    /// Whose events it gets; not there when it gets those of all instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance_id: Option<String>,
    /// Whether it is the one at `/instances/{id}/webhook`.
    pub(super) primary: bool,
    pub(super) url: String,
    pub(super) events: Vec<String>,
    /// Asterisks, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<&'static str>,
    pub(super) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disabled: Option<EndpointDisabled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<EndpointFailure>,
    pub(super) counts: EndpointCounts,
    pub(super) lag: EndpointLag,
    /// RFC 3339, as all times here.
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// Since when, and why, an endpoint gets nothing. What it misses is kept for it as long as events are kept.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointDisabled {
    pub(super) at: String,
    /// `requested`, or what its receiver did for so long.
    pub(super) reason: String,
}

/// An event that the receiver does not take.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointFailure {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance_id: Option<String>,
    pub(super) since: String,
    pub(super) attempts: u32,
    /// What the last attempt met.
    pub(super) error: String,
    pub(super) next_attempt_at: String,
}

/// What happened since the node started.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointCounts {
    pub(super) delivered: u64,
    /// Attempts that failed.
    pub(super) failed: u64,
    /// Events put aside.
    pub(super) parked: u64,
    /// Events that were forgotten before they could be delivered.
    pub(super) missed: u64,
}

/// How far an endpoint is behind.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointLag {
    /// Events that it was not told of yet, wanted or not.
    pub(super) events: u64,
    /// The age of the oldest of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest_seconds: Option<u64>,
}

/// One endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointResponse {
    success: bool,
    data: Endpoint,
}

/// Endpoints, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointList {
    pub(super) success: bool,
    pub(super) data: Vec<Endpoint>,
    pub(super) total: usize,
}

/// It was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuccessResponse {
    success: bool,
}

impl EndpointResponse {
    pub fn new(data: Endpoint) -> Self {
        Self { success: true, data }
    }
}

impl SuccessResponse {
    pub fn json() -> Json<Self> {
        Json(Self { success: true })
    }
}

impl NewEndpoint {
    pub fn into_config(self) -> Result<EndpointConfig, ValidationError> {
        Ok(EndpointConfig {
            url: required_url(self.url)?,
            secret: self.secret.map(Secret::new),
            events: Events::parse(self.events)?,
            enabled: self.enabled.unwrap_or(true),
        })
    }

    /// Whether the secret is what was shown in its place: the one that is there is meant.
    pub fn keeps_secret(&self) -> bool {
        self.secret.as_deref() == Some(SECRET_MASK)
    }
}

impl EndpointChanges {
    pub(super) fn into_update(self) -> Result<EndpointUpdate, ValidationError> {
        let secret = self.secret.filter(|secret| secret.as_deref() != Some(SECRET_MASK));
        Ok(EndpointUpdate {
            url: self.url.map(required_url).transpose()?,
            secret: secret.map(|secret| secret.map(Secret::new)),
            events: self.events.map(Events::parse).transpose()?,
            enabled: self.enabled,
        })
    }
}
