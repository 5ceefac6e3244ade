//! `/webhooks` and `/instances/{id}/webhooks`: the endpoints that events are delivered to.

pub(in crate::http) mod create;
pub(in crate::http) mod delete;
pub(in crate::http) mod deliveries;
pub(in crate::http) mod dto;
pub(in crate::http) mod enable;
pub(in crate::http) mod get;
pub(in crate::http) mod list;
pub(in crate::http) mod parked;
pub(in crate::http) mod replay;
pub(in crate::http) mod update;

use axum::Json;
use url::Url;

use super::instances::dto::request::parse_http_url;
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::http::extract::EventPath;
use crate::webhook::{EndpointScope, EndpointView, EventRef, Lag};
use dto::{Endpoint, EndpointCounts, EndpointDisabled, EndpointFailure, EndpointLag, EndpointResponse};
use relevo_domain::{InstanceId, InstanceNumber, ValidationError};

fn required_url(text: String) -> Result<Url, ValidationError> {
    parse_http_url("url", Some(text))?.ok_or_else(|| ValidationError::new("url", "url es requerido"))
}

/// The response form of an endpoint, with its lag.
///
/// # Errors
///
/// The lag of the endpoint cannot be read.
pub(super) async fn load_endpoint(state: &AppState, view: EndpointView) -> Result<Endpoint, ApiError> {
    let Lag { events, oldest } = state.services.webhooks.lag(view.id).await?;
    let name = |number| instance_name(state, number).map(String::from);
    Ok(Endpoint {
        endpoint_id: view.id.to_string(),
        instance_id: match view.scope {
            EndpointScope::Instance(number) => name(number),
            EndpointScope::All => None,
        },
        primary: view.primary,
        url: view.url.into(),
        events: view.events.names(),
        secret: view.secret,
        enabled: view.disabled.is_none(),
        disabled: view.disabled.map(|it| EndpointDisabled { at: it.at.to_string(), reason: it.reason }),
        trouble: view.failures.map(|it| EndpointFailure {
            instance_id: name(it.instance),
            since: it.since.to_string(),
            attempts: it.attempts,
            error: it.error,
            next_attempt_at: it.next_attempt.to_string(),
        }),
        counts: EndpointCounts {
            delivered: view.counts.delivered,
            failed: view.counts.failed,
            parked: view.counts.parked,
            missed: view.counts.missed,
        },
        lag: EndpointLag { events, oldest_seconds: oldest.map(|age| age.as_secs()) },
        created_at: view.created_at.to_string(),
        updated_at: view.updated_at.to_string(),
    })
}

fn instance_name(state: &AppState, number: InstanceNumber) -> Option<InstanceId> {
    let names = state.services.instances.names().borrow().clone();
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| name.clone())
}

async fn endpoint_response(state: &AppState, view: EndpointView) -> Result<Json<EndpointResponse>, ApiError> {
    Ok(Json(EndpointResponse::new(load_endpoint(state, view).await?)))
}

/// Resolves the event in the path.
fn resolve_event(
    state: &AppState,
    EventPath { instance, sequence }: &EventPath,
) -> Result<EventRef, ApiError> {
    Ok(EventRef { instance: state.services.instances.get(instance)?.number, sequence: *sequence })
}
