//! What became of each row of a job.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::bulk::{self, RowError, RowResult, RowStatus};
use crate::http::AppState;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::extract::{JobIdPath, QueryParams};
use crate::http::page;
use relevo_domain::{Status, ValidationError};

/// Rows that are read at once for a download.
const ROWS_PER_READ: u32 = 1_000;

/// The head of a download.
const CSV_HEADER: &str = "line,phone,status,ambiguous,timestamp,provider_id,code,error,instance_id\r\n";

/// What became of one row.
#[derive(Debug, Serialize, ToSchema)]
pub struct RowBody {
    /// The line of the file, from 1.
    line: u32,
    phone: String,
    /// `pending`, `queued`, `sent`, `delivered`, `read`, `played`, `failed`, `ambiguous`, `expired`, `cancelled`,
    /// `skipped` or `invalid`.
    #[schema(example = "delivered")]
    status: &'static str,
    /// Nobody knows whether it was sent.
    ambiguous: bool,
    timestamp: Option<String>,
    /// WhatsApp's id of the message.
    provider_id: Option<String>,
    error: Option<String>,
    /// The provider's own code.
    code: Option<i64>,
    device_id: Option<u8>,
    instance_id: Option<String>,
}

/// A page of results.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultsPage {
    success: bool,
    data: Vec<RowBody>,
    /// Give it as `after` to go on. Not there on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Something that went wrong with a row.
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
    /// Give it as `after` for what comes next, now or later.
    next: String,
}

/// Which results, and in which form.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ResultsQuery {
    /// `json` (without it), or `csv` for everything at once.
    format: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// Which errors.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ErrorsQuery {
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 500; 50 without it.
    limit: Option<usize>,
}

/// What became of each row: a page as JSON, or with `format=csv` the whole as a download.
#[utoipa::path(get, path = "/jobs/{job_id}/results", operation_id = "job_results", tag = "jobs", params(ResultsQuery),
    responses(
        (status = 200, description = "A page of them, or a file.", content(
            (ResultsPage = "application/json"), (String = "text/csv"))),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such job.", body = ErrorBody),
    ))]
pub async fn results(
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
    QueryParams(wanted): QueryParams<ResultsQuery>,
) -> Result<Response, ApiError> {
    match wanted.format.as_deref() {
        None | Some("json") => {
            let from = parse_cursor(wanted.after.as_deref())?;
            let from = u32::try_from(from).map_err(|_| ValidationError::new("after", "is past every row"))?;
            let limit = u32::try_from(page::validate_limit(wanted.limit)?).unwrap_or(u32::MAX);
            let page = state.services.bulk.results(id, from, limit).await?;
            let next = page.next.map(|next| next.to_string());
            let data = page.rows.into_iter().map(RowBody::from).collect();
            Ok(Json(ResultsPage { success: true, data, next }).into_response())
        }
        Some("csv") => download_csv(&state, id).await,
        Some(_) => Err(ValidationError::new("format", "must be json or csv").into()),
    }
}

/// What went wrong, in the order in which it did: each error once, and what comes later behind `next`.
#[utoipa::path(get, path = "/jobs/{job_id}/errors", operation_id = "job_errors", tag = "jobs", params(ErrorsQuery),
    responses(
        (status = 200, description = "A page of them.", body = ErrorsPage),
        (status = 400, description = "A parameter is wrong.", body = ErrorBody),
        (status = 404, description = "No such job.", body = ErrorBody),
    ))]
pub async fn errors(
    State(state): State<AppState>,
    JobIdPath(id): JobIdPath,
    QueryParams(wanted): QueryParams<ErrorsQuery>,
) -> Result<Json<ErrorsPage>, ApiError> {
    let limit = u32::try_from(page::validate_limit(wanted.limit)?).unwrap_or(u32::MAX);
    let (errors, next) =
        state.services.bulk.errors(id, parse_cursor(wanted.after.as_deref())?, limit).await?;
    let data = errors.into_iter().map(ErrorRow::from).collect();
    Ok(Json(ErrorsPage { success: true, data, next: next.to_string() }))
}

fn parse_cursor(after: Option<&str>) -> Result<u64, ValidationError> {
    match after {
        None | Some("") => Ok(0),
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

/// Where a row stands, in the words of a job: its rows are no dead letters that somebody could redrive.
fn row_status(row: &RowResult) -> &'static str {
    match row.status {
        RowStatus::Message(Status::DeadLetter) if row.ambiguous => Status::Ambiguous.as_str(),
        RowStatus::Message(Status::DeadLetter) => Status::Failed.as_str(),
        status => status.as_str(),
    }
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

/// The whole, page by page, as fast as the caller takes it.
async fn download_csv(state: &AppState, id: Uuid) -> Result<Response, ApiError> {
    // The first page is read before the answer begins, so that an error can still be said.
    let first = state.services.bulk.results(id, 0, ROWS_PER_READ).await?;
    let beginning = [Bytes::from_static(CSV_HEADER.as_bytes()), csv_lines(&first.rows)];
    let handle = state.services.bulk.clone();
    let rest = stream::unfold(first.next, move |from| {
        let handle = handle.clone();
        async move {
            let page = handle.results(id, from?, ROWS_PER_READ).await;
            Some(match page {
                Ok(page) => (Ok(csv_lines(&page.rows)), page.next),
                // The answer breaks off, so that nobody takes it for the whole.
                Err(error) => (Err(error), None),
            })
        }
    });
    let all = futures_util::StreamExt::chain(stream::iter(beginning.map(Ok::<_, bulk::Error>)), rest);
    let name = format!("attachment; filename=\"job-{id}.csv\"");
    let headers = [(CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(all)).into_response())
}

fn csv_lines(rows: &[RowResult]) -> Bytes {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for row in rows {
        // Writing to memory does not fail.
        let _ = writer.write_record([
            row.line.to_string(),
            escape_formula(&row.phone),
            row_status(row).to_owned(),
            row.ambiguous.to_string(),
            row.at.map(|at| at.to_string()).unwrap_or_default(),
            row.provider_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            row.code.map(|code| code.to_string()).unwrap_or_default(),
            escape_formula(row.error.as_deref().unwrap_or_default()),
            row.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        ]);
    }
    writer.into_inner().map(Bytes::from).unwrap_or_default()
}

/// Spreadsheets run cells that begin like formulas; those came from whoever wrote the file (OWASP, "CSV Injection").
/// A telephone number with its plus is none.
fn escape_formula(cell: &str) -> String {
    let number = cell.strip_prefix('+').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    if !number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{cell}")
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(phone: &str, error: Option<&str>) -> RowResult {
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
        let given_up = RowResult { status: RowStatus::Message(Status::DeadLetter), ..row("1", None) };
        assert_eq!(row_status(&given_up), "failed");
        assert_eq!(row_status(&RowResult { ambiguous: true, ..given_up }), "ambiguous");
        assert_eq!(row_status(&row("1", None)), "invalid");
    }

    #[test]
    fn formula_cell_is_escaped() {
        let rows = [row("+51123123123", None), row("=cmd|' /C calc'!A0", Some("a \"b\", c"))];
        let text = String::from_utf8(csv_lines(&rows).to_vec()).unwrap();
        assert_eq!(
            text,
            "2,+51123123123,invalid,false,,,,,\r\n2,'=cmd|' /C calc'!A0,invalid,false,,,,\"a \"\"b\"\", c\",\r\n"
        );
    }
}
