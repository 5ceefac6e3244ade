//! `/webhooks/{endpoint_id}/parked` and `…/replay`: telling an endpoint once more.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{EndpointName, EventName, JsonBody, QueryOf};
use crate::http::moment::Moment;
use crate::http::page::{self, Page};
use crate::http::{AppState, json};
use crate::webhook::{self, ParkedView, Place, ReplayFrom};
use relevo_domain::{InstanceId, InstanceNumber, Invalid};

use super::endpoints::Success;

/// The most parked events of a page: the webhook room reads no more at once.
const MOST_PARKED: usize = 100;

/// An event that the receiver refused, put aside so that the next ones could follow.
#[derive(Debug, Serialize, ToSchema)]
pub struct Parked {
    /// Not there when the instance is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    /// The event's place in the log of its instance.
    sequence: u64,
    parked_at: String,
    /// `refused` or `exhausted`.
    reason: &'static str,
    attempts: u32,
    /// What the last attempt met.
    error: String,
    /// Not there once the log has forgotten it.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<ParkedEvent>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ParkedEvent {
    #[schema(example = "message_ack")]
    event: String,
    at: String,
    #[schema(value_type = Object)]
    data: Value,
}

/// Which page of parked events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500, of which at most 100 are given at once; 50 without it.
    limit: Option<usize>,
}

/// How the attempts ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayedAnswer {
    success: bool,
    data: Replayed,
}

#[derive(Debug, Serialize, ToSchema)]
struct Replayed {
    /// So many were taken now, and are parked no more.
    delivered: usize,
    /// The first that was not taken. It and those behind it stay parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<NotTaken>,
}

#[derive(Debug, Serialize, ToSchema)]
struct NotTaken {
    sequence: u64,
    error: String,
}

/// From where an endpoint is told again: a sequence or a time.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ReplayPlace {
    /// One instance alone. Required with `sequence` for an endpoint of all instances.
    instance_id: Option<String>,
    /// The first event, by its place in the log of its instance.
    sequence: Option<u64>,
    /// The first event that is not older: RFC 3339 or Unix seconds.
    #[schema(value_type = Option<String>)]
    time: Option<Moment>,
}

impl From<ParkedView> for Parked {
    fn from(view: ParkedView) -> Self {
        Self {
            instance_id: view.instance.map(String::from),
            sequence: view.place.sequence,
            parked_at: view.at.to_string(),
            reason: view.reason.as_str(),
            attempts: view.attempts,
            error: view.error,
            event: view.event.map(|event| ParkedEvent {
                event: event.kind,
                at: event.at.to_string(),
                data: event.data,
            }),
        }
    }
}

/// The instance's number, a dash, and the sequence.
fn cursor(view: &ParkedView) -> Option<String> {
    Some(format!("{}-{}", view.place.instance.get(), view.place.sequence))
}

fn place(text: &str) -> Result<Place, Invalid> {
    let parts = text.split_once('-').and_then(|(instance, sequence)| {
        let instance = InstanceNumber::from_be_bytes(instance.parse::<u32>().ok()?.to_be_bytes())?;
        Some(Place { instance, sequence: sequence.parse().ok()? })
    });
    parts.ok_or_else(|| Invalid::new("after", "must be the `next` of the page before"))
}

/// Events that an endpoint refused for good, in order.
#[utoipa::path(get, path = "/webhooks/{endpoint_id}/parked", operation_id = "list_parked", tag = "webhooks",
    params(Wanted), responses(
        (status = 200, description = "A page of them.", body = Page<Parked>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn parked(
    State(state): State<AppState>,
    EndpointName(id): EndpointName,
    QueryOf(wanted): QueryOf<Wanted>,
) -> Result<Json<Page<Parked>>, ApiError> {
    let limit = page::limit(wanted.limit)?.min(MOST_PARKED);
    let after = wanted.after.as_deref().map(place).transpose()?;
    let found = state.services.webhooks.parked(id, after, limit).await?;
    Ok(Json(Page::of(found, limit, cursor)))
}

/// Attempts up to 100 parked events again, in order, until one is not taken.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/parked/replay", operation_id = "replay_parked",
    tag = "webhooks", responses(
        (status = 200, description = "How it went.", body = ReplayedAnswer),
        (status = 404, description = "No such endpoint.", body = ErrorBody),
    ))]
pub async fn replay_parked(
    State(state): State<AppState>,
    EndpointName(id): EndpointName,
) -> Result<Json<ReplayedAnswer>, ApiError> {
    Ok(replayed_answer(state.services.webhooks.replay_all_parked(id).await?))
}

/// The parked event that a path names.
pub(super) fn named(
    state: &AppState,
    EventName { instance, sequence }: &EventName,
) -> Result<Place, ApiError> {
    Ok(Place { instance: state.services.instances.get(instance)?.number, sequence: *sequence })
}

/// Attempts one parked event again, now and once.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/parked/{instance_id}/{sequence}/replay",
    operation_id = "replay_parked_event", tag = "webhooks", responses(
        (status = 200, description = "How it went.", body = ReplayedAnswer),
        (status = 404, description = "No such endpoint, or the event is not parked or is forgotten.",
            body = ErrorBody),
    ))]
pub async fn replay_one(
    State(state): State<AppState>,
    EndpointName(id): EndpointName,
    name: EventName,
) -> Result<Json<ReplayedAnswer>, ApiError> {
    let replayed = state.services.webhooks.replay_parked(id, named(&state, &name)?).await?;
    Ok(replayed_answer(replayed))
}

/// Forgets that an event was parked, for good.
#[utoipa::path(delete, path = "/webhooks/{endpoint_id}/parked/{instance_id}/{sequence}",
    operation_id = "discard_parked_event", tag = "webhooks", responses(
        (status = 200, description = "It is parked no more.", body = Success),
        (status = 404, description = "No such endpoint, or the event is not parked.", body = ErrorBody),
    ))]
pub async fn discard(
    State(state): State<AppState>,
    EndpointName(id): EndpointName,
    name: EventName,
) -> Result<Json<Success>, ApiError> {
    state.services.webhooks.discard_parked(id, named(&state, &name)?).await?;
    Ok(Success::answer())
}

fn replayed_answer(replayed: webhook::Replayed) -> Json<ReplayedAnswer> {
    let failed = replayed.failed.map(|(place, error)| NotTaken { sequence: place.sequence, error });
    let data = Replayed { delivered: replayed.delivered.len(), failed };
    Json(ReplayedAnswer { success: true, data })
}

/// Puts an endpoint back (or forward) to a place in the log: everything from there on is delivered, again if it was
/// before.
#[utoipa::path(post, path = "/webhooks/{endpoint_id}/replay", operation_id = "replay_from", tag = "webhooks",
    request_body = ReplayPlace, responses(
        (status = 200, description = "It is told from there.", body = Success),
        (status = 400, description = "The place is missing or wrong.", body = ErrorBody),
        (status = 404, description = "No such endpoint, or no such instance.", body = ErrorBody),
    ))]
pub async fn replay(
    State(state): State<AppState>,
    EndpointName(id): EndpointName,
    JsonBody(body): JsonBody,
) -> Result<Json<Success>, ApiError> {
    let asked: ReplayPlace = json::parse(&body)?;
    let from = match (asked.sequence, asked.time) {
        (Some(sequence), None) => ReplayFrom::Sequence(sequence),
        (None, Some(moment)) => ReplayFrom::Time(moment.0),
        _ => return Err(Invalid::new("sequence", "give either sequence or time").into()),
    };
    let instance = asked.instance_id.map(|name| name.parse::<InstanceId>()).transpose()?;
    let instance = instance.map(|name| state.services.instances.get(&name)).transpose()?;
    state.services.webhooks.replay_from(id, instance.map(|view| view.number), from).await?;
    Ok(Success::answer())
}
