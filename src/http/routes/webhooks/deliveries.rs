//! `GET /webhooks/{endpoint_id}/deliveries…`: the delivery status of each event at an endpoint.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::resolve_event;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{EndpointIdPath, EventPath, QueryParams};
use crate::http::{AppState, page};
use crate::webhook::{DeliveryState, EndpointId, EventDelivery};
use relevo_domain::{InstanceId, InstanceNumber, ValidationError};

/// Maximum number of deliveries of a page: the limit of the webhook module.
const MAX_DELIVERIES: usize = 100;

/// An event that an endpoint subscribes to, and its delivery status.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryEntry {
    /// The sequence of the event in the log of its instance.
    sequence: u64,
    #[serde(rename = "type")]
    #[schema(example = "message_ack")]
    kind: String,
    /// The time of the event, RFC 3339.
    time: String,
    /// `delivered`, `pending`, `retrying` or `parked`.
    #[schema(example = "delivered")]
    state: &'static str,
    /// The number of failed attempts, while it is retried or parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    /// The error of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
}

/// A page of deliveries, in the order of the log.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryPage {
    success: bool,
    data: Vec<DeliveryEntry>,
    /// The `after` of the next page. Missing on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A delivery with the request that is sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryResponse {
    success: bool,
    data: DeliveryDetail,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeliveryDetail {
    #[serde(flatten)]
    entry: DeliveryEntry,
    /// The `webhook-id` header of every attempt.
    webhook_id: String,
    /// The exact body of every attempt; signatures cover it.
    body: String,
    /// The event's data.
    #[schema(value_type = Object)]
    event_data: Value,
}

/// The query of deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// The instance of the events. Required for an endpoint of all instances.
    instance: Option<String>,
    /// The `next` of the page before, or a sequence.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<u64>,
    /// Only deliveries in this state: `delivered`, `pending`, `retrying` or `parked`.
    state: Option<String>,
    /// 1 to 500, of which at most 100 are returned; 50 without it.
    limit: Option<usize>,
}

impl DeliveryQuery {
    fn state_filter(&self) -> Result<Option<DeliveryState>, ValidationError> {
        let Some(name) = &self.state else { return Ok(None) };
        let known = DeliveryState::ALL.into_iter().find(|state| state.as_str() == name);
        known
            .map(Some)
            .ok_or_else(|| ValidationError::new("state", "is delivered, pending, retrying or parked"))
    }

    fn resolve_instance(&self, state: &AppState, endpoint: EndpointId) -> Result<InstanceNumber, ApiError> {
        match &self.instance {
            Some(name) => Ok(state.services.instances.get(&name.parse::<InstanceId>()?)?.number),
            None => state.services.webhooks.only_instance(endpoint)?.ok_or_else(|| {
                let reason = "every instance counts its events for itself; name one";
                ValidationError::new("instance", reason).into()
            }),
        }
    }
}

impl From<EventDelivery> for DeliveryEntry {
    fn from(delivery: EventDelivery) -> Self {
        let (attempts, error) = delivery.failures.unzip();
        Self {
            sequence: delivery.sequence,
            kind: delivery.event.kind.to_string(),
            time: delivery.event.at.to_string(),
            state: delivery.state.as_str(),
            attempts,
            error,
            next_attempt_at: delivery.next_attempt.map(|at| at.to_string()),
        }
    }
}

/// The events that an endpoint subscribes to and that the log retains, with their delivery status.
#[utoipa::path(get, path = "/webhooks/{endpoint_id}/deliveries", operation_id = "list_deliveries",
    tag = "webhooks", params(EndpointIdPath, DeliveryQuery), responses(
        (status = 200, description = "A page.", body = DeliveryPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint, or it does not serve the instance.", body = ErrorBody),
    ))]
pub async fn list(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    QueryParams(query): QueryParams<DeliveryQuery>,
) -> Result<Json<DeliveryPage>, ApiError> {
    let limit = page::validate_limit(query.limit)?.min(MAX_DELIVERIES);
    let (instance, wanted) = (query.resolve_instance(&state, id)?, query.state_filter()?);
    let found = state.services.webhooks.deliveries(id, instance, query.after, wanted, limit).await?;
    Ok(Json(DeliveryPage {
        success: true,
        data: found.deliveries.into_iter().map(DeliveryEntry::from).collect(),
        next: found.next.map(|sequence| sequence.to_string()),
    }))
}

/// The delivery of one event, with the body that the receiver gets.
#[utoipa::path(get, path = "/webhooks/{endpoint_id}/deliveries/{instance_id}/{sequence}",
    operation_id = "get_delivery", tag = "webhooks", params(EndpointIdPath, EventPath), responses(
        (status = 200, description = "The delivery.", body = DeliveryResponse),
        (status = 404, description = "No such endpoint or event, or the endpoint does not subscribe to it.",
            body = ErrorBody),
    ))]
pub async fn get(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    EndpointIdPath(id): EndpointIdPath,
    name: EventPath,
) -> Result<Json<DeliveryResponse>, ApiError> {
    let found = state.services.webhooks.delivery(id, resolve_event(&state, &name)?).await?;
    let event_data = found.delivery.event.data.clone();
    let entry = DeliveryEntry::from(found.delivery);
    let data = DeliveryDetail { entry, webhook_id: found.webhook_id, body: found.body, event_data };
    Ok(Json(DeliveryResponse { success: true, data }))
}
