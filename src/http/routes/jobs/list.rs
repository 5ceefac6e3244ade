//! `GET /jobs`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::dto::{Job, parse_status};
use crate::bulk::{JobKind, JobView, ListCursor, ListFilter};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::QueryParams;
use crate::http::{AppState, page};
use relevo_domain::{Timestamp, ValidationError};

/// The header with the cursor of the next page; the list itself is a bare array.
const NEXT_AFTER_HEADER: HeaderName = HeaderName::from_static("x-next-after");

/// The query of jobs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// `pending`, `processing`, `paused`, `completed`, `failed` or `cancelled`.
    status: Option<String>,
    /// `file` (without it), `list` for the broadcasts of `/api`, or `all`.
    kind: Option<String>,
    /// The `X-Next-After` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// Bulk jobs, newest first, as a bare array. `X-Next-After` is the `after` of the next page.
#[utoipa::path(get, path = "/jobs", operation_id = "list_jobs", tag = "jobs", params(JobQuery), responses(
    (status = 200, description = "A page.", body = Vec<Job>,
        headers(("X-Next-After" = String, description = "The `after` of the next page."))),
    (status = 400, description = "A parameter is wrong.", body = ErrorBody),
))]
pub async fn list(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    QueryParams(query): QueryParams<JobQuery>,
) -> Result<(HeaderMap, Json<Vec<Job>>), ApiError> {
    let limit = page::validate_limit(query.limit)?;
    let after = query.after.as_deref().map(parse_cursor).transpose()?;
    let found = state.services.bulk.list(&query.filter()?, after, limit)?;
    let mut headers = HeaderMap::new();
    let last = found.last().filter(|_| found.len() == limit).map(encode_cursor);
    headers
        .extend(last.and_then(|last| HeaderValue::try_from(last).ok()).map(|last| (NEXT_AFTER_HEADER, last)));
    Ok((headers, Json(found.into_iter().map(Job::from).collect())))
}

impl JobQuery {
    fn filter(&self) -> Result<ListFilter, ValidationError> {
        let kind = match self.kind.as_deref() {
            None | Some("file") => Some(JobKind::File),
            Some("list") => Some(JobKind::List),
            Some("all") => None,
            Some(_) => return Err(ValidationError::new("kind", "must be file, list or all")),
        };
        let unknown = "must be pending, processing, paused, completed, failed or cancelled";
        let named = |name| parse_status(name).ok_or_else(|| ValidationError::new("status", unknown));
        Ok(ListFilter { kind, status: self.status.as_deref().map(named).transpose()? })
    }
}

/// The time in milliseconds, a dash, and the job id.
fn encode_cursor(job: &JobView) -> String {
    format!("{}-{}", job.created_at.millis(), job.id.as_simple())
}

fn parse_cursor(text: &str) -> Result<ListCursor, ValidationError> {
    let parts = text.split_once('-').and_then(|(at, id)| {
        Some(ListCursor { created_at: Timestamp(at.parse().ok()?), id: Uuid::try_parse(id).ok()? })
    });
    parts.ok_or_else(|| ValidationError::new("after", "must be the X-Next-After of the page before"))
}
