//! The results of a job as a CSV download.

use axum::body::Body;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use uuid::Uuid;

use super::results::RowBody;
use crate::bulk::{self, RowResult};
use crate::http::AppState;
use crate::http::error::ApiError;

/// Rows read at once for a download.
const ROWS_PER_READ: u32 = 1_000;

/// The header row of the CSV.
const CSV_HEADER: &str = "line,phone,status,ambiguous,timestamp,provider_id,code,error,instance_id\r\n";

/// Streams all results, page by page, at the speed of the client.
///
/// # Errors
///
/// The first page of results cannot be read.
pub(super) async fn download_csv(state: &AppState, id: Uuid) -> Result<Response, ApiError> {
    // The first page is read before the response begins, so that an error can still be reported.
    let first = state.services.bulk.results(id, 0, ROWS_PER_READ).await?;
    let beginning = [Bytes::from_static(CSV_HEADER.as_bytes()), csv_lines(first.rows)];
    let handle = state.services.bulk.clone();
    let rest = stream::unfold(first.next, move |from| {
        let handle = handle.clone();
        async move {
            let page = handle.results(id, from?, ROWS_PER_READ).await;
            Some(match page {
                Ok(page) => (Ok(csv_lines(page.rows)), page.next),
                // The response is aborted, so that the client does not take it for complete.
                Err(error) => (Err(error), None),
            })
        }
    });
    let all = futures_util::StreamExt::chain(stream::iter(beginning.map(Ok::<_, bulk::Error>)), rest);
    let name = format!("attachment; filename=\"job-{id}.csv\"");
    let headers = [(CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(all)).into_response())
}

fn csv_lines(rows: Vec<RowResult>) -> Bytes {
    let mut writer = ::csv::WriterBuilder::new().terminator(::csv::Terminator::CRLF).from_writer(Vec::new());
    for row in rows.into_iter().map(RowBody::from) {
        // Writing to memory does not fail.
        let _ = writer.write_record([
            row.line.to_string(),
            escape_formula(row.phone),
            row.status.to_owned(),
            row.ambiguous.to_string(),
            row.timestamp.unwrap_or_default(),
            row.provider_id.unwrap_or_default(),
            row.code.map(|code| code.to_string()).unwrap_or_default(),
            escape_formula(row.error.unwrap_or_default()),
            row.instance_id.unwrap_or_default(),
        ]);
    }
    writer.into_inner().map(Bytes::from).unwrap_or_default()
}

/// Escapes cells that spreadsheets would run as formulas; the cells come from an uploaded file (OWASP, "CSV
/// Injection"). A telephone number with a plus is not escaped.
fn escape_formula(cell: String) -> String {
    let number = cell.strip_prefix('+').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    if !number && cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::jobs::results::tests::invalid_row as row;

    #[test]
    fn formula_cell_is_escaped() {
        let rows = vec![row("+51123123123", None), row("=cmd|' /C calc'!A0", Some("a \"b\", c"))];
        let text = String::from_utf8(csv_lines(rows).to_vec()).unwrap();
        assert_eq!(
            text,
            "2,+51123123123,invalid,false,,,,,\r\n2,'=cmd|' /C calc'!A0,invalid,false,,,,\"a \"\"b\"\", c\",\r\n"
        );
    }
}
