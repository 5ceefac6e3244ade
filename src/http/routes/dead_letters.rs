//! `/instances/{id}/dead-letters` and `/dead-letters`: messages that the node gave up, until somebody decides.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, MessageIdPath, QueryParams, TargetInstance};
use crate::http::page::{self, PageResponse};
use crate::http::timestamp::RequestTimestamp;
use crate::http::{AppState, json};
use crate::queue::{self, DeadLetterFilter};
use relevo_domain::{BuryReason, ErrorKind, InstanceId, InstanceNumber, MessageId};

use super::message::{self, MessageBody, MessageResponse};

/// So many are redriven or discarded in one commit.
const BATCH_SIZE: usize = 200;

/// A dead letter: its story, what it said, and what can be done.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    #[schema(example = "shop")]
    instance_id: Option<String>,
    #[serde(flatten)]
    message: MessageBody,
    /// What was to be sent.
    #[schema(value_type = Object)]
    content: Value,
    buried_at: String,
    /// What to do about it.
    advice: &'static str,
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterReason {
    /// WhatsApp refuses it for good.
    Permanent,
    /// Every permitted attempt failed.
    Exhausted,
    /// Nobody knows whether it was sent.
    Ambiguous,
}

/// Which dead letters are meant; all, when nothing is said.
#[derive(Debug, Default, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterSelection {
    reason: Option<DeadLetterReason>,
    /// Buried at this moment or later: RFC 3339 or Unix seconds.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    since: Option<RequestTimestamp>,
    /// Buried before this moment.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    until: Option<RequestTimestamp>,
}

/// Which dead letters to show.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    #[param(inline)]
    reason: Option<DeadLetterReason>,
    /// Buried at this moment or later: RFC 3339 or Unix seconds.
    #[param(value_type = Option<String>)]
    since: Option<RequestTimestamp>,
    /// Buried before this moment.
    #[param(value_type = Option<String>)]
    until: Option<RequestTimestamp>,
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// How many were redriven.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedriveResponse {
    success: bool,
    data: RedriveResult,
}

#[derive(Debug, Serialize, ToSchema)]
struct RedriveResult {
    redriven: usize,
}

/// How many were discarded.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiscardResponse {
    success: bool,
    data: DiscardResult,
}

#[derive(Debug, Serialize, ToSchema)]
struct DiscardResult {
    discarded: usize,
}

impl From<DeadLetterReason> for BuryReason {
    fn from(reason: DeadLetterReason) -> Self {
        match reason {
            DeadLetterReason::Permanent => BuryReason::Permanent,
            DeadLetterReason::Exhausted => BuryReason::Exhausted,
            DeadLetterReason::Ambiguous => BuryReason::Ambiguous,
        }
    }
}

impl DeadLetterSelection {
    fn to_filter(&self) -> DeadLetterFilter {
        DeadLetterFilter {
            reason: self.reason.map(BuryReason::from),
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
        }
    }
}

impl DeadLetterQuery {
    /// The filter, the message behind which to begin, and how many to show.
    fn into_parts(self) -> Result<(DeadLetterFilter, Option<MessageId>, usize), ApiError> {
        let which = DeadLetterSelection { reason: self.reason, since: self.since, until: self.until };
        let after = self.after.as_deref().map(message::parse_cursor).transpose()?;
        Ok((which.to_filter(), after, page::validate_limit(self.limit)?))
    }
}

/// A dead letter with the name of its instance, unless that is gone.
type NamedDeadLetter = (Option<InstanceId>, queue::DeadLetter);

impl From<NamedDeadLetter> for DeadLetter {
    fn from((instance, letter): NamedDeadLetter) -> Self {
        Self {
            instance_id: instance.map(String::from),
            advice: advice(letter.view.buried),
            content: serde_json::to_value(&letter.message.content).unwrap_or_default(),
            buried_at: letter.buried_at.to_string(),
            message: letter.view.into(),
        }
    }
}

fn advice(reason: Option<BuryReason>) -> &'static str {
    match reason {
        Some(BuryReason::Permanent) => {
            "WhatsApp refused it and would refuse it again: send a corrected message and discard this one; redrive \
             it only when what the error names was put right at WhatsApp"
        }
        Some(BuryReason::Exhausted) => {
            "every attempt met trouble that may have passed: redrive it when what the error names is over, or \
             discard it when it comes too late"
        }
        Some(BuryReason::Ambiguous) => {
            "it may have arrived: look into the chat; discard it when it is there, and redrive it only when it is \
             not, or when a second one does no harm"
        }
        None => "redrive it or discard it",
    }
}

fn cursor((_, letter): &NamedDeadLetter) -> Option<String> {
    Some(letter.view.id.to_string())
}

/// Dead letters of an instance, in the order in which they were accepted.
#[utoipa::path(get, path = "/instances/{id}/dead-letters", operation_id = "list_dead_letters", tag = "dead letters",
    params(DeadLetterQuery), responses(
        (status = 200, description = "A page of them.", body = PageResponse<DeadLetter>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list_for_instance(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(wanted): QueryParams<DeadLetterQuery>,
) -> Result<Json<PageResponse<DeadLetter>>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let (filter, after, limit) = wanted.into_parts()?;
    let found = state.services.queue.dead_letters(number, filter, after, limit).await?;
    let named = found.into_iter().map(|letter| (Some(id.clone()), letter)).collect();
    Ok(Json(PageResponse::new(named, limit, cursor)))
}

/// Dead letters of all instances: one instance after the other, in the order in which the instances were created.
#[utoipa::path(get, path = "/dead-letters", operation_id = "list_all_dead_letters", tag = "dead letters",
    params(DeadLetterQuery), responses(
        (status = 200, description = "A page of them.", body = PageResponse<DeadLetter>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_all(
    State(state): State<AppState>,
    QueryParams(wanted): QueryParams<DeadLetterQuery>,
) -> Result<Json<PageResponse<DeadLetter>>, ApiError> {
    let (filter, after, limit) = wanted.into_parts()?;
    let first = after.map(MessageId::instance);
    let mut instances: Vec<_> =
        state.services.instances.list().into_iter().map(|view| (view.number, view.config.id)).collect();
    instances.retain(|(number, _)| first.is_none_or(|first| *number >= first));
    instances.sort();
    let mut found: Vec<NamedDeadLetter> = Vec::new();
    for (number, id) in instances {
        let behind = after.filter(|after| after.instance() == number);
        let missing = limit.saturating_sub(found.len());
        let page = state.services.queue.dead_letters(number, filter.clone(), behind, missing).await?;
        found.extend(page.into_iter().map(|letter| (Some(id.clone()), letter)));
        if found.len() >= limit {
            break;
        }
    }
    Ok(Json(PageResponse::new(found, limit, cursor)))
}

/// Puts a dead letter back into its queue, with all its attempts before it. One whose outcome was unknown may arrive
/// twice.
#[utoipa::path(post, path = "/instances/{id}/dead-letters/{message_id}/redrive", operation_id = "redrive_dead_letter",
    tag = "dead letters", responses(
        (status = 200, description = "It is queued.", body = MessageResponse),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is no dead letter.", body = ErrorBody),
    ))]
pub async fn redrive(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<MessageResponse>, ApiError> {
    let message = message::find_message(&state, &id, &name)?.id;
    match state.services.queue.redrive(vec![message]).await? {
        0 => Err(not_a_dead_letter()),
        _ => message::load_response(&state, &id, message),
    }
}

/// Puts all dead letters that are meant back into their queue.
#[utoipa::path(post, path = "/instances/{id}/dead-letters/redrive", operation_id = "redrive_dead_letters",
    tag = "dead letters", request_body = Option<DeadLetterSelection>, responses(
        (status = 200, description = "They are queued.", body = RedriveResponse),
        (status = 400, description = "The filter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn redrive_all(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    JsonBody(body): JsonBody,
) -> Result<Json<RedriveResponse>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let which: DeadLetterSelection =
        if body.trim_ascii().is_empty() { DeadLetterSelection::default() } else { json::parse(&body)? };
    let (mut after, mut redriven) = (None, 0);
    loop {
        let page = next_page(&state, number, &which, after).await?;
        let Some(last) = page.last().copied() else { break };
        after = Some(last);
        redriven += state.services.queue.redrive(page).await?;
    }
    Ok(Json(RedriveResponse { success: true, data: RedriveResult { redriven } }))
}

/// Forgets a dead letter and what it said; its fate can still be asked for.
#[utoipa::path(delete, path = "/instances/{id}/dead-letters/{message_id}", operation_id = "discard_dead_letter",
    tag = "dead letters", responses(
        (status = 200, description = "It is gone.", body = DiscardResponse),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is no dead letter.", body = ErrorBody),
    ))]
pub async fn discard(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    MessageIdPath(name): MessageIdPath,
) -> Result<Json<DiscardResponse>, ApiError> {
    let message = message::find_message(&state, &id, &name)?.id;
    match state.services.queue.discard(vec![message]).await? {
        0 => Err(not_a_dead_letter()),
        discarded => Ok(Json(DiscardResponse { success: true, data: DiscardResult { discarded } })),
    }
}

/// Forgets all dead letters that are meant.
#[utoipa::path(delete, path = "/instances/{id}/dead-letters", operation_id = "discard_dead_letters",
    tag = "dead letters", params(DeadLetterSelection), responses(
        (status = 200, description = "They are gone.", body = DiscardResponse),
        (status = 400, description = "The filter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn discard_all(
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(which): QueryParams<DeadLetterSelection>,
) -> Result<Json<DiscardResponse>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let (mut after, mut discarded) = (None, 0);
    loop {
        let page = next_page(&state, number, &which, after).await?;
        let Some(last) = page.last().copied() else { break };
        after = Some(last);
        discarded += state.services.queue.discard(page).await?;
    }
    Ok(Json(DiscardResponse { success: true, data: DiscardResult { discarded } }))
}

/// The next dead letters that are meant, behind `after`. Whoever goes on behind the last of them meets none twice, not
/// even one that dies again meanwhile.
async fn next_page(
    state: &AppState,
    instance: InstanceNumber,
    which: &DeadLetterSelection,
    after: Option<MessageId>,
) -> Result<Vec<MessageId>, ApiError> {
    let page = state.services.queue.dead_letters(instance, which.to_filter(), after, BATCH_SIZE).await?;
    Ok(page.iter().map(|letter| letter.view.id).collect())
}

fn not_a_dead_letter() -> ApiError {
    ApiError::new(ErrorKind::Conflict, "this message is no dead letter, or no longer; ask for its status")
}
