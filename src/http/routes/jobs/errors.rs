//! `GET /jobs/{job_id}/errors`: the rows that failed.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::results::parse_cursor;
use crate::bulk::RowError;
use crate::http::access::{Access, scope};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JobIdPath, QueryParams};
use crate::http::{AppState, page};

/// The error of a row.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorRow {
    line: u32,
    phone: String,
    error: String,
    code: Option<i64>,
    ambiguous: bool,
    timestamp: String,
    device_id: Option<u8>,
    instance_id: Option<String>,
}

/// A page of errors.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorsPage {
    success: bool,
    data: Vec<ErrorRow>,
    /// The `after` of the next page, now or later.
    next: String,
}

/// The query of errors.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ErrorsQuery {
    /// The `next` of the page before.
    #[serde(default, deserialize_with = "page::after")]
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// The errors of a job in order of occurrence: each error once; later errors follow after `next`.
#[utoipa::path(get, path = "/jobs/{job_id}/errors", operation_id = "job_errors", tag = "jobs", params(JobIdPath, ErrorsQuery),
    responses(
        (status = 200, description = "A page.", body = ErrorsPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such job.", body = ErrorBody),
    ))]
pub async fn errors(
    _: Access<scope::Read>,
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
    QueryParams(query): QueryParams<ErrorsQuery>,
) -> Result<Json<ErrorsPage>, ApiError> {
    let limit = u32::try_from(page::validate_limit(query.limit)?).unwrap_or(u32::MAX);
    let (errors, next) = state.services.bulk.errors(id, parse_cursor(query.after.as_deref())?, limit).await?;
    let data = errors.into_iter().map(ErrorRow::from).collect();
    Ok(Json(ErrorsPage { success: true, data, next: next.to_string() }))
}

impl From<RowError> for ErrorRow {
    fn from(row: RowError) -> Self {
        Self {
            line: row.line,
            phone: row.phone,
            error: row.error,
            code: row.code,
            ambiguous: row.ambiguous,
            timestamp: row.at.to_string(),
            device_id: row.device_id,
            instance_id: row.instance.map(|instance| instance.to_string()),
        }
    }
}
