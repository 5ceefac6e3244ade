//! `GET /jobs/{job_id}/results`: the outcome of each row.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::csv::download_csv;
use crate::bulk::{RowResult, RowStatus};
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JobIdPath, QueryParams};
use crate::http::{AppState, page};
use relevo_domain::{Status, ValidationError};

/// The result of one row.
#[derive(Debug, Serialize, ToSchema)]
pub struct RowBody {
    /// The line of the file, from 1.
    pub(super) line: u32,
    pub(super) phone: String,
    /// `pending`, `queued`, `sent`, `delivered`, `read`, `played`, `failed`, `ambiguous`, `expired`, `cancelled`,
    /// `skipped` or `invalid`.
    #[schema(example = "delivered")]
    pub(super) status: &'static str,
    /// It is unknown whether it was sent.
    pub(super) ambiguous: bool,
    pub(super) timestamp: Option<String>,
    /// WhatsApp's id of the message.
    pub(super) provider_id: Option<String>,
    pub(super) error: Option<String>,
    /// The provider's error code.
    pub(super) code: Option<i64>,
    device_id: Option<u8>,
    pub(super) instance_id: Option<String>,
}

/// A page of results.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultsPage {
    success: bool,
    data: Vec<RowBody>,
    /// The `after` of the next page. Missing on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The query of results.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ResultsQuery {
    /// `json` (without it), or `csv` for everything at once.
    format: Option<String>,
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// The result of each row: a page as JSON, or all rows with `format=csv`.
#[utoipa::path(get, path = "/jobs/{job_id}/results", operation_id = "job_results", tag = "jobs", params(JobIdPath, ResultsQuery),
    responses(
        (status = 200, description = "A page, or a file.", content(
            (ResultsPage = "application/json"), (String = "text/csv"))),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such job.", body = ErrorBody),
    ))]
pub async fn results(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
    QueryParams(query): QueryParams<ResultsQuery>,
) -> Result<Response, ApiError> {
    match query.format.as_deref() {
        None | Some("json") => {
            let from = parse_cursor(query.after.as_deref())?;
            let from = u32::try_from(from).map_err(|_| ValidationError::new("after", "is past every row"))?;
            let limit = u32::try_from(page::validate_limit(query.limit)?).unwrap_or(u32::MAX);
            let page = state.services.bulk.results(id, from, limit).await?;
            let next = page.next.map(|next| next.to_string());
            let data = page.rows.into_iter().map(RowBody::from).collect();
            Ok(Json(ResultsPage { success: true, data, next }).into_response())
        }
        Some("csv") => download_csv(&state, id).await,
        Some(_) => Err(ValidationError::new("format", "must be json or csv").into()),
    }
}

/// # Errors
///
/// The cursor is invalid.
pub(super) fn parse_cursor(after: Option<&str>) -> Result<u64, ValidationError> {
    match after {
        None => Ok(0),
        Some(text) => {
            text.parse().map_err(|_| ValidationError::new("after", "must be the `next` of the page before"))
        }
    }
}

impl From<RowResult> for RowBody {
    fn from(row: RowResult) -> Self {
        Self {
            line: row.line,
            status: row_status(&row),
            phone: row.phone,
            ambiguous: row.ambiguous,
            timestamp: row.at.map(|at| at.to_string()),
            provider_id: row.provider_id.map(|id| id.to_string()),
            error: row.error,
            code: row.code,
            device_id: row.device_id,
            instance_id: row.instance.map(|instance| instance.to_string()),
        }
    }
}

/// The status of a row in the terms of a job: its messages are not dead letters that can be redriven.
fn row_status(row: &RowResult) -> &'static str {
    match row.status {
        RowStatus::Message(Status::DeadLetter) if row.ambiguous => Status::Ambiguous.as_str(),
        RowStatus::Message(Status::DeadLetter) => Status::Failed.as_str(),
        status => status.as_str(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn invalid_row(phone: &str, error: Option<&str>) -> RowResult {
        RowResult {
            row: 0,
            line: 2,
            phone: phone.to_owned(),
            status: RowStatus::Invalid,
            ambiguous: false,
            at: None,
            provider_id: None,
            error: error.map(str::to_owned),
            code: None,
            device_id: None,
            instance: None,
        }
    }

    #[test]
    fn dead_letter_row_is_failed_or_ambiguous() {
        let given_up = RowResult { status: RowStatus::Message(Status::DeadLetter), ..invalid_row("1", None) };
        assert_eq!(row_status(&given_up), "failed");
        assert_eq!(row_status(&RowResult { ambiguous: true, ..given_up }), "ambiguous");
        assert_eq!(row_status(&invalid_row("1", None)), "invalid");
    }
}
