//! `GET …/dead-letters`.

use axum::Json;
use axum::extract::State;

use super::dto::{DeadLetter, DeadLetterQuery, NamedDeadLetter, cursor};
use crate::http::AppState;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{QueryParams, TargetInstance};
use crate::http::page::PageResponse;
use relevo_domain::MessageId;

/// Dead letters of an instance, in the order in which they were accepted.
#[utoipa::path(get, path = "/instances/{id}/dead-letters", operation_id = "list_dead_letters", tag = "dead letters",
    params(TargetInstance, DeadLetterQuery), responses(
        (status = 200, description = "A page.", body = PageResponse<DeadLetter>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such instance.", body = ErrorBody),
    ))]
pub async fn list_for_instance(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    TargetInstance(id): TargetInstance,
    QueryParams(query): QueryParams<DeadLetterQuery>,
) -> Result<Json<PageResponse<DeadLetter>>, ApiError> {
    let number = state.services.instances.get(&id)?.number;
    let (filter, after, limit) = query.into_parts()?;
    let found = state.services.queue.dead_letters(number, filter, after, limit).await?;
    let named = found.into_iter().map(|letter| (Some(id.clone()), letter)).collect();
    Ok(Json(PageResponse::new(named, limit, cursor)))
}

/// Dead letters of all instances: one instance after the other, in the order in which the instances were created.
#[utoipa::path(get, path = "/dead-letters", operation_id = "list_all_dead_letters", tag = "dead letters",
    params(DeadLetterQuery), responses(
        (status = 200, description = "A page.", body = PageResponse<DeadLetter>),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
    ))]
pub async fn list_all(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(query): QueryParams<DeadLetterQuery>,
) -> Result<Json<PageResponse<DeadLetter>>, ApiError> {
    let (filter, after, limit) = query.into_parts()?;
    let first = after.map(MessageId::instance);
    let mut instances: Vec<_> =
        state.services.instances.list().into_iter().map(|view| (view.number, view.config.id)).collect();
    instances.retain(|(number, _)| first.is_none_or(|first| *number >= first));
    instances.sort();
    let mut found: Vec<NamedDeadLetter> = Vec::new();
    for (number, id) in instances {
        let page_after = after.filter(|after| after.instance() == number);
        let missing = limit.saturating_sub(found.len());
        let page = state.services.queue.dead_letters(number, filter.clone(), page_after, missing).await?;
        found.extend(page.into_iter().map(|letter| (Some(id.clone()), letter)));
        if found.len() >= limit {
            break;
        }
    }
    Ok(Json(PageResponse::new(found, limit, cursor)))
}
