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
    /// Names of events, such as `message_ack`. Default: `all`.
    #[serde(default)]
    events: Vec<String>,
    /// Signs deliveries. Never returned.
    secret: Option<String>,
    enabled: Option<bool>,
}

/// Changes to an endpoint; omitted fields keep their values.
#[derive(Deserialize, ToSchema)]
pub struct EndpointChanges {
    url: Option<String>,
    events: Option<Vec<String>>,
    /// `null` or an empty text removes it.
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>)]
    secret: Option<Option<String>>,
    enabled: Option<bool>,
}

/// An endpoint with its delivery status and lag.
#[derive(Debug, Serialize, ToSchema)]
pub struct Endpoint {
    #[schema(example = "ep_30313233343536373839616263646566")]
    pub(super) endpoint_id: String,
    /// The instance whose events it receives. Missing for an endpoint of all instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance_id: Option<String>,
    /// Whether it is the webhook at `/instances/{id}/webhook`.
    pub(super) primary: bool,
    pub(super) url: String,
    pub(super) events: Vec<String>,
    /// Asterisks, if a secret is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<&'static str>,
    pub(super) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disabled: Option<EndpointDisabled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trouble: Option<EndpointFailure>,
    pub(super) counts: EndpointCounts,
    pub(super) lag: EndpointLag,
    /// RFC 3339, like all times in this response.
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// When and why an endpoint was disabled. It keeps its cursor, and events stay as long as the log retains them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointDisabled {
    pub(super) at: String,
    /// `requested`, or the failure of its receiver.
    pub(super) reason: String,
}

/// The event that the receiver does not accept.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointFailure {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance_id: Option<String>,
    pub(super) since: String,
    pub(super) attempts: u32,
    /// The error of the last attempt.
    pub(super) error: String,
    pub(super) next_attempt_at: String,
}

/// Counters since the node started.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointCounts {
    pub(super) delivered: u64,
    /// Attempts that failed.
    pub(super) failed: u64,
    /// Parked events.
    pub(super) parked: u64,
    /// Events that were deleted by retention before they were delivered.
    pub(super) missed: u64,
}

/// The lag of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointLag {
    /// Events after its cursor, whether it subscribes to them or not.
    pub(super) events: u64,
    /// The age of the oldest of these events.
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

/// The operation succeeded.
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
    /// The response of a successful operation.
    pub fn json() -> Json<Self> {
        Json(Self { success: true })
    }
}

impl NewEndpoint {
    /// The configuration of the new endpoint.
    ///
    /// # Errors
    ///
    /// The URL, an event name or the secret is invalid.
    pub fn into_config(self) -> Result<EndpointConfig, ValidationError> {
        Ok(EndpointConfig {
            url: required_url(self.url)?,
            secret: self.secret.map(Secret::new),
            events: Events::parse(self.events)?,
            enabled: self.enabled.unwrap_or(true),
        })
    }

    /// Whether the secret is the mask of a response: it means the existing secret.
    pub fn keeps_secret(&self) -> bool {
        self.secret.as_deref() == Some(SECRET_MASK)
    }
}

impl EndpointChanges {
    /// The update of the endpoint.
    ///
    /// # Errors
    ///
    /// The URL, an event name or the secret is invalid.
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
