//! `/instances/{id}/dead-letters` and `/dead-letters`: messages that the node gave up, until somebody decides.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JsonBody, MessageName, QueryOf, Target};
use crate::http::moment::Moment;
use crate::http::page::{self, Page};
use crate::http::{AppState, json};
use crate::queue::{self, DeadFilter};
use relevo_domain::{BuryReason, ErrorKind, InstanceId, InstanceNumber, MessageId};

use super::message::{self, Message, MessageAnswer};

/// So many are redriven or discarded in one commit.
const AT_ONCE: usize = 200;

/// A dead letter: its story, what it said, and what can be done.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    #[schema(example = "shop")]
    instance_id: Option<String>,
    #[serde(flatten)]
    message: Message,
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
pub enum Reason {
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
pub struct Which {
    reason: Option<Reason>,
    /// Buried at this moment or later: RFC 3339 or Unix seconds.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    since: Option<Moment>,
    /// Buried before this moment.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    until: Option<Moment>,
}

/// Which dead letters to show.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    #[param(inline)]
    reason: Option<Reason>,
    /// Buried at this moment or later: RFC 3339 or Unix seconds.
    #[param(value_type = Option<String>)]
    since: Option<Moment>,
    /// Buried before this moment.
    #[param(value_type = Option<String>)]
    until: Option<Moment>,
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// How many were redriven.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedrivenAnswer {
    success: bool,
    data: Redriven,
}

#[derive(Debug, Serialize, ToSchema)]
struct Redriven {
    redriven: usize,
}

/// How many were discarded.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiscardedAnswer {
    success: bool,
    data: Discarded,
}

#[derive(Debug, Serialize, ToSchema)]
struct Discarded {
    discarded: usize,
}

impl From<Reason> for BuryReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Permanent => BuryReason::Permanent,
            Reason::Exhausted => BuryReason::Exhausted,
            Reason::Ambiguous => BuryReason::Ambiguous,
        }
    }
}

impl Which {
    fn filter(&self) -> DeadFilter {
        DeadFilter {
            reason: self.reason.map(BuryReason::from),
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
        }
    }
}

impl Wanted {
    /// The filter, the message behind which to begin, and how many to show.
    fn understood(self) -> Result<(DeadFilter, Option<MessageId>, usize), ApiError> {
        let which = Which { reason: self.reason, since: self.since, until: self.until };
        let after = self.after.as_deref().map(message::cursor).transpose()?;
        Ok((which.filter(), after, page::limit(self.limit)?))
    }
}

/// A dead letter with the name of its instance, unless that is gone.
type Named = (Option<InstanceId>, queue::DeadLetter);

impl From<Named> for DeadLetter {
    fn from((instance, letter): Named) -> Self {
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

fn cursor((_, letter): &Named) -> Option<String> {
    Some(letter.view.id.to_string())
}

/// Dead letters of an instance, in the order in which they were accepted.
#[utoipa::path(get, path = "/instances/{id}/dead-letters", operation_id = "list_dead_letters", tag = "dead letters",
    params(Wanted), responses(
        (status = 200, description = "A page of them.", body = Page<DeadLetter>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn of_instance(
    State(state): State<AppState>,
    Target(id): Target,
    QueryOf(wanted): QueryOf<Wanted>,
) -> Result<Json<Page<DeadLetter>>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let (filter, after, limit) = wanted.understood()?;
    let found = state.services.queue.dead_letters(number, filter, after, limit).await?;
    let named = found.into_iter().map(|letter| (Some(id.clone()), letter)).collect();
    Ok(Json(Page::of(named, limit, cursor)))
}

/// Dead letters of all instances: one instance after the other, in the order in which the instances were created.
#[utoipa::path(get, path = "/dead-letters", operation_id = "list_all_dead_letters", tag = "dead letters",
    params(Wanted), responses(
        (status = 200, description = "A page of them.", body = Page<DeadLetter>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn of_all(
    State(state): State<AppState>,
    QueryOf(wanted): QueryOf<Wanted>,
) -> Result<Json<Page<DeadLetter>>, ApiError> {
    let (filter, after, limit) = wanted.understood()?;
    let first = after.map(MessageId::instance);
    let mut instances: Vec<_> =
        state.services.instances.list().into_iter().map(|view| (view.number, view.config.id)).collect();
    instances.retain(|(number, _)| first.is_none_or(|first| *number >= first));
    instances.sort();
    let mut found: Vec<Named> = Vec::new();
    for (number, id) in instances {
        let behind = after.filter(|after| after.instance() == number);
        let missing = limit.saturating_sub(found.len());
        let page = state.services.queue.dead_letters(number, filter.clone(), behind, missing).await?;
        found.extend(page.into_iter().map(|letter| (Some(id.clone()), letter)));
        if found.len() >= limit {
            break;
        }
    }
    Ok(Json(Page::of(found, limit, cursor)))
}

/// Puts a dead letter back into its queue, with all its attempts before it. One whose outcome was unknown may arrive
/// twice.
#[utoipa::path(post, path = "/instances/{id}/dead-letters/{message_id}/redrive", operation_id = "redrive_dead_letter",
    tag = "dead letters", responses(
        (status = 200, description = "It is queued.", body = MessageAnswer),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is no dead letter.", body = ErrorBody),
    ))]
pub async fn redrive(
    State(state): State<AppState>,
    Target(id): Target,
    MessageName(name): MessageName,
) -> Result<Json<MessageAnswer>, ApiError> {
    let message = message::named(&state, &id, &name)?.id;
    match state.services.queue.redrive(vec![message]).await? {
        0 => Err(not_dead()),
        _ => message::shown(&state, &id, message),
    }
}

/// Puts all dead letters that are meant back into their queue.
#[utoipa::path(post, path = "/instances/{id}/dead-letters/redrive", operation_id = "redrive_dead_letters",
    tag = "dead letters", request_body = Option<Which>, responses(
        (status = 200, description = "They are queued.", body = RedrivenAnswer),
        (status = 400, description = "The filter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn redrive_all(
    State(state): State<AppState>,
    Target(id): Target,
    JsonBody(body): JsonBody,
) -> Result<Json<RedrivenAnswer>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let which: Which = if body.trim_ascii().is_empty() { Which::default() } else { json::parse(&body)? };
    let (mut after, mut redriven) = (None, 0);
    loop {
        let page = next_page(&state, number, &which, after).await?;
        let Some(last) = page.last().copied() else { break };
        after = Some(last);
        redriven += state.services.queue.redrive(page).await?;
    }
    Ok(Json(RedrivenAnswer { success: true, data: Redriven { redriven } }))
}

/// Forgets a dead letter and what it said; its fate can still be asked for.
#[utoipa::path(delete, path = "/instances/{id}/dead-letters/{message_id}", operation_id = "discard_dead_letter",
    tag = "dead letters", responses(
        (status = 200, description = "It is gone.", body = DiscardedAnswer),
        (status = 404, description = "No such instance, or no such message in it.", body = ErrorBody),
        (status = 409, description = "The message is no dead letter.", body = ErrorBody),
    ))]
pub async fn discard(
    State(state): State<AppState>,
    Target(id): Target,
    MessageName(name): MessageName,
) -> Result<Json<DiscardedAnswer>, ApiError> {
    let message = message::named(&state, &id, &name)?.id;
    match state.services.queue.discard(vec![message]).await? {
        0 => Err(not_dead()),
        discarded => Ok(Json(DiscardedAnswer { success: true, data: Discarded { discarded } })),
    }
}

/// Forgets all dead letters that are meant.
#[utoipa::path(delete, path = "/instances/{id}/dead-letters", operation_id = "discard_dead_letters",
    tag = "dead letters", params(Which), responses(
        (status = 200, description = "They are gone.", body = DiscardedAnswer),
        (status = 400, description = "The filter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn discard_all(
    State(state): State<AppState>,
    Target(id): Target,
    QueryOf(which): QueryOf<Which>,
) -> Result<Json<DiscardedAnswer>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let (mut after, mut discarded) = (None, 0);
    loop {
        let page = next_page(&state, number, &which, after).await?;
        let Some(last) = page.last().copied() else { break };
        after = Some(last);
        discarded += state.services.queue.discard(page).await?;
    }
    Ok(Json(DiscardedAnswer { success: true, data: Discarded { discarded } }))
}

/// The next dead letters that are meant, behind `after`. Whoever goes on behind the last of them meets none twice, not
/// even one that dies again meanwhile.
async fn next_page(
    state: &AppState,
    instance: InstanceNumber,
    which: &Which,
    after: Option<MessageId>,
) -> Result<Vec<MessageId>, ApiError> {
    let page = state.services.queue.dead_letters(instance, which.filter(), after, AT_ONCE).await?;
    Ok(page.iter().map(|letter| letter.view.id).collect())
}

fn not_dead() -> ApiError {
    ApiError::new(ErrorKind::Conflict, "this message is no dead letter, or no longer; ask for its status")
}
